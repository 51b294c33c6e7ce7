"""Keeps the rules in force: reads their file when it changes, and falls back on the last good ones.

A file is taken once two looks a second apart find the same content, so that one that is just being
written is not read by halves. What cannot be used raises an alarm and changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import pwd
import time
from collections.abc import Callable
from pathlib import Path

from gateway.delivery.routes import parse_routes
from gateway.errors import RuleFileRefused
from gateway.rules.reading import MAX_TEXT_BYTES, Site, read_rules
from gateway.rules.ruleset import BUILT_IN_TEXT, RuleSet
from gateway.store.engine import open_engine
from gateway.store.intake.closing import ClosingDesk
from gateway.store.intake.rulebook import Rulebook, built_in_rules

log = logging.getLogger(__name__)

BUILT_IN = "built-in"
_SETTLED_S = 1.0
_REREAD_S = 10.0


def load_file(path: Path, site: Site) -> RuleSet:
    """Return the rules of a file.

    Raises
    ------
    RuleFileRefused
        It cannot be read, or something in it cannot be used.
    """
    return read_rules(_text(path), site, name=path.name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
        return content.decode("utf-8").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    except OSError as exc:
        raise RuleFileRefused(f"cannot be read: {exc.strerror}", name=path.name) from exc
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise RuleFileRefused("not UTF-8", name=path.name, line=line) from exc


class RuleWatch:
    """Knows the rules in force.

    Parameters
    ----------
    file
        The rules of the site; None for the built-in ones.
    site
        What rules may name here.
    book
        Where versions are kept.
    """

    def __init__(
        self,
        file: Path | None,
        site: Site,
        book: Rulebook,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._site = site
        self._book = book
        self._monotonic = monotonic
        self._rules = built_in_rules()
        self._version: int | None = None
        self._is_started = False
        self._looked_at: tuple[object, ...] = ()
        self._read_at = 0.0
        self._settling: tuple[str, float] | None = None
        self._refused = ""

    def current(self) -> tuple[RuleSet, int | None]:
        """Return the rules in force and their version; None for the built-in ones.

        Raises
        ------
        RuleFileRefused
            At the first call: the file cannot be used, and there were never rules that could.
        RecordUnavailable
            The record does not answer.
        """
        if not self._is_started:
            self._start()
            self._is_started = True
        elif self._file is not None:
            self._look(self._file)
        return self._rules, self._version

    def _start(self) -> None:
        if self._file is None:
            newest = self._book.newest()
            if newest is not None and newest.text != BUILT_IN_TEXT:
                # The site took its file away: that is a change of rules too.
                self._version = self._book.adopt(built_in_rules(), source=BUILT_IN, actor=BUILT_IN)
            return
        try:
            self._adopt(self._file, load_file(self._file, self._site))
        except RuleFileRefused as exc:
            self._fall_back(self._file, exc)

    def _fall_back(self, file: Path, refusal: RuleFileRefused) -> None:
        newest = self._book.newest()
        if newest is None:
            raise refusal
        try:
            rules = (
                built_in_rules()
                if newest.text == BUILT_IN_TEXT
                else read_rules(newest.text, self._site, name=f"rules in force, no. {newest.id}")
            )
        except RuleFileRefused as exc:
            raise RuleFileRefused(f"{refusal}; and {exc}") from refusal
        self._rules, self._version = rules, newest.id
        self._refuse(file, refusal)

    def _adopt(self, file: Path, rules: RuleSet) -> None:
        self._version = self._book.adopt(rules, source=str(file), actor=_owner(file))
        self._rules = rules
        self._refused = ""
        log.info(
            "%d routing rules are in force",
            len(rules.rules),
            extra={"action": "rules.loaded", "version": self._version},
        )

    def _refuse(self, file: Path, refusal: RuleFileRefused) -> None:
        self._refused = str(refusal)
        log.error(
            "the routing rules cannot be used, those before stay in force: %s",
            refusal,
            extra={"action": "rules.refused"},
        )
        self._book.refuse(str(refusal), actor=_owner(file))

    def _look(self, file: Path) -> None:
        moment = self._monotonic()
        stamp = _stamp(file)
        is_changed = stamp != self._looked_at
        if not is_changed and self._settling is None and moment - self._read_at < _REREAD_S:
            return
        self._looked_at, self._read_at = stamp, moment
        try:
            text = _text(file)
        except RuleFileRefused as exc:
            if str(exc) != self._refused and self._is_settled(str(exc), moment):
                self._refuse(file, exc)
            return
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        if sha256 == self._rules.sha256:
            self._settling, self._refused = None, ""
        elif self._is_settled(sha256, moment):
            self._replace(file, text)

    def _replace(self, file: Path, text: str) -> None:
        try:
            self._adopt(file, read_rules(text, self._site, name=file.name))
        except RuleFileRefused as exc:
            if str(exc) != self._refused:
                self._refuse(file, exc)

    def _is_settled(self, content: str, moment: float) -> bool:
        """Return whether this was found before, at least a second ago."""
        if self._settling is None or self._settling[0] != content:
            self._settling = (content, moment)
            return False
        if moment - self._settling[1] < _SETTLED_S:
            return False
        self._settling = None
        return True


def check_at_start(record_url: str, file: Path | None, destinations: str) -> None:
    """Put the rules of the site in force before anything is received.

    A file that cannot be used leaves those before in force, with an alarm; where there are none,
    studies would be received and never closed.

    Parameters
    ----------
    file
        The rules of the site; None for the built-in ones.
    destinations
        As ``LENTIGO_DELIVERY_DESTINATION`` writes them.

    Raises
    ------
    RuleFileRefused
        The file cannot be used, and there were never rules that could.
    """
    engine = open_engine(record_url)
    try:
        site = Site.of(route.name for route in parse_routes(destinations))
        RuleWatch(file, site, Rulebook(engine)).current()
    finally:
        engine.dispose()


def _stamp(file: Path) -> tuple[object, ...]:
    try:
        status = file.stat()
    except OSError as exc:
        return (exc.errno,)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _owner(file: Path) -> str:
    """Return who owns the file: the trail should say whose rules these are."""
    try:
        return f"file of {pwd.getpwuid(file.stat().st_uid).pw_name}"[:64]
    except (OSError, KeyError):
        return "file"


class RuledClosing:
    """Closes studies by the rules in force."""

    def __init__(self, desk: ClosingDesk, watch: RuleWatch) -> None:
        self._desk = desk
        self._watch = watch

    def close_due_generations(self) -> int:
        """Close every study that is complete; return how many."""
        rules, version = self._watch.current()
        return self._desk.close_due(rules, version)
