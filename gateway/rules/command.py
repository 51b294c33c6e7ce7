"""``lentigo rules``: checks a file of routing rules, tries it, shows what is in force."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.delivery.routes import parse_routes
from gateway.errors import GatewayError
from gateway.home import resolve_home
from gateway.rule_watch import load_file
from gateway.rules.headers import HeaderReader
from gateway.rules.plan import Plan
from gateway.rules.reading import Site, read_rules
from gateway.rules.ruleset import BUILT_IN_TEXT, RuleSet
from gateway.rules.trial import Sender, Trial, Tried, try_on_files
from gateway.settings import DeliverySettings, RuleSettings, StoreSettings
from gateway.store.intake.rule_facts import recent_studies
from gateway.store.intake.rulebook import Rulebook, built_in_rules
from gateway.store.opening import opened_record

_WIDTH = 120
_EPILOG = """\
docs/rules.md has every word that a rule may use. `check` and `test` change nothing. Destinations
are those of LENTIGO_DELIVERY_DESTINATION, unless --send-to names others.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="say whether a file of rules can be used")
    check.add_argument("file", type=Path, metavar="FILE")
    test = verbs.add_parser("test", help="say which rules match, and why")
    test.add_argument("paths", type=Path, nargs="*", metavar="FILE_OR_FOLDER")
    test.add_argument("--last", type=_count, metavar="N", help="the newest N studies of the record")
    test.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="rules to try (default: LENTIGO_RULES_FILE, else those in force)",
    )
    for name in ("calling-ae-title", "called-ae-title", "source-address"):
        test.add_argument(f"--{name}", default="", metavar="TEXT", help="taken for that of FILEs")
    verbs.add_parser("show", help="print the rules in force")
    for verb in verbs.choices.values():
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.add_argument("--send-to", metavar="AET@HOST:PORT", help="destinations, as of `up`")
        verb.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    given = args.send_to if args.send_to is not None else DeliverySettings().destination
    site = Site.of(route.name for route in parse_routes(given))
    match args.verb:
        case "check":
            return _check(args, site)
        case "test":
            return _test(args, site)
        case _:
            return _show(args)


def _check(args: argparse.Namespace, site: Site) -> int:
    rules = load_file(args.file, site)
    if args.json:
        print(json.dumps({"rules": [rule.name for rule in rules.rules], "sha256": rules.sha256}))
    else:
        print(f"{len(rules.rules)} rules can be used; SHA-256 {rules.sha256}")
    return 0


def _show(args: argparse.Namespace) -> int:
    store = StoreSettings(home=resolve_home(args.home))
    with opened_record(store) as engine:
        newest = Rulebook(engine).newest()
    if args.json:
        found = asdict(newest) if newest is not None else {"id": None, "text": BUILT_IN_TEXT}
        print(json.dumps(found, indent=2))
    elif newest is None:
        print(BUILT_IN_TEXT, end="")
    else:
        print(f"# version {newest.id}, from {newest.source}, SHA-256 {newest.sha256}")
        print(newest.text, end="" if newest.text.endswith("\n") else "\n")
    return 0


def _test(args: argparse.Namespace, site: Site) -> int:
    if bool(args.paths) == (args.last is not None):
        raise GatewayError("name files or folders, or --last N, and not both")
    if args.paths:
        sender = Sender(
            calling_ae_title=args.calling_ae_title,
            called_ae_title=args.called_ae_title,
            source_address=args.source_address,
        )
        trial = try_on_files(_rules(args, site), args.paths, sender)
    else:
        trial = _try_on_record(args, site)
    if args.json:
        print(json.dumps([_as_json(each) for each in trial.studies], indent=2))
    else:
        _print(trial, site)
    return 0 if trial.studies else 1


def _rules(args: argparse.Namespace, site: Site) -> RuleSet:
    file = args.rules or RuleSettings().file
    if file is not None:
        return load_file(file, site)
    store = StoreSettings(home=resolve_home(args.home))
    if not store.database_url and not (store.home / "record.sqlite3").is_file():
        return built_in_rules()
    with opened_record(store) as engine:
        newest = Rulebook(engine).newest()
    if newest is None or newest.text == BUILT_IN_TEXT:
        return built_in_rules()
    return read_rules(newest.text, site, name=f"rules in force, version {newest.id}")


def _try_on_record(args: argparse.Namespace, site: Site) -> Trial:
    store = StoreSettings(home=resolve_home(args.home))
    rules = _rules(args, site)
    reader = HeaderReader(store.spool_folder, budget_s=float("inf"))
    reader.begin(rules.tags)
    with opened_record(store) as engine:
        studies = recent_studies(engine, reader, args.last)
    return Trial(
        studies=tuple(
            Tried(
                study_instance_uid=each.study_instance_uid,
                instances=len(each.facts.instances),
                plan=rules.decide(each.facts),
            )
            for each in studies
        )
    )


def _as_json(tried: Tried) -> dict[str, object]:
    return {
        "study_instance_uid": tried.study_instance_uid,
        "instances": tried.instances,
        **tried.plan.as_json(),
    }


def _print(trial: Trial, site: Site) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for tried in trial.studies:
        noun = "instance" if tried.instances == 1 else "instances"
        console.print(Text(f"{tried.study_instance_uid}  ({tried.instances} {noun})", style="bold"))
        if tried.plan.traces:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name in ("Rule", "Matched", "Why"):
                table.add_column(name, overflow="fold")
            for trace in tried.plan.traces:
                table.add_row(
                    Text(trace.rule), "yes" if trace.has_matched else "no", Text(trace.reason)
                )
            console.print(table)
        for line in outcome_lines(tried.plan, sorted(site.analyses)):
            console.print(Text(f"  {line}"))
        console.print()
    for path, reason in trial.unreadable:
        console.print(Text(f"not looked at: {path}: {reason}"), style="yellow")
    if not trial.studies:
        console.print("There was no study to look at.")


def outcome_lines(plan: Plan, analyses: Sequence[str]) -> list[str]:
    """Return what a plan comes to, a line for each setting, with the rule that decided it."""
    settings: Iterable[tuple[str, str, object]] = (
        ("ignore", "ignored", plan.ignore),
        ("hold", "held", plan.hold),
        ("priority", "priority", plan.urgency),
        ("destinations", "results go to", ", ".join(plan.destinations or ()) or "everywhere"),
        ("quiet_window_s", "quiet window", _seconds(plan.quiet_window_s)),
        ("expect_instances", "expected instances", plan.expect_instances),
        ("expect_series", "expected series", plan.expect_series),
        ("close_at_association_end", "closes at association end", plan.close_at_association_end),
        ("deadline_s", "deadline", _seconds(plan.deadline_s)),
    )
    lines = []
    for key, words, value in settings:
        rule = plan.decided_by.get(key)
        if rule is not None:
            said = "no" if value in (None, False) else "yes" if value is True else value
            lines.append(
                f"{words}: {said}" + ("" if "rule '" in str(said) else f" (rule '{rule}')")
            )
    for analysis in analyses:
        may_run, why = plan.verdict(analysis)
        if why:
            lines.append(f"{analysis}: {'where it applies' if may_run else 'not run'} ({why})")
    return lines or ["as without rules: every analysis that applies, results to everywhere"]


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:g} s"
