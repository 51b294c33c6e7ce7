"""The two engines: a seeded loop of our own, and atheris where it is installed.

Ours draws input of the right kind, mutates what it drew and what it kept, and counts. atheris
(libFuzzer) adds coverage: it starts from the same drawn input.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.byte_mutations import mutate
from tests.fuzz.target import Target

_SLOW_S = 1.0
_MAX_FINDINGS = 20


@dataclass(kw_only=True)
class Tried:
    """What a run over one target saw."""

    runs: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    findings: dict[str, bytes] = field(default_factory=dict)
    """Where and what, with one input that shows it."""
    counts: Counter[str] = field(default_factory=Counter)


def place_of(error: BaseException) -> str:
    """Return kind and place of an exception: the same fault found twice has the same name."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/gateway/" in frame.filename or "/workers/" in frame.filename
    ]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def run_random(target: Target, *, seed: int, runs: int = 0, seconds: float = 0.0) -> Tried:
    """Read drawn and mutated input, so many times or for so long.

    Parameters
    ----------
    seed
        The same seed gives the same inputs.
    """
    rng = Random(f"{target.name}:{seed}")
    tried, begun = Tried(), time.monotonic()
    drawn = b""
    while (not runs or tried.runs < runs) and (not seconds or tried.seconds < seconds):
        if tried.runs % 4 == 0:
            drawn = target.draw(rng)
        data = drawn if tried.runs % 4 == 0 else mutate(drawn, rng)
        _try(target, data, tried)
        tried.runs += 1
        tried.seconds = time.monotonic() - begun
        if len(tried.findings) >= _MAX_FINDINGS:
            break
    return tried


def _try(target: Target, data: bytes, tried: Tried) -> None:
    before = time.monotonic()
    try:
        target.read(data)
    except Exception as exc:  # what the search is for
        name = place_of(exc)
        tried.counts[name] += 1
        known = tried.findings.get(name)
        if known is None or len(data) < len(known):
            tried.findings[name] = data
    tried.slowest_s = max(tried.slowest_s, time.monotonic() - before)


def has_atheris() -> bool:
    """Whether atheris can be imported."""
    return importlib.util.find_spec("atheris") is not None


def run_atheris(target: Target, *, seconds: float, corpus: Path) -> None:
    """Let libFuzzer search until the time is up or something is found; does not return.

    Parameters
    ----------
    corpus
        Folder of inputs; what is found worth keeping is added to it.
    """
    import atheris  # type: ignore[import-not-found,unused-ignore]

    corpus.mkdir(parents=True, exist_ok=True)
    rng = Random(1)
    for number in range(200):
        (corpus / f"drawn-{number}").write_bytes(target.draw(rng))
    for name, module in list(sys.modules.items()):
        if name.startswith(target.instrument):
            for each in vars(module).copy().values():
                if getattr(each, "__module__", None) == name and hasattr(each, "__code__"):
                    with contextlib.suppress(Exception):  # what cannot be instrumented is left
                        atheris.instrument_func(each)

    def test_one_input(data: bytes) -> None:
        target.read(data)

    arguments = [
        sys.argv[0],
        f"-max_total_time={int(seconds)}",
        "-timeout=20",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup([*arguments, f"-artifact_prefix={corpus.parent}/", str(corpus)], test_one_input)
    atheris.Fuzz()
