"""Every line of the log has an action: whoever filters the log must be able to name it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
_LOGGERS = {"log", "logger", "logging", "_log"}
_ACTION = re.compile(r"[a-z_]+(\.[a-z_]+)+")


def calls(source: str) -> list[ast.Call]:
    """Return the calls of a module that write to the log."""
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in _LOGGERS
    ]


def has_action(call: ast.Call, source: str) -> bool:
    """Whether a call names its action, itself or by a dictionary made before."""
    extra = next((each.value for each in call.keywords if each.arg == "extra"), None)
    if isinstance(extra, ast.Name):
        return f"{extra.id}: dict[str, Any] = {{" in source and '"action": "' in source
    if not isinstance(extra, ast.Dict):
        return False
    named = [
        value
        for key, value in zip(extra.keys, extra.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "action"
    ]
    return len(named) == 1 and (
        not isinstance(named[0], ast.Constant) or bool(_ACTION.fullmatch(str(named[0].value)))
    )


def test_every_log_call_names_its_action() -> None:
    found, missing = 0, []
    for folder in ("gateway", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            for call in calls(source):
                found += 1
                if not has_action(call, source):
                    missing.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert missing == []
    assert found > 40


@pytest.mark.parametrize(
    "call",
    ['log.info("x")', 'log.info("x", extra={"error": 1})', 'log.error("x", extra={"action": "X"})'],
)
def test_a_call_without_one_is_found(call: str) -> None:
    (found,) = calls(call)
    assert not has_action(found, call)
