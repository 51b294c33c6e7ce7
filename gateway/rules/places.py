"""Where a rule, and a word of it, stands in a file of TOML."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"\s*\[\[\s*(?:rule|\"rule\"|'rule')\s*\]\]")


class Places:
    r"""Line numbers of a text that ``tomllib`` has read; 1-based, 0 where nothing is found.

    Examples
    --------
    >>> places = Places("[[rule]]\nname = 'a'\n[[rule]]\nname = 'b'\n")
    >>> places.line_of_rule(1), places.line_in_rule(1, ("name",))
    (3, 4)
    """

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._starts = [
            number for number in _outside_texts(self._lines) if _HEADER.match(self._lines[number])
        ]

    def line_of_rule(self, index: int) -> int:
        """Return the line of the n-th ``[[rule]]``, counted from 0."""
        return self._starts[index] + 1 if index < len(self._starts) else 0

    def line_in_rule(self, index: int, words: Sequence[str]) -> int:
        """Return the first line of a rule that holds one of the words, else its own line."""
        if index >= len(self._starts):
            return self._find(0, len(self._lines), words)
        start = self._starts[index]
        following = self._starts[index + 1 : index + 2]
        end = following[0] if following else len(self._lines)
        return self._find(start, end, words) or start + 1

    def line_in_head(self, words: Sequence[str]) -> int:
        """Return the first line of the file that holds one of the words."""
        return self._find(0, len(self._lines), words)

    def _find(self, start: int, end: int, words: Sequence[str]) -> int:
        for word in words:
            wanted = re.compile(rf"(?<![\w]){re.escape(word)}(?![\w])")
            for number in range(start, end):
                if wanted.search(self._lines[number].partition("#")[0]):
                    return number + 1
        return 0


def _outside_texts(lines: Sequence[str]) -> list[int]:
    """Return the numbers of the lines that begin outside a text of several lines."""
    found, closing = [], ""
    for number, line in enumerate(lines):
        if not closing:
            found.append(number)
        rest = line
        while rest:
            if closing:
                _, ended, rest = rest.partition(closing)
                closing = "" if ended else closing
                continue
            opened = re.search(r"'''|\"\"\"|#|'[^']*'|\"(?:\\.|[^\"\\])*\"", rest)
            if opened is None or opened[0] == "#":
                break
            closing = opened[0] if opened[0] in ("'''", '"""') else ""
            rest = rest[opened.end() :]
    return found
