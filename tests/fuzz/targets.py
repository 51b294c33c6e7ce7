"""What reads a stranger's bytes in this process, each as one function of bytes.

A target draws input of its own kind and reads any bytes; what it may raise is named, anything else
is a finding. Targets over sockets are in ``door`` (the listener) and ``lying_peer`` (what we ask).
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from gateway.delivery.routes import parse_routes
from gateway.dicom.file_meta import identify
from gateway.dicom.part10 import InstanceHeader, inspect
from gateway.dicom.text import codecs_of, decode_text
from gateway.dicomweb.multipart import MediaType, MultipartReader, PartBegin, PartData, PartEnd
from gateway.document_syntax import SYNTAX, media_type_of, parse_json
from gateway.errors import GatewayError, ProtocolError
from gateway.listener import acceptance, commands
from gateway.listener import pdu as listener_pdu
from gateway.listener.negotiation import decode_request
from gateway.sending.wrap import Kind, wrap
from tests.fuzz.data_sets import draw_file, draw_identity
from tests.fuzz.messages import associate_request, draw_conversation, encode_command, store_command
from tests.fuzz.site_targets import SITE_TARGETS
from tests.fuzz.target import Finding, Target
from workers.ports import Document
from workers.prognosis.fhir import is_fhir, read_fhir
from workers.tbp.documents import read_document


@contextlib.contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    # A file in a folder that can be written: what is deflated is inflated beside it.
    with tempfile.NamedTemporaryFile(prefix="fuzz") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def _read_file(data: bytes) -> None:
    with file_of(data) as path:
        with contextlib.suppress(GatewayError):
            _check_header(inspect(path))
        with contextlib.suppress(GatewayError):
            identify(path)


def _check_header(header: InstanceHeader) -> None:
    """Compare with what the record can hold: PostgreSQL takes no NUL, a UID has 64 characters."""
    for name, value in vars(header).items():
        if isinstance(value, str) and not value.isprintable() and _has_control(value):
            raise Finding(f"a control character in {name}")
    for name in ("sop_instance_uid", "study_instance_uid", "series_instance_uid"):
        if not 0 < len(getattr(header, name)) <= 64:
            raise Finding(f"{name} cannot be kept")


def _has_control(text: str) -> bool:
    return any(ord(character) < 0x20 or character == "\x7f" for character in text)


def _draw_text(rng: Random) -> bytes:
    terms = rng.choice(
        ("ISO_IR 192", "\\ISO 2022 IR 87", "GB18030", "ISO 2022 IR 6\\ISO 2022 IR 58")
    )
    pieces = (b"\x1b$B", b"\x1b(B", b"\x1b$)C", b"\x1b.A", b"\x1b", b"\xb1\xe8", "Ärztin".encode())
    return terms.encode() + b"\n" + b"".join(rng.choices(pieces, k=rng.randint(0, 12)))


def _read_text(data: bytes) -> None:
    terms, _, value = data.partition(b"\n")
    text = decode_text(value, codecs_of(decode_text(terms, ("ascii",))))
    if len(text) > 1024 or _has_control(text):
        raise Finding("a text that the record cannot keep")


def _draw_stream(rng: Random) -> bytes:
    conversation = draw_conversation(rng)
    return conversation.request + b"".join(each.data for each in conversation.messages[:4])


def _read_stream(data: bytes) -> None:
    """Read PDUs one after the other, as a connection would, and what they hold."""
    position = 0
    with contextlib.suppress(ProtocolError):
        while len(data) - position >= listener_pdu.HEADER_BYTES:
            header = listener_pdu.decode_header(data[position:])
            position += listener_pdu.HEADER_BYTES
            body = memoryview(data)[position : position + header.length]
            position += header.length
            if header.kind == listener_pdu.PduType.ASSOCIATE_RQ:
                decode_request(body)
            elif header.kind == listener_pdu.PduType.P_DATA_TF:
                for value in listener_pdu.decode_pdvs(body):
                    if value.is_command:
                        _read_command(bytes(value.data))


def _draw_command(rng: Random) -> bytes:
    elements = store_command(draw_identity(rng), rng.randrange(65536))
    if rng.random() < 0.5:
        elements.insert(rng.randrange(6), (rng.randrange(65536), rng.randbytes(rng.randint(0, 80))))
    return encode_command(elements)


def _read_command(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        command = commands.decode_command(data)
        commands.encode_response(command, 0xC000, "why\\not")


def _draw_request(rng: Random) -> bytes:
    return associate_request(odd=[rng.randbytes(rng.randint(0, 20))] * rng.randint(0, 2))[6:]


def _read_request(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_request(data)


_BOUNDARY = "b-O_u.n'd"


def _draw_multipart(rng: Random) -> bytes:
    line = f"--{_BOUNDARY}".encode()
    body = rng.choice((b"", b"preamble\r\n", b"\r\n"))
    for _ in range(rng.randint(0, 4)):
        head = rng.choice((b"Content-Type: application/dicom", b"", b"X: y\r\n folded", b":", b"a"))
        content = rng.choice(
            (draw_file(rng)[:400], b"\r\n--", b"\r" * 9, line, b"\r\n" + line + b"x")
        )
        body += (
            line + rng.choice((b"\r\n", b" \t\r\n", b"\n")) + head + b"\r\n\r\n" + content + b"\r\n"
        )
    return body + rng.choice((line + b"--", line + b"--\r\nepilogue", b""))


def _events(data: bytes, blocks: Sequence[int]) -> tuple[list[object], bool, str]:
    """Return the events with neighbouring data joined, whether it ended, and what was refused."""
    reader = MultipartReader(_BOUNDARY)
    found: list[object] = []
    position = 0
    try:
        for size in blocks:
            for event in reader.feed(data[position : position + size]):
                if isinstance(event, PartData) and found and isinstance(found[-1], bytes):
                    found[-1] += event.data
                else:
                    found.append(event.data if isinstance(event, PartData) else event)
            position += size
    except GatewayError as exc:
        return found, False, str(exc)
    return found, reader.is_complete, ""


def _read_multipart(data: bytes) -> None:
    """Read in one block and in many: where the blocks end must not matter."""
    whole = _events(data, [len(data)])
    size = 1 + (data[0] if data else 0) % 37
    pieces = _events(data, [size] * (len(data) // size + 1))
    if whole != pieces and not (whole[2] or pieces[2]):
        raise Finding("a body read in pieces is another one")
    opened = sum(isinstance(event, PartBegin) for event in whole[0])
    closed = sum(isinstance(event, PartEnd) for event in whole[0])
    if not 0 <= opened - closed <= 1 or (whole[1] and opened != closed):
        raise Finding("parts that do not begin and end in turn")
    MediaType.parse(data.decode("latin-1"))


_JSON_SEEDS = (
    {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Patient", "gender": "male",
     "birthDate": "1970-01-01"}}, {"resource": {"resourceType": "Observation", "status": "final",
     "code": {"coding": [{"system": "http://loinc.org", "code": "21908-9"}], "text": "stage"},
     "valueQuantity": {"value": 1.2, "unit": "mm", "code": "mm"}}}]},
    [{"lesion_id": "L1", "tbp_lv_areaMM2": 3.1, "tbp_lv_location": "Torso Back", "isic_id": "x"}],
    {"thickness_mm": 1.1, "ulceration": True, "age": 61, "sex": "female", "stage": "IIA"},
)  # fmt: skip
_JSON_ATOMS = (
    None,
    True,
    "",
    "NaN",
    -1,
    1e308,
    10**400,
    [],
    {},
    [[]],
    {"value": {}},
    "\ud800",
    "mm",
)


def _odd_json(value: object, rng: Random) -> object:
    """Return a copy with some leaves and branches replaced."""
    if rng.random() < 0.12:
        return rng.choice(_JSON_ATOMS)
    if isinstance(value, dict):
        return {key: _odd_json(each, rng) for key, each in value.items() if rng.random() > 0.04}
    if isinstance(value, list):
        return [_odd_json(each, rng) for each in value for _ in range(rng.choice((1, 1, 1, 2)))]
    return value


def _draw_json(rng: Random) -> bytes:
    if rng.random() < 0.02:
        return b"[" * 100_000
    return json.dumps(_odd_json(rng.choice(_JSON_SEEDS), rng)).encode("utf-8", "surrogatepass")


def _read_json(data: bytes) -> None:
    with contextlib.suppress(GatewayError):
        SYNTAX["application/json"](data)
        content = parse_json(data)
        json.dumps(content, ensure_ascii=False)
        if is_fhir(content):
            read_fhir(content, "a document", study_date="20260301")
    read_document(Document(name="x.json", media_type="application/json", content=data))


def _draw_csv(rng: Random) -> bytes:
    names = ["lesion_id", "tbp_lv_areaMM2", "tbp_lv_location", "isic_id", "anatom_site_general"]
    rng.shuffle(names)
    mark, line = rng.choice((",", ";", "\t")), rng.choice(("\n", "\r\n", "\r"))
    cells = ("L1", "3,1", "3.1", '"a""b"', '"open', "", "nan", "1e999", "\0", "Ä", "=1+1")
    rows = [
        mark.join(rng.choices(cells, k=rng.choice((5, 5, 4, 6)))) for _ in range(rng.randint(0, 5))
    ]
    start = rng.choice(("", "\ufeff"))
    return (start + line.join([mark.join(names), *rows])).encode(rng.choice(("utf-8", "utf-16")))


def _read_csv(data: bytes) -> None:
    with contextlib.suppress(GatewayError):
        SYNTAX["text/csv"](data)
    read_document(Document(name="x.csv", media_type="text/csv", content=data))


_PICTURES = (
    *(("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG")),
    *(("1", "PNG"), ("I;16", "PNG"), ("RGB", "PNG")),
)


def _draw_picture(rng: Random) -> bytes:
    stream = io.BytesIO()
    mode, kind = rng.choice(_PICTURES)
    pixels = np.frombuffer(rng.randbytes(12 * 16 * 3), np.uint8).reshape(12, 16, 3)
    image = Image.fromarray(pixels)
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = rng.choice((0, 1, 3, 6, 8, 9, 65535))
    exif[0x010F], exif[0x9003] = rng.choice(("Acme", "\0", "x" * 300)), "2026:03:01 09:30:00"
    extra = {"progressive": rng.random() < 0.3} if kind == "JPEG" else {}
    image.save(stream, kind, exif=exif, **extra)
    return stream.getvalue()


def _read_picture(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(GatewayError):
            wrap(Path(file.name), Kind.DERMOSCOPY)


_WORDS = (
    *("PACS@127.0.0.1:104", "*@10.0.0.0/8", "A@[::1]:104/sr+seg", "X@h:1/-pdf", "@", "a@b@c"),
    *("PACS@h:99999", "x@::1", "*@0/0", "é@h:1", "A\\B@h", "a@h:1,a@h:1", "a@h/33", "/tls"),
)


def _draw_words(rng: Random) -> bytes:
    return ",".join(rng.choices(_WORDS, k=rng.randint(0, 3))).encode()


def _read_words(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(GatewayError):
        acceptance.parse_peers(text.split(","))
    with contextlib.suppress(GatewayError):
        parse_routes(text)
    with contextlib.suppress(GatewayError):
        media_type_of(text, text)
    acceptance.is_allowed(text, text)


_ALL = (
    Target(name="file", about="Part 10 files and data sets (gateway.dicom)",
           draw=draw_file, read=_read_file, instrument=("gateway.dicom",)),
    Target(name="text", about="character sets (gateway.dicom.text)",
           draw=_draw_text, read=_read_text, instrument=("gateway.dicom.text",)),
    Target(name="stream", about="PDUs and what they hold, one after the other (gateway.listener)",
           draw=_draw_stream, read=_read_stream, instrument=("gateway.listener",)),
    Target(name="command", about="DIMSE command sets (gateway.listener.commands)",
           draw=_draw_command, read=_read_command, instrument=("gateway.listener.commands",)),
    Target(name="association", about="association requests (gateway.listener.negotiation)",
           draw=_draw_request, read=_read_request, instrument=("gateway.listener",)),
    Target(name="multipart", about="bodies of STOW-RS requests (gateway.dicomweb.multipart)",
           draw=_draw_multipart, read=_read_multipart, instrument=("gateway.dicomweb",)),
    Target(name="json", about="JSON and FHIR documents, at the door and in the analyses",
           draw=_draw_json, read=_read_json, instrument=("gateway.document_syntax", "workers")),
    Target(name="csv", about="CSV documents, at the door and in the analyses",
           draw=_draw_csv, read=_read_csv, instrument=("gateway.document_syntax", "workers")),
    Target(name="picture", about="pictures that `lentigo wrap` and `send` read",
           draw=_draw_picture, read=_read_picture, instrument=("gateway.sending",)),
    Target(name="setting", about="peers, destinations and media types as text",
           draw=_draw_words, read=_read_words, instrument=("gateway.listener.acceptance",)),
)  # fmt: skip
TARGETS = {target.name: target for target in (*_ALL, *SITE_TARGETS)}
