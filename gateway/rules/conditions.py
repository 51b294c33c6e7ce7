"""Conditions of rules, and what they say of one instance of a study.

An answer comes with its reason: the condition as the rule names it, never a value that was found,
so that the reason may stand on a timeline.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydicom import Dataset
from pydicom.errors import BytesLengthException

from gateway.rules.patterns import Pattern

# What pydicom raises for a value that contradicts its VR; there is no common base class. A sequence
# that is none is an OSError, as if a file had ended.
_VALUE_FAULTS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error),
    *(NotImplementedError, EOFError, OSError, RuntimeError, UnicodeError),
    BytesLengthException,
)


class InstanceFacts(Protocol):
    """What can be asked of one instance."""

    def field(self, name: str) -> str:
        """Return what the record knows of it, by a name of ``vocabulary.INSTANCE_FIELDS``."""
        ...

    def header(self) -> Dataset:
        """Return its attributes; an empty data set where the file cannot be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a condition is asked about: one instance, and the study that it belongs to."""

    instance: InstanceFacts | None
    study: Mapping[str, int]
    """By the names of ``vocabulary.STUDY_FIELDS``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a condition holds, and which part of it decided."""

    holds: bool
    reason: str


class Condition(Protocol):
    """A part of a rule's ``when``."""

    @property
    def tags(self) -> frozenset[int]:
        """Attributes of the data set that it looks at."""
        ...

    def check(self, subject: Subject) -> Answer:
        """Return whether it holds, and why."""
        ...


# -- operators ----------------------------------------------------------------------------------

Values = Sequence[Any]


class Operator(Protocol):
    """A test of the values of one attribute or field."""

    @property
    def text(self) -> str:
        """How the rule names it, operand included."""
        ...

    def holds(self, values: Values) -> bool:
        """Return whether any of the values passes."""
        ...


_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 6.2, VR AS
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def _as_number(value: Any) -> float | None:
    """Return a value as a number, an age in years; None where it is none."""
    age = _AGE.fullmatch(value) if isinstance(value, str) else None
    if age is not None:
        return int(age[1]) * _YEARS[age[2]]
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _as_text(value: Any) -> str:
    return str(value).rstrip(" \0").lstrip(" ")


@dataclass(frozen=True)
class OneOf:
    """``equals`` and ``in``: a value is one of the operands, texts without padding."""

    operands: tuple[str | int | float, ...]
    text: str

    def holds(self, values: Values) -> bool:
        """Return whether any value is one of the operands."""
        return any(self._is_one(value) for value in values)

    def _is_one(self, value: Any) -> bool:
        return any(
            _as_text(value) == operand
            if isinstance(operand, str)
            else _as_number(value) == float(operand)
            for operand in self.operands
        )


@dataclass(frozen=True)
class Matches:
    """``matches``: a pattern fits a whole value, in bounded time."""

    pattern: Pattern
    text: str

    def holds(self, values: Values) -> bool:
        """Return whether the pattern fits any value."""
        return any(self.pattern.fits(_as_text(value)) for value in values)


@dataclass(frozen=True)
class Compares:
    """``greater`` and ``less``: of numbers, or of dates and times as DICOM writes them."""

    operand: str | int | float
    is_greater: bool
    text: str

    def holds(self, values: Values) -> bool:
        """Return whether any value lies on the right side."""
        return any(self._lies(value) for value in values)

    def _lies(self, value: Any) -> bool:
        if isinstance(self.operand, str):
            found = _as_text(value)
            return found > self.operand if self.is_greater else found < self.operand
        number = _as_number(value)
        if number is None:
            return False
        return number > self.operand if self.is_greater else number < self.operand


@dataclass(frozen=True)
class Exists:
    """``exists``: there is a value, or there is none."""

    is_wanted: bool
    text: str

    def holds(self, values: Values) -> bool:
        """Return whether there is a value where one is wanted."""
        return any(_as_text(value) for value in values) is self.is_wanted


