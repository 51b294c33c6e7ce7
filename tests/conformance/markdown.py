"""Generated tables between markers in a Markdown file that is otherwise written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

_BLOCK = re.compile(r"(<!-- begin: (?P<name>[\w -]+) -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    text = re.sub(r"\s+", " ", str(value)).strip()
    return re.sub(r"``(.*?)``", r"`\1`", text).replace("|", "\\|")


def names_in(text: str) -> list[str]:
    """Return the names of the blocks, in order."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def fill(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return ``text`` with every block made anew.

    Raises
    ------
    KeyError
        A block is named for which there is no table.
    """
    return _BLOCK.sub(lambda match: match[1] + tables[match["name"]]() + "\n" + match[3], text)
