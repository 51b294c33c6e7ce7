"""Regular expressions that end in time: a pattern is simulated state by state, never by trying.

A backtracking engine needs time exponential in the text for some patterns, and both the pattern
(of a site) and the text (of any sender) are not ours. Here a text of n characters takes at most n
times the number of states of the pattern (Thompson, CACM 11:419, 1968). What cannot be done that
way, back-references and look-around, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

MAX_PATTERN_CHARACTERS = 256
MAX_TEXT_CHARACTERS = 1024
"""A longer value matches nothing: longer than any VR that is worth a pattern (PS3.5 6.2)."""
_MAX_STATES = 600
_MAX_REPEAT = 200
_MAX_DEPTH = 40

_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda each: each.isalnum() or each == "_",
    "s": str.isspace,
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}

_Test = Callable[[str], bool]


class PatternError(ValueError):
    """A pattern cannot be read, or asks for what cannot be done in bounded time."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position + 1} of the pattern)")


@dataclass(slots=True)
class _State:
    """Takes one character that passes ``test``, or, without one, goes on to all of ``next``."""

    test: _Test | None = None
    next: list[int] = field(default_factory=list)


class Pattern:
    r"""A pattern that must fit a whole text.

    It knows ``. | ( ) (?: ) [ ] [^ ] * + ? {m,n}``, lazy forms of these, ``\d \w \s`` and their
    negations, and ``(?i)`` in front. ``^`` in front and ``$`` at the end say what holds anyway.

    Raises
    ------
    PatternError
        It cannot be read, or would be too large.

    Examples
    --------
    >>> Pattern("(?i)derm.*").fits("Dermatology")
    True
    >>> Pattern("(a+)+b").fits("a" * 1000)
    False
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise PatternError(
                f"a pattern has at most {MAX_PATTERN_CHARACTERS} characters", len(text) - 1
            )
        self.text = text
        reader = _Reader(text)
        self._states = reader.states
        self._start, self._end = reader.read()
        self._folds = reader.folds

    def fits(self, text: str) -> bool:
        """Return whether the pattern fits all of ``text``."""
        if len(text) > MAX_TEXT_CHARACTERS:
            return False
        current = self._closure([self._start])
        for character in text:
            forms = {character, character.lower(), character.upper()} if self._folds else None
            reached = [
                self._states[number].next[0]
                for number in current
                if _passes(self._states[number].test, character, forms)
            ]
            current = self._closure(reached)
            if not current:
                return False
        return self._end in current

    def _closure(self, numbers: list[int]) -> set[int]:
        """Every state that is reached from ``numbers`` without a character."""
        found, waiting = set(numbers), list(numbers)
        while waiting:
            state = self._states[waiting.pop()]
            if state.test is None:
                fresh = [number for number in state.next if number not in found]
                found.update(fresh)
                waiting += fresh
        return found


def _passes(test: _Test | None, character: str, forms: set[str] | None) -> bool:
    if test is None:
        return False
    return test(character) if forms is None else any(test(each) for each in forms)


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a pattern that can be built into states, several times over."""

    build: Callable[[], tuple[int, int]]


