"""Reads the conditions of a rule: its ``when``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.rules.conditions import (
    AllOf,
    AnyOf,
    AttributeTest,
    Compares,
    Condition,
    Exists,
    FieldTest,
    InNetwork,
    ItemTest,
    Matches,
    Negated,
    NotOf,
    OneOf,
    Operator,
)
from gateway.rules.patterns import Pattern, PatternError
from gateway.rules.vocabulary import (
    INSTANCE_FIELDS,
    NUMERIC_VRS,
    STUDY_FIELDS,
    TEMPORAL_VRS,
    UnknownWord,
    tag_of,
    uid_of,
    value_representation,
)

_MAX_DEPTH = 12
_OPERATORS = ("equals", "in", "matches", "greater", "less", "exists", "not")


class Fault(Exception):
    """Something in the rules cannot be used; ``words`` are where to look for it."""

    def __init__(self, message: str, *words: str) -> None:
        super().__init__(message)
        self.words = words


def read_conditions(table: object) -> Condition:
    """Return the condition that a table of conditions asks for; raises ``Fault``."""
    return _conditions(table, 0)


def _conditions(table: object, depth: int, *, in_item: bool = False) -> Condition:
    if not isinstance(table, dict):
        raise Fault("conditions are a table, e.g. { modality = 'XC' }", "when")
    if depth > _MAX_DEPTH:
        raise Fault(f"conditions are nested deeper than {_MAX_DEPTH}")
    found = tuple(_condition(key, value, depth, in_item) for key, value in table.items())
    return found[0] if len(found) == 1 else AllOf(found)


def _condition(key: str, value: Any, depth: int, in_item: bool) -> Condition:
    if key in ("any", "all"):
        if not isinstance(value, list) or not value:
            raise Fault(f"{key} needs a list of at least one table of conditions", key)
        parts = tuple(_conditions(_filled(each, key), depth + 1, in_item=in_item) for each in value)
        return AnyOf(parts) if key == "any" else AllOf(parts)
    if key == "not":
        return NotOf(_conditions(_filled(value, key), depth + 1, in_item=in_item))
    if key in STUDY_FIELDS and not in_item:
        return FieldTest(key, _operator(key, value, _number), is_of_study=True)
    if key in INSTANCE_FIELDS and not in_item:
        return FieldTest(key, _operator(key, value, _FIELD_READERS[key]), is_of_study=False)
    return _attribute(key, value, depth)


def _filled(table: object, key: str) -> object:
    if not isinstance(table, dict) or not table:
        raise Fault(f"{key} needs conditions: an empty one would say nothing", key)
    return table


def _attribute(key: str, value: Any, depth: int) -> Condition:
    try:
        path = tuple(tag_of(word) for word in key.split("."))
    except UnknownWord as exc:
        fields = (*INSTANCE_FIELDS, *STUDY_FIELDS, "any", "all", "not")
        is_field = re.fullmatch(r"[a-z_]+", key) is not None
        raise Fault(str(UnknownWord("field", key, fields) if is_field else exc), key) from exc
    for tag, word in zip(path[:-1], key.split("."), strict=False):
        if value_representation(tag) not in ("SQ", ""):
            raise Fault(f"{word} is no sequence, so nothing lies within it", key)
    if isinstance(value, dict) and set(value) in ({"any"}, {"all"}):
        if value_representation(path[-1]) not in ("SQ", ""):
            raise Fault(f"{key} is no sequence: any and all are for its items", key)
        word = next(iter(value))
        inner = _conditions(_filled(value[word], word), depth + 1, in_item=True)
        return ItemTest(path, key, inner, is_for_all=word == "all")
    vr = value_representation(path[-1])
    if vr == "SQ" and not (isinstance(value, dict) and set(value) <= {"exists"}):
        raise Fault(f"{key} is a sequence: it takes any, all or exists", key)
    operator = _operator(key, value, _AttributeReader(vr), shows=False)
    return AttributeTest(path, key, operator)


class _Reader(Protocol):
    """Checks one operand and returns what values are compared with."""

    def __call__(self, operand: object, key: str, /) -> str | int | float: ...


def _operator(key: str, value: Any, read: _Reader, *, shows: bool = True) -> Operator:
    """Return the operator of a value: a plain one means ``equals``, a list means ``in``."""
    if isinstance(value, list):
        value = {"in": value}
    elif not isinstance(value, dict):
        value = {"equals": value}
    if not value:
        raise Fault(f"{key} has no operator", key)
    for name in value:
        if name not in _OPERATORS:
            raise Fault(str(UnknownWord("operator", name, _OPERATORS)), key, name)
    found = [_one_operator(key, name, operand, read, shows) for name, operand in value.items()]
    if len(found) == 1:
        return found[0]
    return _Every(tuple(found))


@dataclass(frozen=True)
class _Every:
    """Several operators on one attribute: every one must pass."""

    operators: tuple[Operator, ...]

    @property
    def text(self) -> str:
        """How the rule names them."""
        return " and ".join(each.text for each in self.operators)

    def holds(self, values: Sequence[Any]) -> bool:
        """Return whether one and the same value passes them all."""
        singles = [[value] for value in values] or [[]]
        return any(all(each.holds(one) for each in self.operators) for one in singles)


def _one_operator(key: str, name: str, operand: Any, read: _Reader, shows: bool) -> Operator:
    text = f"{name} {_shown(operand)}" if shows else name
    if name == "not":
        return Negated(_operator(key, operand, read, shows=shows))
    if name == "exists":
        if not isinstance(operand, bool):
            raise Fault("exists is true or false", key, name)
        return Exists(operand, "exists" if operand else "does not exist")
    if name == "matches":
        return Matches(_pattern(key, operand), text)
    if name in ("greater", "less"):
        return Compares(_comparable(key, operand, read), name == "greater", text)
    operands = operand if name == "in" else [operand]
    if not isinstance(operands, list) or not operands:
        raise Fault(f"in needs a list of at least one value ({key})", key, name)
    if key == "source_address":
        return InNetwork(tuple(_network(each) for each in operands), text)
    return OneOf(tuple(read(each, key) for each in operands), text)


def _shown(operand: object) -> str:
    return str(operand)[:60] if not isinstance(operand, dict) else ""


def _pattern(key: str, operand: object) -> Pattern:
    if key in ("sop_class", "transfer_syntax", "source_address", *STUDY_FIELDS):
        raise Fault(f"{key} takes no pattern; use equals or in", key, "matches")
    if not isinstance(operand, str) or not operand:
        raise Fault("matches needs a pattern in quotes", key, "matches")
    try:
        return Pattern(operand)
    except PatternError as exc:
        raise Fault(f"the pattern of {key} cannot be used: {exc}", key, "matches") from exc


def _comparable(key: str, operand: object, read: _Reader) -> str | int | float:
    is_temporal = isinstance(read, _AttributeReader) and read.vr in TEMPORAL_VRS
    if is_temporal and isinstance(operand, str) and re.fullmatch(r"[0-9.]{2,26}", operand):
        return operand
    if isinstance(operand, bool) or not isinstance(operand, int | float):
        wanted = "a date or time as DICOM writes it, in quotes" if is_temporal else "a number"
        raise Fault(f"greater and less need {wanted} ({key})", key)
    if is_temporal or (key in INSTANCE_FIELDS):
        raise Fault(f"{key} cannot be compared with a number", key)
    return operand


def _number(operand: object, key: str) -> str | int | float:
    if isinstance(operand, bool) or not isinstance(operand, int):
        raise Fault(f"{key} is a whole number", key)
    return operand


def _modality(operand: object, key: str) -> str:
    if not isinstance(operand, str) or not re.fullmatch(r"[A-Z0-9_ ]{1,16}", operand):
        raise Fault("a modality is 1 to 16 capital letters or digits, e.g. 'XC'", key)
    return operand


def _ae_title(operand: object, key: str) -> str:
    if not isinstance(operand, str) or not 1 <= len(operand.strip()) <= 16:
        raise Fault(f"{key} is an AE title of 1 to 16 characters", key)
    return operand.strip()


def _network(operand: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(str(operand), strict=False)
    except ValueError as exc:
        raise Fault(
            "source_address is an address or a network, e.g. 10.1.2.0/24", "source_address"
        ) from exc


def _uid_reader(kind: str) -> _Reader:
    def read(operand: object, key: str, /) -> str:
        if not isinstance(operand, str):
            raise Fault(f"{key} is a name or a UID in quotes", key)
        try:
            return uid_of(operand, kind)
        except UnknownWord as exc:
            raise Fault(str(exc), operand, key) from exc

    return read


def _any_text(operand: object, key: str) -> str:
    if not isinstance(operand, str) or not operand:
        raise Fault(f"{key} needs a text in quotes", key)
    return operand


_FIELD_READERS: Mapping[str, _Reader] = {
    "modality": _modality,
    "sop_class": _uid_reader("SOP Class"),
    "transfer_syntax": _uid_reader("Transfer Syntax"),
    "calling_ae_title": _ae_title,
    "called_ae_title": _ae_title,
    "source_address": _any_text,
}


@dataclass(frozen=True)
class _AttributeReader:
    """Reads operands for an attribute of one VR; empty for a private one."""

    vr: str

    def __call__(self, operand: object, key: str, /) -> str | int | float:
        """Return a text or a number, whichever the VR can hold."""
        if isinstance(operand, bool) or not isinstance(operand, str | int | float):
            raise Fault(f"{key} needs a text in quotes or a number", key)
        if isinstance(operand, str) and self.vr in NUMERIC_VRS:
            raise Fault(f"{key} holds numbers; leave out the quotes", key)
        if operand == "":
            raise Fault(f"{key} is compared with nothing; use exists = false", key)
        return operand
