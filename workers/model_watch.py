"""Watches a model that was not to be had, and has what waits for it tried once it is.

A pause between two attempts grows while the model server is away, so that its end would be met up
to ``LENTIGO_WORKER_MAX_BACKOFF_S`` too late. Asking whether a model is ready costs the server
nothing and the record nothing, so that may be done every second.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gateway.errors import RecordUnavailable

log = logging.getLogger(__name__)

_PERIOD_S = 1.0


class ModelWatch:
    """Asks for models from a thread of its own, as long as one is awaited.

    Parameters
    ----------
    is_ready
        Whether a model answers; raises nothing.
    wake
        Has the work items of an analysis tried; may raise ``RecordUnavailable``.
    period_s
        Seconds between two questions.
    """

    def __init__(
        self,
        is_ready: Callable[[str], bool],
        wake: Callable[[str], object],
        *,
        period_s: float = _PERIOD_S,
    ) -> None:
        self._is_ready = is_ready
        self._wake = wake
        self._period_s = period_s
        self._lock = threading.Lock()
        self._awaited: dict[str, set[str]] = {}
        self._away: set[str] = set()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def await_model(self, model: str, analysis: str) -> None:
        """Wake an analysis once a model, which has just failed it, is away no more.

        A model that is ready and fails all the same is left to the pauses between attempts.
        """
        with self._lock:
            self._awaited.setdefault(model, set()).add(analysis)
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="model-watch", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                models = list(self._awaited)
                if not models:
                    self._thread = None
                    return
            for model in models:
                self._look(model)
            self._stop.wait(self._period_s)

    def _look(self, model: str) -> None:
        if not self._is_ready(model):
            self._away.add(model)
            return
        was_away = model in self._away
        self._away.discard(model)
        with self._lock:
            analyses = self._awaited.pop(model)
        if was_away:
            self._wake_all(model, analyses)

    def _wake_all(self, model: str, analyses: set[str]) -> None:
        for analysis in sorted(analyses):
            try:
                self._wake(analysis)
            except RecordUnavailable as exc:
                # Its pause ends by itself.
                log.warning("not woken: %s", exc, extra={"action": "model.not_woken"})
            else:
                log.info("the model %s is back", model, extra={"action": "model.back"})
