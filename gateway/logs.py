"""JSON lines on stderr and in a file; what a line says about a study is internal ids.

No line may hold an attribute value of a patient: our own code logs sentences with an ``action``,
and the libraries that are talkative about content are silenced here.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import json
import logging
import logging.handlers
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pynetdicom import _config as pynetdicom_config

_FIELDS: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("log_fields", default={})  # noqa: B039 - never mutated, always replaced

# Attributes of every LogRecord; whatever else a record has came in through ``extra``.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}

_QUIET = {
    "pynetdicom": logging.CRITICAL,
    # pydicom quotes the values it wonders about, as log lines and as warnings.
    "pydicom": logging.CRITICAL,
    "highdicom": logging.CRITICAL,
    "py.warnings": logging.CRITICAL,
    "amqp": logging.WARNING,
    "kombu": logging.WARNING,
    "alembic": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "PIL": logging.WARNING,
    # Celery's tracer writes each task's arguments and result at INFO; it has none of ours, but the
    # sentences of the steps say more.
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.WARNING,
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, logger, message, action and context."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; values that JSON does not know are written as text."""
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_FIELDS.get(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["traceback"] = _places(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _places(exc_info: Any) -> list[str]:
    """Return where it happened, cause by cause, without the exceptions' texts.

    The text of a third party's exception can quote values of the study that was being read.
    """
    places: list[str] = []
    exception: BaseException | None = exc_info[1]
    while exception is not None and len(places) < 100:
        places.append(type(exception).__name__)
        places += [
            f"  {frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(exception.__traceback__)
        ]
        exception = exception.__cause__ or exception.__context__
    return places


@contextlib.contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields to every line that is logged inside; ids and names of ours only.

    Examples
    --------
    >>> with log_context(work_item_id=7, analysis="diagnosis"):
    ...     pass
    """
    token = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def configure_logging(service: str, folder: Path | None = None) -> None:
    """Send the lines of this process to stderr and, with ``folder``, to ``FOLDER/SERVICE.jsonl``.

    Call it once, at the start of a process; calling it again replaces the handlers.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(
            # Several processes write the same file: it follows a rotation from outside.
            logging.handlers.WatchedFileHandler(
                folder / f"{service}.jsonl", encoding="utf-8", delay=True
            )
        )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(JsonFormatter(service))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    # pynetdicom logs the identifiers of queries at INFO unless told otherwise.
    pynetdicom_config.LOG_HANDLER_LEVEL = "none"
    pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
    pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False
    logging.captureWarnings(True)
