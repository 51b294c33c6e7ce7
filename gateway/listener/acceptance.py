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

from gateway.errors import PeerSyntaxError

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
RLE_LOSSLESS = "1.2.840.10008.1.2.5"

# The acceptor picks the first of these that the requestor proposed in the same context. Compressed
# before native: a slide must never be blown up on its way to us. Reversible before irreversible:
# where a requestor offers both for one class, nothing may invite it to degrade pixels.
REVERSIBLE_SYNTAXES = (
    JPEG_LOSSLESS_SV1,
    JPEG_LOSSLESS,
    JPEG_LS_LOSSLESS,
    JPEG_2000_LOSSLESS,
    RLE_LOSSLESS,
)
IRREVERSIBLE_SYNTAXES = (JPEG_BASELINE, JPEG_EXTENDED, JPEG_2000, JPEG_LS_NEAR_LOSSLESS)
NATIVE_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
IMAGE_SYNTAXES = (*REVERSIBLE_SYNTAXES, *IRREVERSIBLE_SYNTAXES, *NATIVE_SYNTAXES)
RESULT_SYNTAXES = (*REVERSIBLE_SYNTAXES, *NATIVE_SYNTAXES)

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
    | _accepted(_DOCUMENTS, NATIVE_SYNTAXES, has_pixel_data=False)
)
"""Storage SOP classes by UID."""


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


_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 6.2, VR AE: no backslash, no control


def is_ae_title(text: str) -> bool:
    """Return whether ``text`` is an application entity title (PS3.5 6.2).

    Examples
    --------
    >>> is_ae_title("PACS1"), is_ae_title("   "), is_ae_title("A" * 17)
    (True, False, False)
    """
    return _AE_TITLE.fullmatch(text) is not None and text.strip() != ""


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
