"""Tables of network services: what is offered, what is asked for, and what each status means."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydicom.charset import python_encoding
from pydicom.uid import UID

from gateway.audit import events
from gateway.delivery import commitment, routes, statuses
from gateway.dicom.file_meta import IMPLEMENTATION_CLASS_UID
from gateway.dicom.text import codecs_of
from gateway.listener import acceptance, admission, negotiation
from gateway.listener.acceptance import ACCEPTED_SOP_CLASSES, StoreStatus
from gateway.listener.services import ServiceContext
from tests.conformance.markdown import table

ROOT = Path(__file__).parents[2]

_QUERY_RETRIEVE = {
    "1.2.840.10008.5.1.4.1.2.2.1": "Query/Retrieve",
    "1.2.840.10008.5.1.4.1.2.2.2": "Query/Retrieve",
    "1.2.840.10008.5.1.4.1.2.2.3": "Query/Retrieve",
}
_SERVICE_CLASSES = {
    **_QUERY_RETRIEVE,
    acceptance.VERIFICATION: "Verification",
    commitment.STORAGE_COMMITMENT: "Storage Commitment",
}


@functools.cache
def named_uids() -> dict[str, set[str]]:
    """Return every UID of PS3.6 that gateway and workers name, with the modules that do."""
    found: dict[str, set[str]] = {}
    for folder in ("gateway", "workers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "demo" in path.parts:
                continue
            source = path.read_text("utf-8")
            if "1.2.840.10008." not in source:
                continue
            for node in ast.walk(ast.parse(source)):
                text = node.value if isinstance(node, ast.Constant) else None
                if isinstance(text, str) and re.fullmatch(r"1\.2\.840\.10008(\.\d+)+", text):
                    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    found.setdefault(text, set()).add(module)
    return found


def _is_scp(uid: str) -> bool:
    """Whether the listener answers a SOP class that is none of Storage."""
    return uid == acceptance.VERIFICATION or any(
        uid == context.abstract_syntax for context in _service_contexts()
    )


def _service_contexts() -> Iterator[ServiceContext]:
    """Yield the contexts of every DIMSE service class that plugs into the listener.

    Services name them without looking at themselves, so that none has to be set up here.
    """
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        if "ServiceContext(" not in path.read_text("utf-8") or path.name == "services.py":
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for kind in vars(importlib.import_module(name)).values():
            contexts = vars(kind).get("contexts") if inspect.isclass(kind) else None
            if isinstance(contexts, property) and kind.__module__ == name:
                assert contexts.fget is not None
                yield from contexts.fget(None)


def network_services() -> str:
    """Return the table of the overview: SOP classes with their roles."""
    named = named_uids()
    rows = []
    for uid in sorted(_SERVICE_CLASSES, key=lambda each: (_SERVICE_CLASSES[each], each)):
        if uid in named:
            rows.append((UID(uid).name, uid, "Yes", "Yes" if _is_scp(uid) else "No"))
    ours = set(routes.KINDS.values())
    classes = {uid: each.name for uid, each in ACCEPTED_SOP_CLASSES.items()}
    classes |= {uid: UID(uid).name for uid in ours if uid not in classes}
    for uid, name in classes.items():
        rows.append((name, uid, "Yes" if uid in ours else "`lentigo send`", "Yes"))
    return table(("SOP class", "SOP Class UID", "SCU", "SCP"), rows)


def transfer_syntaxes() -> str:
    """Return the transfer syntaxes that the listener accepts, in its order of preference."""
    lists = {
        "images": acceptance.IMAGE_SYNTAXES,
        "results with pixels": acceptance.RESULT_SYNTAXES,
        "documents": acceptance.DOCUMENT_SYNTAXES,
    }
    every = list(dict.fromkeys(uid for each in lists.values() for uid in each))
    rows = [
        (UID(uid).name, uid, *("Yes" if uid in each else "No" for each in lists.values()))
        for uid in every
    ]
    return table(("Transfer syntax, most wanted first", "UID", *lists), rows)


def accepted_contexts() -> str:
    """Return the acceptor's table of presentation contexts."""
    lists = {
        acceptance.IMAGE_SYNTAXES: "images",
        acceptance.RESULT_SYNTAXES: "results with pixels",
        acceptance.DOCUMENT_SYNTAXES: "documents",
    }
    both = "Explicit VR Little Endian, Implicit VR Little Endian"
    rows: list[tuple[object, ...]] = [
        ("Verification SOP Class", acceptance.VERIFICATION, both, "SCP", "None")
    ]
    for context in _service_contexts():
        uid = context.abstract_syntax
        syntaxes = ", ".join(UID(each).name for each in context.transfer_syntaxes)
        roles = ["SCP"] * context.requestor_may_be_scu + ["SCU"] * context.requestor_may_be_scp
        extended = "SCP/SCU role selection" if "SCU" in roles else "None"
        rows.append((UID(uid).name, uid, syntaxes, "/".join(roles), extended))
    rows += [
        (each.name, each.uid, f"those of {lists[each.transfer_syntaxes]}", "SCP", "None")
        for each in ACCEPTED_SOP_CLASSES.values()
    ]
    return table(
        ("Abstract syntax", "UID", "Transfer syntaxes", "Role", "Extended negotiation"), rows
    )


