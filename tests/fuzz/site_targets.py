"""What the rest of a site writes: rule files, worklist queries, and the answers of a PACS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from urllib.parse import parse_qsl, quote

from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode

from gateway.delivery.commitment import read_report, read_request
from gateway.delivery.routes import Outgoing
from gateway.delivery.stow_answer import Answer, judge
from gateway.dicomweb.matching import read_query
from gateway.dicomweb.model import choose
from gateway.errors import GatewayError, RuleFileRefused
from gateway.rules.patterns import Pattern, PatternError
from gateway.rules.reading import Site, read_rules
from tests.fuzz.data_sets import SYNTAXES, draw_data_set, draw_identity
from tests.fuzz.target import Finding, Target

_SITE = Site.of(["PACS@127.0.0.1:104", "ARCHIVE@10.0.0.1:11112/tls"])

# -- rule files ------------------------------------------------------------------------------------

_CONDITIONS = (
    'modality = "SM"',
    'calling_ae_title = ["A", "B"]',
    'source_address = "10.1.2.0/24"',
    'ClinicalTrialProtocolID = { matches = "MEL-[0-9]+" }',
    "PatientAge = { less = 18 }",
    "not = { any = [{ modality = 'DMS' }, { Rows = { exists = false } }] }",
    '"0009,1001" = "x"',
)
_ACTIONS = (
    "ignore = true",
    'reason = "because"',
    'priority = "urgent"',
    "deadline_s = 600",
    'skip = ["prognosis"]',
    'only = ["diagnosis"]',
    "quiet_window_s = 60",
    'expect_instances = "ImagesInAcquisition"',
    'destinations = ["PACS"]',
    "hold = true",
)
_VALUES = ("true", "-1", "1e999", "nan", "99999999999999999999", '"(a|b"', '{ matches = "(a*)*b" }',
           "{ less = 3, more = 1 }", "2026-03-01", '""', "[]", '"""\n"""', '"\\u0000"', "{ }",
           '["PACS", "PACS"]', '"10.0.0.0/33"', '"NOWHERE"')  # fmt: skip


def _table(lines: Sequence[str], rng: Random) -> str:
    """Return some of the lines as an inline table, one value in five an odd one."""
    chosen = rng.sample(lines, rng.randint(1, 3))
    odd = [
        f"{each.partition(' = ')[0]} = {rng.choice(_VALUES)}" if rng.random() < 0.2 else each
        for each in chosen
    ]
    return "{ " + ", ".join(odd) + " }"


def _draw_rules(rng: Random) -> bytes:
    lines = []
    for number in range(rng.randint(1, 3)):
        lines += ["[[rule]]", f'name = "rule {number % rng.choice((1, 9, 9))}"']
        lines += [f"when = {_table(_CONDITIONS, rng)}"] * rng.choice((0, 1, 1))
        lines.append(f"then = {_table(_ACTIONS, rng)}")
        lines += [rng.choice(("last = true", 'scope = "every"', "last = 1", 'scope = "x"', ""))]
    if rng.random() < 0.01:
        lines.append("x = " + "[" * 20_000)
    return "\n".join(lines).encode()


def _read_rules(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        read_rules(text, _SITE, name="rules.toml")
    except RuleFileRefused as exc:
        if not str(exc).strip():
            raise Finding("a rule file refused without a reason") from exc


_PIECES = ("(", ")", "a", "|", "*", "+", "?", "{1,3}", "{9999}", "[^a-z]", "[", "\\d", "\\", ".",
           "^", "$", "(?i)", "Ä", "\0", "x" * 200)  # fmt: skip


def _draw_pattern(rng: Random) -> bytes:
    pattern = "".join(rng.choices(_PIECES, k=rng.randint(0, 12)))
    return f"{pattern}\n{'a' * rng.choice((0, 3, 500))}b".encode()


def _read_pattern(data: bytes) -> None:
    """Compile and try a pattern; no pattern may take longer than its text allows."""
    text, _, subject = data.decode("utf-8", "replace").partition("\n")
    with contextlib.suppress(PatternError):
        Pattern(text[:500]).fits(subject[:1000])


# -- DICOMweb --------------------------------------------------------------------------------------

_PARAMETERS = ("PatientName", "PatientID", "00100010", "ProcedureStepState", "limit", "offset",
               "ScheduledProcedureStepStartDateTime", "ScheduledProcedureStepPriority",
               "fuzzymatching", "includefield", "InputReadinessState", "SOPInstanceUID",
               "00081199.00081150", "NoSuchKeyword", "")  # fmt: skip
_SEARCHED = ("*", "A*?", "20260301-", "-20260301120000.5+0100", "20269999", "1.2\\1.3", "all", "-1",
             "9" * 40, "%", "_", "\\", "'", "\0", "10000101000000-1400", "true", "HIGH", "é",
             "99991231235959.999999-1200", "00010101000000+1400")  # fmt: skip


def _draw_query(rng: Random) -> bytes:
    pairs = [
        f"{quote(rng.choice(_PARAMETERS))}={quote(rng.choice(_SEARCHED))}"
        for _ in range(rng.randint(0, 5))
    ]
    return "&".join(pairs).encode()


def _read_query(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(GatewayError):
        read_query(parse_qsl(text, keep_blank_values=True), max_results=100)
    with contextlib.suppress(GatewayError):
        choose(text, ("application/dicom+json", "multipart/related"))


_OUTGOING = Outgoing(
    id=1,
    path=Path("x.dcm"),
    study_instance_uid="2.25.1",
    series_instance_uid="2.25.2",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
    sop_instance_uid="2.25.3",
    sha256="0" * 64,
)
_TAGS = ("00081198", "00081199", "0008119A", "00081155", "00081197", "00081196", "00080018")


def _draw_answer(rng: Random) -> bytes:
    """Return an HTTP status on the first line, and a body of DICOM JSON behind it."""

    def value(depth: int) -> object:
        odd = (None, -1, 2**40, True, "2.25.3", "", 272, 0xA700, 1e308, [], {}, {"Value": None})
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(odd)
        if rng.random() < 0.5:
            return [value(depth - 1) for _ in range(rng.randint(0, 3))]
        members = rng.sample(_TAGS, rng.randint(0, 3))
        return {tag: {"vr": "SQ", "Value": value(depth - 1)} for tag in members}

    body = json.dumps(value(6)) if rng.random() < 0.95 else "[" * 100_000
    return f"{rng.choice((200, 202, 204, 400, 409, 503, 999))}\n{body}".encode()


def _read_answer(data: bytes) -> None:
    status, _, body = data.partition(b"\n")
    code = int(status) if status.isdigit() and len(status) < 6 else 200
    answer = Answer(code, body, {"retry-after": status.decode("latin-1")})
    answer.listed()
    judge(_OUTGOING, answer)


# -- storage commitment ----------------------------------------------------------------------------


def _draw_information(rng: Random) -> bytes:
    return draw_data_set(draw_identity(rng), SYNTAXES["implicit"], rng)


def _read_information(data: bytes) -> None:
    """Read action and event information as the listener and the Commitment SCU do."""
    try:
        data_set: Dataset = decode(BytesIO(data), True, True)
        for _ in data_set.iterall():
            pass  # pydicom reads values when they are asked for
    except Exception:  # whatever pydicom raises is answered with 0110 at the door
        return
    with contextlib.suppress(GatewayError):
        read_request(data_set)
    with contextlib.suppress(GatewayError):
        read_report(1, data_set)


SITE_TARGETS = (
    Target(name="rules", about="rule files in TOML (gateway.rules)",
           draw=_draw_rules, read=_read_rules, instrument=("gateway.rules",)),
    Target(name="pattern", about="patterns of rules and a text to try them on",
           draw=_draw_pattern, read=_read_pattern, instrument=("gateway.rules.patterns",)),
    Target(name="query", about="UPS-RS queries and Accept headers (gateway.dicomweb)",
           draw=_draw_query, read=_read_query, instrument=("gateway.dicomweb",)),
    Target(name="answer", about="what a STOW-RS service answers us (gateway.delivery.stow_answer)",
           draw=_draw_answer, read=_read_answer, instrument=("gateway.delivery.stow_answer",)),
    Target(name="information", about="information of storage commitment, both ways",
           draw=_draw_information, read=_read_information,
           instrument=("gateway.delivery.commitment",)),
)  # fmt: skip