@dataclass(frozen=True)
class InNetwork:
    """``equals`` and ``in`` of a network address."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    text: str

    def holds(self, values: Values) -> bool:
        """Return whether any address lies in one of the networks."""
        for value in values:
            try:
                address = ipaddress.ip_address(_as_text(value).partition("%")[0])
            except ValueError:
                continue
            mapped = getattr(address, "ipv4_mapped", None) or address
            if any(mapped in network for network in self.networks):
                return True
        return False


@dataclass(frozen=True)
class Negated:
    """``not``: none of the values passes; also when there is none."""

    operator: Operator

    @property
    def text(self) -> str:
        """How the rule names it."""
        return f"not {self.operator.text}"

    def holds(self, values: Values) -> bool:
        """Return whether no value passes."""
        return not self.operator.holds(values)


# -- conditions ---------------------------------------------------------------------------------


def _answer(is_held: bool, text: str) -> Answer:
    return Answer(is_held, text if is_held else f"not so: {text}")


@dataclass(frozen=True)
class FieldTest:
    """A field that the record knows."""

    name: str
    operator: Operator
    is_of_study: bool

    @property
    def tags(self) -> frozenset[int]:
        """Attributes of the data set that it looks at."""
        return frozenset()

    def check(self, subject: Subject) -> Answer:
        """Return whether the field passes."""
        values: Values
        if self.is_of_study:
            values = (subject.study[self.name],)
        else:
            found = subject.instance.field(self.name) if subject.instance is not None else ""
            values = (found,) if found else ()
        return _answer(self.operator.holds(values), f"{self.name} {self.operator.text}")


@dataclass(frozen=True)
class AttributeTest:
    """An attribute; of attributes within a sequence, those of every item count."""

    path: tuple[int, ...]
    name: str
    operator: Operator

    @property
    def tags(self) -> frozenset[int]:
        """Attributes of the data set that it looks at."""
        return frozenset(self.path[:1])

    def check(self, subject: Subject) -> Answer:
        """Return whether any of its values passes."""
        header = subject.instance.header() if subject.instance is not None else Dataset()
        values = [value for item in items_at(header, self.path[:-1]) for value in self._of(item)]
        return _answer(self.operator.holds(values), f"{self.name} {self.operator.text}")

    def _of(self, item: Dataset) -> Values:
        return values_of(item, self.path[-1])


@dataclass(frozen=True)
class ItemTest:
    """A sequence of which ``any`` or ``all`` items fulfil a condition of their own."""

    path: tuple[int, ...]
    name: str
    condition: Condition
    is_for_all: bool

    @property
    def tags(self) -> frozenset[int]:
        """Attributes of the data set that it looks at."""
        return frozenset(self.path[:1])

    def check(self, subject: Subject) -> Answer:
        """Return whether an item, or every one of at least one, fulfils the condition."""
        header = subject.instance.header() if subject.instance is not None else Dataset()
        answers = [
            self.condition.check(Subject(instance=_Item(item), study=subject.study)).holds
            for item in items_at(header, self.path)
        ]
        is_held = bool(answers) and (all(answers) if self.is_for_all else any(answers))
        return _answer(is_held, f"{self.name} {'all' if self.is_for_all else 'any'}")


@dataclass(frozen=True)
class _Item:
    """An item of a sequence, asked like an instance."""

    ds: Dataset

    def field(self, name: str) -> str:
        return ""

    def header(self) -> Dataset:
        return self.ds


@dataclass(frozen=True)
class AllOf:
    """Every condition holds; also where there is none."""

    conditions: tuple[Condition, ...]

    @property
    def tags(self) -> frozenset[int]:
        """Attributes of the data set that it looks at."""
        return frozenset().union(*(each.tags for each in self.conditions))

    def check(self, subject: Subject) -> Answer:
        """Return whether all hold; the first that does not is the reason."""
        reasons = []
        for condition in self.conditions:
            answer = condition.check(subject)
            if not answer.holds:
                return answer
            reasons.append(answer.reason)
        return Answer(True, ", ".join(reasons) or "no condition")


@dataclass(frozen=True)
class AnyOf:
    """At least one condition holds."""

    conditions: tuple[Condition, ...]

    @property
    def tags(self) -> frozenset[int]:
        """Attributes of the data set that it looks at."""
        return frozenset().union(*(each.tags for each in self.conditions))

    def check(self, subject: Subject) -> Answer:
        """Return whether one holds; it is the reason."""
        reasons = []
        for condition in self.conditions:
            answer = condition.check(subject)
            if answer.holds:
                return answer
            reasons.append(answer.reason)
        return Answer(False, "; ".join(reasons))


@dataclass(frozen=True)
class NotOf:
    """A condition does not hold."""

    condition: Condition

    @property
    def tags(self) -> frozenset[int]:
        """Attributes of the data set that it looks at."""
        return self.condition.tags

    def check(self, subject: Subject) -> Answer:
        """Return whether the condition does not hold."""
        answer = self.condition.check(subject)
        return Answer(not answer.holds, answer.reason)


# -- attributes ---------------------------------------------------------------------------------


def items_at(ds: Dataset, path: Sequence[int]) -> list[Dataset]:
    """Return every item that a path of sequences leads to; ``ds`` itself for an empty path."""
    found = [ds]
    for tag in path:
        found = [
            item
            for each in found
            for item in _raw_values(each, tag, lambda element: element.VR == "SQ")
            if isinstance(item, Dataset)
        ]
    return found


def values_of(ds: Dataset, tag: int) -> Values:
    """Return the values of an attribute; none where it is absent, empty, binary or damaged."""
    return _raw_values(ds, tag, lambda element: element.VR not in ("OB", "OW", "OF", "OD", "UN"))


def _raw_values(ds: Dataset, tag: int, wanted: Callable[[Any], bool]) -> Values:
    try:
        if tag not in ds:
            return ()
        element = ds[tag]
        if not wanted(element) or element.value is None:
            return ()
        value = element.value
        if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
            return (value,)
        return tuple(value) if element.VR == "SQ" or element.VM > 1 else (value,)
    except _VALUE_FAULTS:
        return ()