class _Reader:
    """Reads a pattern by recursive descent and builds its states."""

    def __init__(self, text: str) -> None:
        self.states: list[_State] = []
        self.folds = text.startswith("(?i)")
        self._text = text
        self._position = 4 if self.folds else 0
        self._depth = 0

    def read(self) -> tuple[int, int]:
        """Return the first and the last state of the whole pattern."""
        if self._peek() == "^":
            self._position += 1
        node = self._alternatives()
        if self._position < len(self._text):
            raise self._error("unbalanced )")
        return node.build()

    # -- reading ----------------------------------------------------------------------------

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _take(self, what: str) -> bool:
        if not self._text.startswith(what, self._position):
            return False
        self._position += len(what)
        return True

    def _error(self, message: str) -> PatternError:
        return PatternError(message, min(self._position, max(len(self._text) - 1, 0)))

    def _alternatives(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error("groups are nested too deeply")
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        self._depth -= 1
        return branches[0] if len(branches) == 1 else _Node(lambda: self._build_either(branches))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            if self._peek() == "$" and self._position == len(self._text) - 1:
                self._position += 1
                break
            parts.append(self._repeated(self._atom()))
        return _Node(lambda: self._build_row(parts))

    def _atom(self) -> _Node:
        character = self._peek()
        if self._take("("):
            if self._take("?") and not self._take(":"):
                raise self._error("only (?: ) is known of the forms that begin with (?")
            node = self._alternatives()
            if not self._take(")"):
                raise self._error("a ( is not closed")
            return node
        if character in "*+?{":
            raise self._error(f"nothing stands before {character}")
        if character in "^$":
            raise self._error(f"{character} within a pattern; one fits whole values anyway")
        if self._take("["):
            return self._one(self._set())
        self._position += 1
        if character == ".":
            return self._one(lambda each: each != "\n")
        if character == "\\":
            return self._one(self._escaped())
        return self._one(_is(character))

    def _escaped(self) -> _Test:
        letter = self._peek()
        if not letter:
            raise self._error("nothing stands behind \\")
        self._position += 1
        if letter.lower() in _CLASSES:
            test = _CLASSES[letter.lower()]
            return test if letter.islower() else (lambda each: not test(each))
        if letter.isalnum() and letter not in _CONTROLS:
            self._position -= 1
            raise self._error(f"\\{letter} is not known")
        return _is(_CONTROLS.get(letter, letter))

    def _set(self) -> _Test:
        is_negated = self._take("^")
        tests: list[_Test] = []
        while not self._take("]") or not tests:
            if not self._peek():
                raise self._error("a [ is not closed")
            if self._text[self._position - 1] == "]" and not tests:
                tests.append(_is("]"))  # the first one stands for itself
                continue
            tests.append(self._set_member())
        if is_negated:
            return lambda each: not any(test(each) for test in tests)
        return lambda each: any(test(each) for test in tests)

    def _set_member(self) -> _Test:
        low = self._peek()
        self._position += 1
        if low == "\\":
            if self._peek().lower() in _CLASSES:
                return self._escaped()
            low = self._literal()
        ahead = self._text[self._position : self._position + 2]
        if not ahead.startswith("-") or ahead in ("-", "-]"):
            return _is(low)
        self._position += 1
        high = self._peek()
        self._position += 1
        if high == "\\":
            high = self._literal()
        if high < low:
            raise self._error(f"the range {low}-{high} is empty")
        return lambda each: low <= each <= high

    def _literal(self) -> str:
        letter = self._peek()
        if not letter or (letter.isalnum() and letter not in _CONTROLS):
            raise self._error(f"\\{letter} is not known here")
        self._position += 1
        return _CONTROLS.get(letter, letter)

    def _repeated(self, node: _Node) -> _Node:
        least, most = self._bounds()
        if (least, most) == (1, 1):
            return node
        self._take("?")  # lazy: which one is found first does not matter for a whole text
        if self._peek() and self._peek() in "*+?{":
            raise self._error("a repetition of a repetition needs a group")
        return _Node(lambda: self._build_repeat(node, least, most))

    def _bounds(self) -> tuple[int, int | None]:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        if not self._take("{"):
            return 1, 1
        end = self._text.find("}", self._position)
        low, comma, high = self._text[self._position : max(end, 0)].partition(",")
        if end < 0 or not all(each.isascii() and each.isdigit() for each in (low, high) if each):
            raise self._error("a repetition is written {m}, {m,} or {m,n}")
        if not low and not high:
            raise self._error("a repetition is written {m}, {m,} or {m,n}")
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
            raise self._error(f"a repetition goes from m to n, at most {_MAX_REPEAT}")
        self._position = end + 1
        return least, most

    # -- building ---------------------------------------------------------------------------

    def _new(self, test: _Test | None = None) -> int:
        if len(self.states) >= _MAX_STATES:
            raise self._error("the pattern is too large when its repetitions are written out")
        self.states.append(_State(test))
        return len(self.states) - 1

    def _one(self, test: _Test) -> _Node:
        def build() -> tuple[int, int]:
            first, last = self._new(test), self._new()
            self.states[first].next.append(last)
            return first, last

        return _Node(build)

    def _build_row(self, parts: list[_Node]) -> tuple[int, int]:
        first = last = self._new()
        for part in parts:
            start, end = part.build()
            self.states[last].next.append(start)
            last = end
        return first, last

    def _build_either(self, branches: list[_Node]) -> tuple[int, int]:
        first, last = self._new(), self._new()
        for branch in branches:
            start, end = branch.build()
            self.states[first].next.append(start)
            self.states[end].next.append(last)
        return first, last

    def _build_repeat(self, node: _Node, least: int, most: int | None) -> tuple[int, int]:
        first = last = self._new()
        for _ in range(least):
            last = self._link(last, node)
        if most is None:
            entry = self._new()
            self.states[last].next.append(entry)
            again = self._link(entry, node)
            self.states[again].next.append(entry)
            return first, entry
        exits = [last]
        for _ in range(most - least):
            last = self._link(last, node)
            exits.append(last)
        end = self._new()
        for each in exits:
            self.states[each].next.append(end)
        return first, end

    def _link(self, last: int, node: _Node) -> int:
        start, end = node.build()
        self.states[last].next.append(start)
        return end


def _is(wanted: str) -> _Test:
    return lambda each: each == wanted
