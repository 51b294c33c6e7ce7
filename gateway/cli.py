"""``lentigo``: up, wrap, send, attach, status, doctor and demo.

Each subcommand lives in the module that does the work; this one only parses. Exit codes: 0 done,
1 the command's own failure (said in one line), 2 wrong usage, 3 time ran out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from gateway.errors import GatewayError
from gateway.host.installation import lacking
from gateway.settings import reject_unknown_environment

# name -> (module with add_arguments and run, one line of help). Imported when used: `send` should
# not pay for the web framework.
COMMANDS = {
    "up": ("gateway.host.up", "start all services on this host, in the foreground"),
    "wrap": ("gateway.sending.wrap", "turn JPEG or PNG pictures into DICOM"),
    "send": ("gateway.sending.send", "send DICOM files or folders to a PACS or to Lentigo"),
    "attach": ("gateway.attach", "attach a JSON, FHIR or CSV document to a study"),
    "resend": ("gateway.delivery.resend", "send the results of a study once more"),
    "status": ("gateway.status", "say where each study is"),
    "rules": ("gateway.rules.command", "check, try and show the routing rules"),
    "retry": ("gateway.control", "do again what failed of a study"),
    "cancel": ("gateway.control", "cancel the unfinished work of a study"),
    "complete": ("gateway.control", "close a study now"),
    "urgent": ("gateway.control", "put a study in front"),
    "hold": ("gateway.control", "begin nothing for a study until it is released"),
    "release": ("gateway.control", "let a held study go on"),
    "verify": ("gateway.verify", "check that nothing was lost or doubled"),
    "reviews": ("gateway.dashboard.review_command", "give signed reviews of results out"),
    "audit": ("gateway.audit.command", "say whether the audit trail is whole; give it out"),
    "retention": ("gateway.retention.command", "say what is removed when; legal holds; the disk"),
    "drift": (
        "gateway.observation.drift_command",
        "say how far models' answers have moved; name what they are compared with",
    ),
    "doctor": ("gateway.host.doctor.command", "check every part and say how to mend it"),
    "selftest": (
        "gateway.observation.selftest",
        "send a drawn study through everything and say what each stage took",
    ),
    "health": ("gateway.host.health", "say by exit code whether one service of this host turns"),
    "backup": ("gateway.host.backup", "copy the record and its files while everything runs"),
    "restore": ("gateway.host.restore", "put a backup into an empty home"),
    "demo": ("gateway.demo.run", "send rendered samples through everything and show the results"),
}


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lentigo",
        description="Lentigo receives dermatology and whole-slide studies from the PACS, analyses "
        "them and returns DICOM results. For research use only.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def _is_not_installed(command: str, exc: ModuleNotFoundError) -> int:
    said = lacking(exc)
    if not said:
        raise exc  # a defect of ours, which wants its traceback
    print(f"lentigo {command}: {said}", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in arguments if word in COMMANDS), None)
    try:
        namespace = _parser(chosen).parse_args(arguments)
    except ModuleNotFoundError as exc:
        return _is_not_installed(chosen or "", exc)
    try:
        reject_unknown_environment(os.environ)
        module = importlib.import_module(COMMANDS[namespace.command][0])
        return int(module.run(namespace))
    except GatewayError as exc:
        print(f"lentigo {namespace.command}: {exc}", file=sys.stderr)
        return 1
    except ValidationError as exc:
        for error in exc.errors():
            field = ".".join(str(part) for part in error["loc"])
            print(f"lentigo {namespace.command}: {field}: {error['msg']}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as exc:
        return _is_not_installed(namespace.command, exc)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
