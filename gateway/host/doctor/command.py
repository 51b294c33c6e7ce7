"""``lentigo doctor``: looks at every part and says OK, WARN or FAIL, with what to do.

Checks never change anything. A check that cannot be made is a finding, too.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.home import resolve_home
from gateway.host.doctor import host, nodes, record, services
from gateway.host.doctor.finding import FAIL, OK, WARN, Check, Finding, Subject

_EXIT_CODES = {OK: 0, WARN: 1, FAIL: 2}
_STYLE = {OK: "green", WARN: "yellow", FAIL: "bold red"}
_NARROWEST = 100
_EPILOG = """\
exit codes:
  0  every line is OK
  1  the worst line is WARN: look at it in working hours
  2  the worst line is FAIL: something does not work, or will not for long; also wrong usage
"""

CHECKS: tuple[Check, ...] = (
    host.check_versions,
    host.check_programs,
    host.check_shared_memory,
    host.check_resolving,
    host.check_folders,
    host.check_disk,
    host.check_settings,
    host.check_weaknesses,
    host.check_certificates,
    record.check_record,
    record.check_clock,
    services.check_running,
    services.check_broker,
    services.check_triton,
    record.check_work,
    nodes.check_destinations,
    nodes.check_breakers,
    nodes.check_other_nodes,
    record.check_events,
    record.check_audit,
)

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--home", metavar="DIR", help="folder of the installation to look at")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def examine(subject: Subject) -> list[Finding]:
    """Run every check."""
    return [finding for check in CHECKS for finding in _made(check, subject)]


def _made(check: Check, subject: Subject) -> Iterator[Finding]:
    try:
        yield from check(subject)
    except Exception as exc:  # one part that is broken in a new way must not hide the others
        log.debug("a check ended early", exc_info=exc, extra={"action": "doctor.check_failed"})
        yield Finding(
            part=check.__name__.removeprefix("check_").replace("_", " "),
            verdict=FAIL,
            said=f"could not be looked at to its end ({type(exc).__name__})",
            remedy="look at the lines above; if they are OK, please report this",
        )


def exit_code(findings: list[Finding]) -> int:
    """Return the exit code of the worst finding: 0, 1 or 2."""
    return max((_EXIT_CODES[each.verdict] for each in findings), default=0)


def run(args: argparse.Namespace) -> int:
    """Print the findings; return the exit code of the worst one."""
    findings = examine(Subject.of(resolve_home(args.home)))
    if args.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    return exit_code(findings)


def _print(findings: list[Finding]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    elif console.width < _NARROWEST:
        console = Console(width=_NARROWEST)
    table: Any = Table(box=None, pad_edge=False)
    for title in ("", "part", "what was seen", "what to do"):
        table.add_column(title, overflow="fold")
    for each in findings:
        # As text: an address in brackets is no markup.
        cells = (each.part, each.said, each.remedy)
        table.add_row(Text(each.verdict, style=_STYLE[each.verdict]), *map(Text, cells))
    console.print(table)
    counts = {verdict: sum(each.verdict == verdict for each in findings) for verdict in _STYLE}
    console.print(", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
