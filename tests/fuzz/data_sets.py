"""Data sets as trees of elements that may lie, and their encoding (PS3.5 7)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from gateway.dicom.file_meta import encode_file_meta
from gateway.listener import acceptance
from tests.fuzz.byte_mutations import mutate

UNDEFINED = 0xFFFFFFFF
_LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_VRS = (*_LONG_VRS, "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN")
_ODD_VRS = (*_VRS, "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US", "??", "  ", "\0\0", "ZZ", "ob")
_CHARACTER_SETS = (
    *("ISO_IR 192", "ISO_IR 100", "GB18030", "ISO_IR 13", "ISO_IR 166", "ISO_IR 6", ""),
    *("\\ISO 2022 IR 87", "\\ISO 2022 IR 149", "ISO 2022 IR 6\\ISO 2022 IR 58", "GBK", "KLINGON"),
)
_TEXTS = (
    b"Canary^Planted",
    "Grün^Ärztin".encode(),
    "Grün".encode("latin-1"),
    b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
    b"\x1b$)C\xb1\xe8^\x1b",
    b"\0" * 8,
    b"\\\\\\",
    b"^" * 64,
    b"\xff\xfe\xfd",
    b"9" * 600,
    b"-1",
    b"1e308",
    b"99999999999999999999",
    b"A" * 5000,
    b"\r\n\t\x1b",
    b"'; DROP TABLE instances; --",
    b"../../../../etc/passwd",
    b"\xed\xa0\x80\xed\xb0\x80",
)
_ODD_TAGS = (
    0x00020010, 0x00020000, 0x00000000, 0x00000100, 0x00090010, 0x00091001, 0x00080001,
    0x0008002A, 0x00100010, 0x00200013, 0x00280008, 0x00280010, 0x00280100, 0x00420011,
    0x00620020, 0x00620021, 0x7FE00008, 0x7FE00009, 0x7FE00010, 0x7FDF0010, 0xFFFCFFFC,
    0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF,
)  # fmt: skip


@dataclass(kw_only=True)
class Node:
    """One element; ``value`` is its bytes, its items, or the fragments of pixel data."""

    tag: int
    vr: str
    value: bytes | list[list[Node]] = b""
    is_fragmented: bool = False
    """Whether ``value`` goes out as one offset table and fragments of 64 bytes."""
    length: int | None = None
    """What the header says in place of the truth; ``UNDEFINED`` may be the truth of a sequence."""
    is_closed: bool = True
    """Whether delimiters follow what has an undefined length."""
    depth: int = 0
    """Sequences within each other, in place of a value."""


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """How a data set is encoded."""

    uid: str
    is_implicit: bool = False
    order: str = "<"
    is_deflated: bool = False


SYNTAXES = {
    "explicit": Syntax(uid=acceptance.EXPLICIT_VR_LITTLE_ENDIAN),
    "implicit": Syntax(uid=acceptance.IMPLICIT_VR_LITTLE_ENDIAN, is_implicit=True),
    "big endian": Syntax(uid=acceptance.EXPLICIT_VR_BIG_ENDIAN, order=">"),
    "jpeg": Syntax(uid=acceptance.JPEG_BASELINE),
    "deflated": Syntax(uid=acceptance.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, is_deflated=True),
}


def encode(nodes: Sequence[Node], syntax: Syntax) -> bytes:
    """Return the data set as bytes, lies included."""
    body = b"".join(_encode_node(node, syntax) for node in nodes)
    if not syntax.is_deflated:
        return body
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def _tag(tag: int, order: str) -> bytes:
    return struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)


def _item(tag: int, body: bytes, order: str, length: int | None = None) -> bytes:
    stated = len(body) if length is None else length
    return _tag(tag, order) + struct.pack(order + "I", stated & UNDEFINED) + body


def _encode_items(node: Node, items: list[list[Node]], syntax: Syntax) -> bytes:
    body = b""
    for content in items:
        inner = b"".join(_encode_node(each, syntax) for each in content)
        if node.length == UNDEFINED:
            body += _item(0xFFFEE000, inner, syntax.order, UNDEFINED)
            body += _item(0xFFFEE00D, b"", syntax.order) if node.is_closed else b""
        else:
            body += _item(0xFFFEE000, inner, syntax.order)
    if node.length == UNDEFINED and node.is_closed:
        body += _item(0xFFFEE0DD, b"", syntax.order)
    return body


def _encode_fragments(value: bytes, order: str, is_closed: bool) -> bytes:
    pieces = [value[at : at + 64] for at in range(0, len(value), 64)]
    body = b"".join(_item(0xFFFEE000, piece, order) for piece in (b"", *pieces))
    return body + (_item(0xFFFEE0DD, b"", order) if is_closed else b"")


def _encode_node(node: Node, syntax: Syntax) -> bytes:
    if node.depth:
        return _encode_nested(node, syntax)
    if isinstance(node.value, list):
        body = _encode_items(node, node.value, syntax)
    elif node.is_fragmented:
        body = _encode_fragments(node.value, syntax.order, node.is_closed)
    else:
        body = node.value + b"\0" * (len(node.value) % 2)
    default = UNDEFINED if node.is_fragmented else len(body)
    length = (default if node.length is None else node.length) & UNDEFINED
    head = _tag(node.tag, syntax.order)
    if syntax.is_implicit or node.tag >> 16 == 0xFFFE:
        return head + struct.pack(syntax.order + "I", length) + body
    vr = node.vr.encode("ascii")
    if node.vr in _LONG_VRS:
        return head + vr + b"\0\0" + struct.pack(syntax.order + "I", length) + body
    return head + vr + struct.pack(syntax.order + "H", length & 0xFFFF) + body


def nested(depth: int, *, is_closed: bool = True, length: int | None = UNDEFINED) -> Node:
    """Return sequences within sequences, ``depth`` of them."""
    return Node(tag=0x0040A730, vr="SQ", depth=depth, length=length, is_closed=is_closed)


def _encode_nested(node: Node, syntax: Syntax) -> bytes:
    """Encode from the inside out: a recursion would end before the readers' own limit does."""
    body = b""
    for _ in range(node.depth):
        item = Node(tag=0xFFFEE000, vr="", value=body, length=node.length)
        inner = _encode_node(item, syntax)
        if node.length == UNDEFINED and node.is_closed:
            inner += _item(0xFFFEE00D, b"", syntax.order)
        sequence = Node(tag=node.tag, vr=node.vr, value=inner, length=node.length)
        body = _encode_node(sequence, syntax)
        if node.length == UNDEFINED and node.is_closed:
            body += _item(0xFFFEE0DD, b"", syntax.order)
    return body


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The UIDs of one instance."""

    sop_class_uid: str = acceptance.DERMOSCOPIC_PHOTOGRAPHY
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str = field(default="1.2.826.0.1.3680043.2.1125.7")


def draw_identity(rng: Random) -> Identity:
    """Return an identity that no other draw gives."""
    number = rng.getrandbits(96)
    return Identity(sop_instance_uid=f"2.25.{number}", study_instance_uid=f"2.25.{number % 9973}9")


def well_formed(identity: Identity, syntax: Syntax, rng: Random) -> list[Node]:
    """Return a small image with a sequence of each kind; nothing in it lies."""
    side = rng.choice((1, 2, 4))
    short = struct.Struct(syntax.order + "H").pack
    code = [
        Node(tag=0x00080100, vr="SH", value=b"77568009"),
        Node(tag=0x00080102, vr="SH", value=b"SCT"),
        Node(tag=0x00080104, vr="LO", value=b"Back"),
    ]
    is_encapsulated = syntax.uid == acceptance.JPEG_BASELINE
    pixels = rng.randbytes(200) if is_encapsulated else bytes(side * side * 3)
    return [
        Node(tag=0x00080005, vr="CS", value=b"ISO_IR 192"),
        Node(tag=0x00080016, vr="UI", value=identity.sop_class_uid.encode()),
        Node(tag=0x00080018, vr="UI", value=identity.sop_instance_uid.encode()),
        Node(tag=0x00080020, vr="DA", value=b"20260301"),
        Node(tag=0x00080060, vr="CS", value=b"DMS"),
        Node(tag=0x00082218, vr="SQ", value=[code], length=rng.choice((None, UNDEFINED))),
        Node(tag=0x00090010, vr="LO", value=b"ACME 1.0"),
        Node(tag=0x00091001, vr="UN", value=[[*code]], length=UNDEFINED)
        if syntax.is_implicit
        else Node(tag=0x00091001, vr="UN", value=b"opaque"),
        Node(tag=0x00100010, vr="PN", value="Prüfling^Anna".encode()),
        Node(tag=0x00100020, vr="LO", value=b"CANARY-ID"),
        Node(tag=0x0020000D, vr="UI", value=identity.study_instance_uid.encode()),
        Node(tag=0x0020000E, vr="UI", value=identity.series_instance_uid.encode()),
        Node(tag=0x00280002, vr="US", value=short(3)),
        Node(tag=0x00280004, vr="CS", value=b"RGB"),
        Node(tag=0x00280008, vr="IS", value=b"1"),
        Node(tag=0x00280010, vr="US", value=short(side)),
        Node(tag=0x00280011, vr="US", value=short(side)),
        Node(tag=0x00280100, vr="US", value=short(8)),
        nested(rng.choice((1, 2, 5)), length=rng.choice((None, UNDEFINED))),
        Node(tag=0x7FE00010, vr="OB", value=pixels, is_fragmented=is_encapsulated),
    ]


def _lie_about_length(nodes: list[Node], rng: Random) -> None:
    node = rng.choice(nodes)
    true = len(node.value) if isinstance(node.value, bytes) else 64
    node.length = rng.choice(
        (0, 1, true + 1, true - 1, true + 2, true * 2, 0xFFFE, 0x7FFFFFFF, 0xFFFFFFFE, UNDEFINED)
    )


def _change_vr(nodes: list[Node], rng: Random) -> None:
    rng.choice(nodes).vr = rng.choice(_ODD_VRS)


def _change_tag(nodes: list[Node], rng: Random) -> None:
    rng.choice(nodes).tag = rng.choice(_ODD_TAGS)


def _change_value(nodes: list[Node], rng: Random) -> None:
    node = rng.choice(nodes)
    node.value = rng.choice((*_TEXTS, rng.randbytes(rng.randint(0, 40))))


def _change_character_set(nodes: list[Node], rng: Random) -> None:
    nodes[0].value = rng.choice(_CHARACTER_SETS).encode()


def _drop(nodes: list[Node], rng: Random) -> None:
    if len(nodes) > 1:
        nodes.pop(rng.randrange(len(nodes)))


def _repeat(nodes: list[Node], rng: Random) -> None:
    nodes.insert(rng.randrange(len(nodes)), replace(rng.choice(nodes)))


def _reorder(nodes: list[Node], rng: Random) -> None:
    one, two = rng.randrange(len(nodes)), rng.randrange(len(nodes))
    nodes[one], nodes[two] = nodes[two], nodes[one]


def _insert_odd(nodes: list[Node], rng: Random) -> None:
    value = rng.choice((b"", b"x", rng.randbytes(12)))
    odd = Node(tag=rng.choice(_ODD_TAGS), vr=rng.choice(_ODD_VRS), value=value)
    nodes.insert(rng.randrange(len(nodes) + 1), odd)


def _nest(nodes: list[Node], rng: Random) -> None:
    depth = rng.choice((2, 10, 100, 127, 128, 129, 255, 256, 257, 300))
    length = UNDEFINED if depth > 100 else rng.choice((None, UNDEFINED))
    nodes.insert(
        rng.randrange(len(nodes) + 1), nested(depth, is_closed=rng.random() < 0.7, length=length)
    )


def _leave_open(nodes: list[Node], rng: Random) -> None:
    node = rng.choice([*(n for n in nodes if n.is_fragmented or n.vr in ("SQ", "UN")), nodes[-1]])
    node.length, node.is_closed = UNDEFINED, False


def _fragment(nodes: list[Node], rng: Random) -> None:
    node = rng.choice(nodes)
    if isinstance(node.value, bytes):
        node.is_fragmented = not node.is_fragmented


_MUTATIONS: Sequence[Callable[[list[Node], Random], None]] = (
    _lie_about_length,
    _lie_about_length,
    _change_vr,
    _change_tag,
    _change_value,
    _change_value,
    _change_character_set,
    _drop,
    _repeat,
    _reorder,
    _insert_odd,
    _nest,
    _leave_open,
    _fragment,
)


def draw_data_set(
    identity: Identity, syntax: Syntax, rng: Random, mutations: int | None = None
) -> bytes:
    """Return an encoded data set after mutations of its structure, and sometimes of its bytes."""
    nodes = well_formed(identity, syntax, rng)
    count = rng.choice((0, 1, 1, 1, 2, 3, 6)) if mutations is None else mutations
    for _ in range(count):
        rng.choice(_MUTATIONS)(nodes, rng)
    encoded = encode(nodes, syntax)
    if mutations is None and rng.random() < 0.35:
        return mutate(encoded, rng)
    return encoded


def draw_file(rng: Random) -> bytes:
    """Return a DICOM file (PS3.10 7) with a drawn data set, its meta information sometimes odd."""
    syntax = rng.choice(list(SYNTAXES.values()))
    identity = draw_identity(rng)
    meta = encode_file_meta(
        sop_class_uid=identity.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        transfer_syntax_uid=rng.choice((syntax.uid,) * 6 + ("1.2.840.10008.1.2.4.90", "", "1.2")),
    )
    kind = rng.random()
    if kind < 0.1:
        meta = mutate(meta, rng)
    elif kind < 0.15:
        meta = b""
    elif kind < 0.2:
        meta = meta[132:]
    return meta + draw_data_set(identity, syntax, rng)
