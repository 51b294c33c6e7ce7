"""What the listener accepts: SOP classes, transfer syntaxes, peers, and the statuses it answers.

Pure tables and decisions; ``gateway.listener.server`` translates them to the network. The
conformance statement is checked against these tables.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from pydicom._uid_dict import UID_dictionary

from gateway.errors import PeerSyntaxError, SettingsError

VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 A.4

# PS3.5 Annex A
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
JPEG_XL_LOSSLESS = "1.2.840.10008.1.2.4.110"
JPEG_XL_JPEG_RECOMPRESSION = "1.2.840.10008.1.2.4.111"
JPEG_XL = "1.2.840.10008.1.2.4.112"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.203"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"

# The acceptor picks the first of these that the requestor proposed in the same context. Compressed
# before native: a slide must never be blown up on its way to us. Reversible before irreversible:
# where a requestor offers both for one class, nothing may invite it to degrade pixels.
REVERSIBLE_SYNTAXES = (
    JPEG_LOSSLESS_SV1,
    JPEG_LOSSLESS,
    JPEG_LS_LOSSLESS,
    JPEG_2000_LOSSLESS,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    RLE_LOSSLESS,
)
IRREVERSIBLE_SYNTAXES = (JPEG_BASELINE, JPEG_EXTENDED, JPEG_2000, HTJ2K, JPEG_LS_NEAR_LOSSLESS)
NATIVE_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
DEFLATED_SYNTAXES = (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,)
# Behind everything else: hardly a reader knows them yet, so they are taken from whoever has no
# other.
JPEG_XL_SYNTAXES = (JPEG_XL_LOSSLESS, JPEG_XL_JPEG_RECOMPRESSION, JPEG_XL)
IMAGE_SYNTAXES = (
    *REVERSIBLE_SYNTAXES,
    *IRREVERSIBLE_SYNTAXES,
    *NATIVE_SYNTAXES,
    *DEFLATED_SYNTAXES,
    *JPEG_XL_SYNTAXES,
)
RESULT_SYNTAXES = (
    *REVERSIBLE_SYNTAXES,
    *NATIVE_SYNTAXES,
    *DEFLATED_SYNTAXES,
    JPEG_XL_LOSSLESS,
)
DOCUMENT_SYNTAXES = (*NATIVE_SYNTAXES, *DEFLATED_SYNTAXES)

# PS3.4 Table B.5-1
DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"
VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
VL_WHOLE_SLIDE_MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_IMAGES = {
    DERMOSCOPIC_PHOTOGRAPHY: "Dermoscopic Photography Image Storage",
    VL_PHOTOGRAPHIC: "VL Photographic Image Storage",
    VL_WHOLE_SLIDE_MICROSCOPY: "VL Whole Slide Microscopy Image Storage",
    SECONDARY_CAPTURE: "Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.1": "Multi-frame Single Bit Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.2": "Multi-frame Grayscale Byte Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.3": "Multi-frame Grayscale Word Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture Image Storage",
}
# Kinds of our own results: a PACS that routes everything back must not see a failure.
_RESULT_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map Storage",
}
_DOCUMENTS = {
    "1.2.840.10008.5.1.4.1.1.88.11": "Basic Text SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection Document Storage",
    "1.2.840.10008.5.1.4.1.1.104.1": "Encapsulated PDF Storage",
    "1.2.840.10008.5.1.4.1.1.11.2": "Color Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.91.1": "Microscopy Bulk Simple Annotations Storage",
}


@dataclass(frozen=True, kw_only=True)
class AcceptedSopClass:
    """A Storage SOP class that the listener accepts, as SCP."""

    uid: str
    name: str
    transfer_syntaxes: tuple[str, ...]
    """In the order of preference."""
    has_pixel_data: bool
    """Whether every instance carries pixel data (PS3.3 C.7.6.3)."""


def _accepted(
    classes: Mapping[str, str], transfer_syntaxes: tuple[str, ...], *, has_pixel_data: bool
) -> dict[str, AcceptedSopClass]:
    return {
        uid: AcceptedSopClass(
            uid=uid,
            name=name,
            transfer_syntaxes=transfer_syntaxes,
            has_pixel_data=has_pixel_data,
        )
        for uid, name in classes.items()
    }


ACCEPTED_SOP_CLASSES: Mapping[str, AcceptedSopClass] = MappingProxyType(
    _accepted(_IMAGES, IMAGE_SYNTAXES, has_pixel_data=True)
    | _accepted(_RESULT_IMAGES, RESULT_SYNTAXES, has_pixel_data=True)
    | _accepted(_DOCUMENTS, DOCUMENT_SYNTAXES, has_pixel_data=False)
)
"""Storage SOP classes by UID."""


def storage_classes(more: str = "") -> Mapping[str, AcceptedSopClass]:
    """Return the Storage SOP classes that are accepted, by UID.

    Parameters
    ----------
    more
        Comma-separated UIDs or keywords of PS3.6 Table A-1, e.g. ``CTImageStorage``, beside the
        built-in ones. A UID that the table does not name, e.g. a private one, is taken as it is.

    Raises
    ------
    SettingsError
        An entry is neither a keyword of a Storage SOP class nor a UID.

    Examples
    --------
    >>> len(storage_classes("CTImageStorage")) - len(ACCEPTED_SOP_CLASSES)
    1
    """
    names = {}
    for entry in (each.strip() for each in more.split(",")):
        if entry:
            uid, name = _sop_class(entry)
            names[uid] = name
    added = _accepted(names, IMAGE_SYNTAXES, has_pixel_data=False)
    return MappingProxyType(added | dict(ACCEPTED_SOP_CLASSES))


def _sop_class(entry: str) -> tuple[str, str]:
    for uid, (name, kind, _, _, keyword) in UID_dictionary.items():
        if entry in (uid, keyword):
            if kind != "SOP Class" or "Storage" not in name or "Commitment" in name:
                break
            return uid, name
    else:
        if _UID.fullmatch(entry) and len(entry) <= 64:
            return entry, "private"
    raise SettingsError(f"more_sop_classes: {entry!r} is neither a Storage SOP class nor a UID")


class StoreStatus(IntEnum):
    """Statuses that we answer to a C-STORE-RQ (PS3.4 Table B.2-1, PS3.7 Annex C).

    The standard leaves the last bits of Cxxx to the implementation; ours are told apart so that
    the sender's log alone says what was wrong.
    """

    SUCCESS = 0x0000
    """The bytes are on disk and the record is committed, or both already were."""
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    """Refused: SOP class not supported (PS3.7 C.5.6)."""
    OUT_OF_RESOURCES = 0xA700
    """Refused: no disk space, or the record does not answer. Try again later."""
    SOP_CLASS_MISMATCH = 0xA900
    """Error: Affected SOP Class UID and data set disagree."""
    CANNOT_UNDERSTAND = 0xC000
    """Error: not a data set in the negotiated transfer syntax."""
    TRUNCATED = 0xC001
    """Error: the data set ends before its own lengths say so."""
    MISSING_IDENTITY = 0xC002
    """Error: Study, Series or SOP UID absent or invalid."""
    SOP_INSTANCE_MISMATCH = 0xC003
    """Error: Affected SOP Instance UID and data set disagree."""
    TOO_LARGE = 0xC004
    """Error: the data set is longer than this site takes."""
    PROCESSING_FAILURE = 0xC0FF
    """Error: a fault on our side that is not a matter of resources."""


_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")  # PS3.5 9.1
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 6.2, VR AE: no backslash, no control


def is_ae_title(text: str) -> bool:
    """Return whether ``text`` is an application entity title (PS3.5 6.2).

    Examples
    --------
    >>> is_ae_title("PACS1"), is_ae_title("   "), is_ae_title("A" * 17)
    (True, False, False)
    """
    return _AE_TITLE.fullmatch(text) is not None and text.strip() != ""


def parse_ae_titles(ae_title: str, more: str = "") -> tuple[str, ...]:
    """Return our AE titles: the first one, then the comma-separated others.

    Raises
    ------
    SettingsError
        One of them is no AE title.

    Examples
    --------
    >>> parse_ae_titles("LENTIGO", "DERM, PATHO")
    ('LENTIGO', 'DERM', 'PATHO')
    """
    titles = [ae_title.strip(), *(entry.strip() for entry in more.split(",") if entry.strip())]
    for title in titles:
        if not is_ae_title(title):
            raise SettingsError(
                f"AE title {title!r}: 1 to 16 printable ASCII characters, no backslash"
            )
    return tuple(dict.fromkeys(titles))


IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An entry of the allow-list: who may associate, from where.

    Attributes
    ----------
    ae_title
        Calling AE title; ``*`` stands for any run of characters.
    network
        Addresses the peer may have; None when ``host_name`` says it.
    host_name
        A name to be resolved when the peer calls; empty when ``network`` says it.
    """

    ae_title: str
    network: IpNetwork | None
    host_name: str = ""

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read ``AET@HOST``, ``AET@NETWORK`` or ``*@NETWORK``.

        Raises
        ------
        PeerSyntaxError
            The message names the field at fault: AE title, host or network.

        Examples
        --------
        >>> Peer.parse("*@127.0.0.0/8").network
        IPv4Network('127.0.0.0/8')
        """
        ae_title, separator, place = text.strip().rpartition("@")
        if not separator:
            raise PeerSyntaxError(f"peer {text!r}: no '@' between AE title and host")
        ae_title, place = ae_title.strip(), place.strip()
        if not is_ae_title(ae_title):
            raise PeerSyntaxError(
                f"peer {text!r}: AE title must be 1 to 16 printable ASCII characters, no backslash"
            )
        if not place:
            raise PeerSyntaxError(f"peer {text!r}: host is empty")
        network = _parse_network(text, place)
        return cls(ae_title=ae_title, network=network, host_name="" if network else place)

    def admits(self, calling_ae_title: str, address: str, resolve: Resolver) -> bool:
        """Return whether this entry admits the caller; ``resolve`` gives a name's addresses."""
        if not _matches(self.ae_title, calling_ae_title.strip()):
            return False
        caller = _normalise_address(address)
        if caller is None:
            return False
        if self.network is not None:
            return caller in self.network
        return caller in {_normalise_address(found) for found in resolve(self.host_name)}


