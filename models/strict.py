"""Plain values from JSON or TOML as typed dataclasses, strictly: nothing unknown, nothing missing.

A wrong threshold gives wrong answers in silence, so no value is guessed, converted or ignored.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class StrictError(ValueError):
    """A value does not fit its field; the message names the field."""


def build(kind: type[T], value: object, where: str) -> T:
    """Turn plain values into a dataclass.

    Parameters
    ----------
    kind
        Dataclass whose fields are bool, int, float, str, ``Literal``, tuples and dictionaries of
        these, other dataclasses, or unions. Of several dataclasses in a union the one is taken
        whose ``kind`` field, a ``Literal``, names the value's ``kind``. Integers are accepted for
        floats, lists for tuples.
    value
        Nested dictionaries, lists and scalars.
    where
        Name of the value in messages.

    Raises
    ------
    StrictError
        If a key is unknown or missing, a type is wrong, or the dataclass refuses its values with
        a ``ValueError``.
    """
    built: T = _build(kind, value, where)
    return built


def _build(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise StrictError(f"{where} must be a list")
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise StrictError(f"{where} must be an object")
        return {str(k): _build(arguments[1], item, f"{where}.{k}") for k, item in value.items()}
    if origin is typing.Literal:
        if value not in arguments:
            raise StrictError(f"{where} must be one of {list(arguments)}")
        return value
    if origin in (types.UnionType, typing.Union):
        return _build_union(arguments, value, where)
    return _build_scalar(kind, value, where)


def _build_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not type(None)]
    if len(kinds) == 1:
        return _build(kinds[0], value, where)
    named = {typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in kinds}
    found = value.get("kind") if isinstance(value, dict) else None
    if found not in named:
        raise StrictError(f"{where}.kind must be one of {sorted(named)}")
    return _build(named[found], value, where)


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise StrictError(f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind) if field.init}
    if set(value) != names:
        unknown, missing = sorted(set(value) - names), sorted(names - set(value))
        raise StrictError(f"{where}: unknown {unknown}, missing {missing}")
    values = {name: _build(hints[name], value[name], f"{where}.{name}") for name in names}
    try:
        return kind(**values)
    except StrictError:
        raise
    except ValueError as exc:
        raise StrictError(f"{where}: {exc}") from exc


def _build_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise StrictError(f"{where} must be {kind.__name__}, not {type(value).__name__}")
    return value
