"""Reads rules from TOML; whatever is wrong is refused with its line and its reason.

``tomllib`` tells where a syntax error is, and not where a key stood; ``Places`` finds that again.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import RuleFileRefused
from gateway.rules.conditions import AllOf
from gateway.rules.places import Places
from gateway.rules.plan import URGENCIES
from gateway.rules.ruleset import EVERY, SOME, Actions, Expected, Rule, RuleSet
from gateway.rules.vocabulary import (
    NUMERIC_VRS,
    UnknownWord,
    known_analyses,
    tag_of,
    value_representation,
)
from gateway.rules.when import Fault, read_conditions

MAX_TEXT_BYTES = 1024 * 1024
MAX_RULES = 500
_MAX_NAME = 64
_LONGEST_S = 30 * 24 * 3600.0

_RULE_KEYS = ("name", "when", "then", "scope", "last")
_ACTION_KEYS = (
    *("run", "only", "skip", "destinations", "quiet_window_s", "expect_instances"),
    *("expect_series", "close_at_association_end", "priority", "deadline_s", "hold", "ignore"),
    "reason",
)


@dataclass(frozen=True, kw_only=True)
class Site:
    """What rules may name at this installation."""

    analyses: frozenset[str]
    destinations: tuple[str, ...]
    """Names of the configured routes, e.g. ``PACS@pacs.local:104``."""

    @classmethod
    def of(cls, destinations: Iterable[str]) -> Site:
        """Return the installation with the analyses that are installed on this host."""
        return cls(analyses=known_analyses(), destinations=tuple(destinations))

    def destination(self, word: str) -> str:
        """Return the name of the route that a rule calls by its name or its AE title alone."""
        if word in self.destinations:
            return word
        by_title = [name for name in self.destinations if name.partition("@")[0] == word]
        if len(by_title) == 1:
            return by_title[0]
        if by_title:
            raise Fault(f"destination {word!r} could be {' or '.join(by_title)}", word)
        known = ", ".join(self.destinations) or "none"
        raise Fault(f"unknown destination {word!r}; configured are: {known}", word)


def read_rules(text: str, site: Site, *, name: str = "") -> RuleSet:
    """Read a file of rules.

    Parameters
    ----------
    text
        Its content.
    site
        What it may name.
    name
        Name of the file, for messages.

    Raises
    ------
    RuleFileRefused
        Something in it cannot be used; nothing of it may be.
    """
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise RuleFileRefused(f"more than {MAX_TEXT_BYTES} bytes", name=name)
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _syntax(str(exc), text, name) from exc
    except RecursionError as exc:
        raise RuleFileRefused("values are nested too deeply", name=name) from exc
    places = Places(text)
    try:
        rules = _rules(plain, site, places, name)
    except Fault as exc:
        line = places.line_in_head(exc.words)
        raise RuleFileRefused(str(exc), name=name, line=line) from exc
    return RuleSet(rules=rules, text=text)


def _syntax(message: str, text: str, name: str) -> RuleFileRefused:
    found = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", message)
    if found is None:
        return RuleFileRefused(f"not TOML: {message}", name=name)
    lines = text.splitlines() or [""]
    return RuleFileRefused(
        f"not TOML: {message[: found.start()].strip()}",
        name=name,
        line=int(found[1] or len(lines)),
        column=int(found[2] or len(lines[-1]) + 1),
    )


def _rules(plain: Mapping[str, Any], site: Site, places: Places, name: str) -> tuple[Rule, ...]:
    _known_keys(plain, ("rule",), "at the top of the file")
    tables = plain.get("rule")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise Fault("there is no rule: each begins with a line [[rule]]", "rule")
    if not tables:
        raise Fault("the list of rules is empty", "rule")
    if len(tables) > MAX_RULES:
        raise Fault(f"more than {MAX_RULES} rules", "rule")
    rules: list[Rule] = []
    names: set[str] = set()
    for index, table in enumerate(tables):
        try:
            rule = _rule(table, site, places.line_of_rule(index))
            if rule.name in names:
                raise Fault(f"two rules are named {rule.name!r}", rule.name)
        except Fault as exc:
            raise RuleFileRefused(
                str(exc),
                name=name,
                line=places.line_in_rule(index, exc.words),
                rule=str(table.get("name", "")) or f"number {index + 1}",
            ) from exc
        names.add(rule.name)
        rules.append(rule)
    return tuple(rules)


def _known_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise Fault(f"{UnknownWord('key', key, known)} {where}", key)


def _rule(table: Mapping[str, Any], site: Site, line: int) -> Rule:
    _known_keys(table, _RULE_KEYS, "in a rule")
    name = table.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > _MAX_NAME:
        raise Fault(f"a rule needs a name of 1 to {_MAX_NAME} characters", "name")
    if not name.isprintable():
        raise Fault("the name of a rule must be printable", "name")
    scope = table.get("scope", SOME)
    if scope not in (SOME, EVERY):
        raise Fault(f"scope is {SOME!r} or {EVERY!r}", "scope")
    is_last = table.get("last", False)
    if not isinstance(is_last, bool):
        raise Fault("last is true or false", "last")
    when = table.get("when", {})
    if "when" in table and not when:
        raise Fault("when is empty; leave it out for a rule that always matches", "when")
    if not isinstance(table.get("then"), dict) or not table["then"]:
        raise Fault("a rule needs a then that asks for something", "then")
    return Rule(
        name=name,
        condition=read_conditions(when) if when else AllOf(()),
        actions=_actions(table["then"], site),
        scope=scope,
        is_last=is_last,
        line=line,
    )


# -- then -----------------------------------------------------------------------------------


def _actions(table: Mapping[str, Any], site: Site) -> Actions:
    _known_keys(table, _ACTION_KEYS, "in then")
    reason = table.get("reason", "")
    if not isinstance(reason, str) or len(reason) > 200 or not (reason.isprintable() or not reason):
        raise Fault("reason is one line of at most 200 characters", "reason")
    names = {key: _analyses(table, key, site) for key in ("run", "only", "skip")}
    twice = set(names["run"] or ()) & set(names["skip"] or ())
    if twice:
        raise Fault(f"{min(twice)!r} is to run and to be skipped", min(twice))
    priority = table.get("priority")
    if priority is not None and priority not in URGENCIES:
        raise Fault(f"priority is one of {', '.join(URGENCIES)}", "priority")
    destinations = _words(table, "destinations")
    if reason == "" and any(table.get(key) for key in ("hold", "ignore", "skip")):
        raise Fault("hold, ignore and skip need a reason, for whoever looks for the result", "then")
    return Actions(
        run=names["run"] or (),
        only=names["only"],
        skip=names["skip"] or (),
        destinations=(
            tuple(dict.fromkeys(site.destination(word) for word in destinations))
            if destinations is not None
            else None
        ),
        quiet_window_s=_seconds(table, "quiet_window_s"),
        expect_instances=_expected(table, "expect_instances"),
        expect_series=_expected(table, "expect_series"),
        close_at_association_end=_switch(table, "close_at_association_end"),
        priority=priority,
        deadline_s=_seconds(table, "deadline_s"),
        hold=_switch(table, "hold"),
        ignore=_switch(table, "ignore"),
        reason=reason,
    )


def _words(table: Mapping[str, Any], key: str) -> list[str] | None:
    if key not in table:
        return None
    words = table[key]
    if not isinstance(words, list) or not words:
        raise Fault(f"{key} needs a list of at least one name", key)
    if not all(isinstance(word, str) and word for word in words):
        raise Fault(f"{key} holds names in quotes", key)
    return words


def _analyses(table: Mapping[str, Any], key: str, site: Site) -> tuple[str, ...] | None:
    words = _words(table, key)
    for word in words or ():
        if word not in site.analyses:
            known = ", ".join(sorted(site.analyses)) or "none"
            raise Fault(f"unknown analysis {word!r}; installed are: {known}", word)
    return tuple(dict.fromkeys(words)) if words is not None else None


def _seconds(table: Mapping[str, Any], key: str) -> float | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_S:
        raise Fault(f"{key} is a number of seconds above 0, at most {_LONGEST_S:.0f}", key)
    return float(value)


def _switch(table: Mapping[str, Any], key: str) -> bool | None:
    value = table.get(key)
    if value is not None and not isinstance(value, bool):
        raise Fault(f"{key} is true or false", key)
    return value


def _expected(table: Mapping[str, Any], key: str) -> Expected | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Expected(number=value)
    if not isinstance(value, str):
        raise Fault(f"{key} is a number above 0, or the attribute that says it", key)
    try:
        path = tuple(tag_of(word) for word in value.split("."))
    except UnknownWord as exc:
        raise Fault(str(exc), value, key) from exc
    if value_representation(path[-1]) not in (*NUMERIC_VRS, ""):
        raise Fault(f"{value} holds no number", key)
    return Expected(path=path)