_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


def _parse_network(text: str, place: str) -> IpNetwork | None:
    place = place.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_network(place, strict=False)
    except ValueError:
        pass
    if "/" in place:
        raise PeerSyntaxError(f"peer {text!r}: network is not ADDRESS/PREFIX")
    if not _HOST_NAME.fullmatch(place) or re.fullmatch(r"[0-9.]+", place):
        raise PeerSyntaxError(f"peer {text!r}: host is neither an address nor a host name")
    return None


def _matches(pattern: str, ae_title: str) -> bool:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(expression, ae_title, re.DOTALL) is not None


def _normalise_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address without zone, an IPv4-mapped one as IPv4; None if it is not one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


LOOPBACK_PEERS = (Peer.parse("*@127.0.0.0/8"), Peer.parse("*@::1"))
"""Admitted without being asked for: any AE title of this very machine."""


def parse_peers(entries: Iterable[str], *, admit_loopback: bool = True) -> tuple[Peer, ...]:
    """Return the allow-list: ``entries``, and loopback unless it is left out.

    Raises
    ------
    PeerSyntaxError
        An entry cannot be read; the message names it and its field at fault.
    """
    given = tuple(Peer.parse(entry) for entry in entries)
    return (*LOOPBACK_PEERS, *given) if admit_loopback else given


def _resolve_nothing(_host_name: str) -> tuple[str, ...]:
    return ()


def is_allowed(
    calling_ae_title: str,
    address: str,
    peers: Iterable[Peer] = LOOPBACK_PEERS,
    resolve: Resolver = _resolve_nothing,
) -> bool:
    """Return whether a caller may associate.

    Parameters
    ----------
    calling_ae_title
        As received; leading and trailing spaces do not count (PS3.5 6.2).
    address
        The caller's IP address.
    peers
        The allow-list; any AE title from loopback by default.
    resolve
        Gives the addresses of a host name; asked only for entries that name one.

    Examples
    --------
    >>> is_allowed("ANY", "127.0.0.1"), is_allowed("ANY", "192.0.2.7")
    (True, False)
    """
    return any(peer.admits(calling_ae_title, address, resolve) for peer in peers)