def _docstrings(kind: type) -> dict[str, str]:
    """Return what stands below each name in the body of a class."""
    (body,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[statement.targets[0].id] = str(following.value.value)
    return found


_RECEIVED_BEHAVIOUR = {
    0x0000: "kept; in the record; a repeated C-STORE of the same bytes is answered alike",
    0x0122: "nothing kept",
    0xA700: "nothing kept; worth another attempt",
}


def store_statuses() -> str:
    """Return the statuses with which a C-STORE-RQ is answered."""
    texts = _docstrings(StoreStatus)
    rows = []
    for status in StoreStatus:
        meaning, _, further = texts[status.name].partition(". ")
        kind = "Success" if status == 0 else "Refused" if "Refused" in meaning else "Error"
        said = (meaning.partition(": ")[2] or meaning).rstrip(".")
        behaviour = _RECEIVED_BEHAVIOUR.get(
            status, "bytes in quarantine with the reason; the association goes on"
        )
        rows.append(
            (
                kind,
                said + (f"; {further[0].lower()}{further[1:].rstrip('.')}" if further else ""),
                f"{status:04X}",
                behaviour,
            )
        )
    return table(("Service status", "Further meaning", "Status code", "What becomes of it"), rows)


def sent_statuses() -> str:
    """Return what our Storage SCU makes of each status."""
    ranges = [
        ("Success", "0000", 0x0000),
        ("Warning", "0001", 0x0001),
        ("Warning", "0111 duplicate SOP instance", 0x0111),
        *((_kind(low), f"{low:04X}-{high:04X} {text}", low) for low, high, text in _ranges()),
        *(("Failure", f"{code:04X} {text}", code) for code, text in sorted(_permanent().items())),
        ("Failure", "any other", 0x0110),
    ]
    behaviour = {
        "STORED": "stored; confirmation is asked for",
        "REFUSED": "refused for good: reported on the study's page, its siblings go on",
        "PENDING": "tried again with growing pauses",
    }
    rows = [
        (kind, text, behaviour[statuses.classify_status(code)[0].name])
        for kind, text, code in ranges
    ]
    return table(("Service status", "Status code", "Behaviour"), rows)


def _kind(low: int) -> str:
    return "Warning" if low == 0xB000 else "Failure"


def _ranges() -> tuple[tuple[int, int, str], ...]:
    return tuple(statuses.STATUS_RANGES)


def _permanent() -> Mapping[int, str]:
    return dict(statuses.PERMANENT)


def association_rejections() -> str:
    """Return why an association is rejected (PS3.8 Table 9-21)."""
    results = {1: "permanent", 2: "transient"}
    sources = {
        1: "service user",
        2: "service provider (ACSE)",
        3: "service provider (presentation)",
    }
    texts = {
        "REJECT_APPLICATION_CONTEXT": "application context name not supported",
        "REJECT_CALLING": "calling AE title not recognised: no entry of the allow-list fits "
        "calling AE title and address",
        "REJECT_CALLED": "called AE title not recognised, where the site insists on it",
        "REJECT_VERSION": "protocol version not supported",
        "REJECT_TOO_MANY": "local limit exceeded: too many associations in all, or from there",
    }
    rows = []
    for name, value in vars(admission).items():
        if name.startswith("REJECT_"):
            result, source, reason = value
            rows.append(
                (f"{result} {results[result]}", f"{source} {sources[source]}", reason, texts[name])
            )
    return table(("Result", "Source", "Reason", "When"), rows)


def identification() -> str:
    """Return the implementation identifying information (PS3.7 D.3.3.2)."""
    rows = [
        ("Application context name", negotiation.APPLICATION_CONTEXT),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", negotiation.IMPLEMENTATION_VERSION_NAME),
    ]
    return table(("Item", "Value"), rows)


def commitment_failures() -> str:
    """Return the failure reasons of storage commitment that are known (PS3.3 C.14.1.1)."""
    rows = [(f"{code:04X}", text) for code, text in sorted(commitment._FAILURE_REASONS.items())]
    return table(("Failure reason", "Meaning"), rows)


def character_sets() -> str:
    """Return the character sets that received texts are decoded from (PS3.3 C.12.1.1.2)."""
    rows = [(term, codecs_of(term)[0].lower()) for term in python_encoding if term]
    return table(("Defined term", "Codec"), rows)


def audit_events() -> str:
    """Return the audit messages by what happened (PS3.15 A.5)."""
    rows = [
        (f"`{action}`", f"{kind.event.value} {kind.event.meaning}",
         f"{kind.type.value} {kind.type.meaning}" if kind.type else "", kind.outcome)
        for action, kind in sorted(events.KINDS.items())
    ]  # fmt: skip
    return table(("Action", "EventID", "EventTypeCode", "Outcome"), rows)
