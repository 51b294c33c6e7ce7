"""``lentigo retry``, ``cancel``, ``complete``, ``urgent``, ``hold``, ``release``: orders."""

from __future__ import annotations

import argparse
import getpass

from gateway.errors import GatewayError
from gateway.home import resolve_home
from gateway.settings import StoreSettings
from gateway.store.opening import opened_record
from gateway.store.people.control import MAX_REASON_CHARACTERS, Outcome, StudyControl

_EPILOG = """\
STUDY is a Study Instance UID, an accession number, or the number of the study in the record.

A held study goes on receiving; nothing is begun for it until it is released: it is not closed, and
neither analysed nor delivered. What runs at the moment of the hold ends.

exit codes:
  0  done, or it was so already
  1  no such study, or it cannot be done; the reason is said
  2  wrong usage
"""
_DONE = {
    "retry": "What failed begins anew; what waited for a later attempt begins now.",
    "cancel": "The study's unfinished work is canceled.",
    "complete": "The study closes now.",
    "urgent": "The study's work is in front now.",
    "hold": "The study is held.",
    "release": "The study goes on.",
}
_UNCHANGED = {
    "retry": "Nothing of the study has failed or waits for a later attempt.",
    "cancel": "Nothing of the study is unfinished; nothing was changed.",
    "complete": "Nothing of the study is being received; nothing was changed.",
    "urgent": "The study was urgent already.",
    "hold": "The study was held already; its reason was not changed.",
    "release": "The study was not held.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("study", metavar="STUDY", help="which study")
    needs_reason = parser.prog.endswith((" hold", " cancel"))
    if needs_reason or parser.prog.endswith(" release"):
        parser.add_argument(
            "--reason",
            required=needs_reason,
            default=None,  # argparse would check an empty text like one that was given
            metavar="TEXT",
            type=_reason,
            help="why, for whoever looks for the result; no patient data",
        )
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")


def _reason(text: str) -> str:
    if not 0 < len(text.strip()) <= MAX_REASON_CHARACTERS:
        raise argparse.ArgumentTypeError(f"1 to {MAX_REASON_CHARACTERS} characters")
    return text.strip()


def run(args: argparse.Namespace) -> int:
    """Carry out the order; return the exit code."""
    store = StoreSettings(home=resolve_home(args.home))
    actor = f"command line: {getpass.getuser()}"[:64]
    with opened_record(store) as engine:
        control = StudyControl(engine)
        study_id = control.find(args.study).id
        match args.command:
            case "complete":
                outcome = control.complete_now(study_id, actor=actor)
            case "retry":
                outcome = control.retry(study_id, actor=actor)
            case "cancel":
                outcome = control.cancel(study_id, actor=actor, reason=args.reason)
            case "urgent":
                outcome = control.make_urgent(study_id, actor=actor)
            case "hold":
                outcome = control.hold(study_id, actor=actor, reason=args.reason)
            case _:
                outcome = control.release(study_id, actor=actor, reason=args.reason or "")
    if outcome is Outcome.DECLINED:
        raise GatewayError("too late: the results are on their way to a PACS, or there")
    if outcome is Outcome.HELD:
        raise GatewayError("the study is held; `lentigo release` it first")
    print((_DONE if outcome is Outcome.DONE else _UNCHANGED)[args.command])
    return 0
