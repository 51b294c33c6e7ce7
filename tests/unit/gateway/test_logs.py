"""Log lines: JSON, tied to the work, and free of what exceptions and libraries would tell."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import _config

from gateway.logs import JsonFormatter, configure_logging, log_context


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Any]:
    """Configure logging into a file; yield a function that reads its lines."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {
        name: logging.getLogger(name).level
        for name in ("pydicom", "py.warnings", "pynetdicom", "celery.app.trace")
    }
    for handler in handlers:
        root.removeHandler(handler)
    configure_logging("tests", tmp_path)
    path = tmp_path / "tests.jsonl"
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    logging.captureWarnings(False)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


def test_line_has_the_sentence_and_its_action(lines: Any) -> None:
    logging.getLogger("gateway.x").info("done %d", 3, extra={"action": "x.done"})
    (line,) = lines()
    assert line["message"] == "done 3"
    assert (line["action"], line["level"], line["service"]) == ("x.done", "info", "tests")
    assert line["time"].endswith("+00:00")


def test_context_is_added_inside_and_gone_outside(lines: Any) -> None:
    logger = logging.getLogger("gateway.x")
    with log_context(work_item_id=7, analysis="diagnosis"):
        with log_context(attempt=2):
            logger.info("inside")
        logger.info("between")
    logger.info("outside")
    inside, between, outside = lines()
    assert (inside["work_item_id"], inside["analysis"], inside["attempt"]) == (7, "diagnosis", 2)
    assert "attempt" not in between
    assert "work_item_id" not in outside


def test_exception_is_told_by_kind_and_place_not_by_words(lines: Any) -> None:
    try:
        try:
            raise KeyError("Canary^Patient")
        except KeyError as exc:
            raise ValueError("Canary^Patient again") from exc
    except ValueError:
        logging.getLogger("gateway.x").exception("it failed")
    (line,) = lines()
    assert line["exception"] == "ValueError"
    assert "KeyError" in line["traceback"]
    assert any("test_logs.py" in place for place in line["traceback"])
    assert "Canary" not in json.dumps(line)


def test_libraries_that_quote_values_are_silent(lines: Any) -> None:
    for name in ("pydicom", "pynetdicom", "pynetdicom.assoc", "highdicom"):
        logging.getLogger(name).error("Canary^Patient")
    logging.getLogger("celery.app.trace").info("Canary^Patient")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Canary^Patient", stacklevel=1)
    logging.getLogger("gateway.x").info("end")
    assert [line["message"] for line in lines()] == ["end"]
    assert not _config.LOG_REQUEST_IDENTIFIERS
    assert not _config.LOG_RESPONSE_IDENTIFIERS


def test_configuring_twice_writes_each_line_once(lines: Any, tmp_path: Path) -> None:
    configure_logging("tests", tmp_path)
    logging.getLogger("gateway.x").info("once")
    assert len(lines()) == 1


def test_value_that_json_does_not_know_is_written_as_text() -> None:
    record = logging.makeLogRecord({"msg": "m", "levelname": "INFO", "path": Path("/a")})
    assert json.loads(JsonFormatter("s").format(record))["path"] == "/a"
