"""Deliveries as values: where a result goes, what is sent, and what became of it. No network."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.errors import GatewayError

_DESTINATION = re.compile(r"([^@\\]+)@(\[[0-9A-Fa-f:.%\w]+\]|[^@:\[\]\s]+):(\d{1,5})")

KINDS = {
    "sr": "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "sc": "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: overviews, contact sheets, pairs
    "flicker": "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
    "pdf": "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF
    "map": "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "ann": "1.2.840.10008.5.1.4.1.1.91.1",  # Microscopy Bulk Simple Annotations
}
"""Kind of result object -> its SOP Class (PS3.4 Table B.5-1). A kind can be switched off."""

_TLS = "tls"

_MAX_NAME = 128  # as the record keeps it

FOLDER = "folder"
"""Name of the results folder as a destination."""


class DestinationError(GatewayError):
    """A destination cannot be used; the message says how one is written."""


class ObjectState(enum.Enum):
    """Where one object stands after an attempt."""

    PENDING = "PENDING"
    """Not stored; worth another attempt."""
    STORED = "STORED"
    """The destination said it has it; not confirmed yet."""
    CONFIRMED = "CONFIRMED"
    """The destination lists it, or offers nothing better than its C-STORE answer."""
    REFUSED = "REFUSED"
    """The destination will never take it."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A storage SCP."""

    ae_title: str
    host: str
    port: int
    is_tls: bool = False
    """Whether it is spoken to over TLS."""

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read ``AET@HOST:PORT``, with ``/tls`` behind it for TLS; an IPv6 host in brackets.

        Raises
        ------
        DestinationError
            If the text does not name a destination.

        Examples
        --------
        >>> Destination.parse("ORTHANC@127.0.0.1:4242").port
        4242
        >>> Destination.parse("PACS@pacs.local:2762/tls").is_tls
        True
        """
        address, _, option = text.strip().partition("/")
        match = _DESTINATION.fullmatch(address)
        ae_title = match[1].strip() if match else ""
        is_tls = option.strip().lower() == _TLS
        if (
            match is None
            or not 1 <= len(ae_title) <= 16
            or not ae_title.isascii()
            or (option and not is_tls)
        ):
            raise DestinationError(
                "a destination is written AET@HOST:PORT, with an AE title of 1 to 16 ASCII "
                "characters, e.g. ORTHANC@127.0.0.1:4242; /tls behind it is TLS"
            )
        port = int(match[3])
        if not ae_title.isprintable() or not 1 <= port <= 65535:
            raise DestinationError("a destination needs a printable AE title and port 1 to 65535")
        return cls(ae_title=ae_title, host=match[2].strip("[]"), port=port, is_tls=is_tls)

    def __str__(self) -> str:
        """Return ``AET@HOST:PORT``, and ``/tls`` where it is TLS."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}" + (f"/{_TLS}" if self.is_tls else "")


def is_web_address(text: str) -> bool:
    """Return whether a destination is a DICOMweb service and no storage SCP."""
    return text.strip().lower().startswith(("http://", "https://"))


def web_address(text: str) -> str:
    """Return the root of a PACS' DICOMweb services, in the one way that it is recorded.

    Raises
    ------
    DestinationError
        If the text is no such address, or holds credentials.

    Examples
    --------
    >>> web_address("HTTPS://PACS.example:8443/dicom-web/")
    'https://pacs.example:8443/dicom-web'
    """
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:  # its message may quote what stands in the address
        raise DestinationError("a DICOMweb destination has a host or port that is none") from exc
    if parts.username is not None or parts.password is not None:
        raise DestinationError(
            "credentials do not belong in the address of a DICOMweb destination: set "
            "LENTIGO_STOW_USERNAME and LENTIGO_STOW_PASSWORD_FILE, or LENTIGO_STOW_TOKEN_FILE"
        )
    is_plain = text.isascii() and text.strip().isprintable() and " " not in text.strip()
    if not host or parts.query or parts.fragment or not is_plain:
        raise DestinationError(
            "a DICOMweb destination is written https://HOST:PORT/PATH, the root of its services, "
            "e.g. https://pacs.local/dicom-web"
        )
    place = f"[{host}]" if ":" in host else host
    found = f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    if len(found) > _MAX_NAME:
        raise DestinationError(f"the address of a destination has at most {_MAX_NAME} characters")
    return found


def _parse_kinds(options: str, mark: str) -> frozenset[str]:
    is_exclusion = options.startswith("-")
    words = options[1:].split("-") if is_exclusion else options.split("+")
    named = {word.strip().lower() for word in words}
    kinds = frozenset(KINDS) - named if is_exclusion else frozenset(named)
    if not named <= set(KINDS) or not kinds:
        raise DestinationError(
            f"behind the {mark} of a destination stand the kinds that it gets, e.g. sr+seg, or "
            f"those that it does not get, e.g. -pdf; there are {', '.join(KINDS)}"
        )
    return kinds


@dataclass(frozen=True, kw_only=True)
class Route:
    """A destination by name, and the kinds of objects that it gets."""

    name: str
    """``AET@HOST:PORT``, the same with ``/tls``, ``https://HOST/PATH``, or ``folder``."""
    kinds: frozenset[str] = frozenset(KINDS)

    @classmethod
    def parse(cls, text: str) -> Route:
        """Read ``AET@HOST:PORT``, with ``/sr+seg`` behind it for these kinds alone.

        ``/-pdf-seg`` is every kind but these; ``/tls`` comes before either. A DICOMweb service is
        written ``https://HOST/PATH``, with ``#sr+seg`` or ``#-pdf`` behind it.

        Raises
        ------
        DestinationError
            If the text names no destination, or a kind that does not exist, or leaves none.

        Examples
        --------
        >>> sorted(Route.parse("PACS@pacs.local:104/sr+seg").kinds)
        ['seg', 'sr']
        >>> "pdf" in Route.parse("PACS@pacs.local:104/-pdf").kinds
        False
        >>> Route.parse("PACS@pacs.local:2762/tls/sr").name
        'PACS@pacs.local:2762/tls'
        >>> Route.parse("https://pacs.local/dicom-web/#sr").name
        'https://pacs.local/dicom-web'
        """
        if is_web_address(text):
            address, mark, options = text.strip().partition("#")
            kinds = _parse_kinds(options, "number sign") if mark else frozenset(KINDS)
            return cls(name=web_address(address), kinds=kinds)
        address, slash, options = text.strip().partition("/")
        if options.split("/")[0].strip().lower() == _TLS:
            address = f"{address}/{_TLS}"
            _, slash, options = options.partition("/")
        name = str(Destination.parse(address))
        if not slash:
            return cls(name=name)
        return cls(name=name, kinds=_parse_kinds(options, "slash"))

    def takes(self, sop_class_uid: str) -> bool:
        """Whether objects of a SOP Class go there; a class of no known kind always does."""
        return all(sop_class_uid != KINDS[kind] for kind in KINDS if kind not in self.kinds)


def parse_routes(text: str) -> tuple[Route, ...]:
    """Read the destinations of a comma-separated list; the results folder where it is empty.

    Raises
    ------
    DestinationError
        If an entry cannot be read, or a destination stands there twice.
    """
    routes = tuple(Route.parse(entry) for entry in text.split(",") if entry.strip())
    if len({route.name for route in routes}) != len(routes):
        raise DestinationError("a destination is named twice")
    return routes or (Route(name=FOLDER),)


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """One result object to deliver."""

    id: int
    """Id of the delivery, given back in the outcome."""
    path: Path
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    sha256: str
    """Digest of the file as it was written, in hexadecimal."""
    is_stored: bool = False
    """An earlier attempt stored it: only ask the destination to confirm it."""
    asks_commitment: bool = True
    """Whether storage commitment is worth a request."""
    unanswered: int = 0
    """Requests for storage commitment that were not answered in time."""
    faults: int = 0
    """Times in a row that the destination ended the association at it, or went silent."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one object."""

    id: int
    state: ObjectState
    status: int | None = None
    """DIMSE status of the C-STORE; None when none was received."""
    reason: str = ""
    """Why it is not confirmed; or the warning it was stored with."""
    confirmed_by: str = ""
    """``commitment``, ``c-find``, ``c-store`` or ``read-back``."""
    is_unreachable: bool = False
    """The destination gave no answer at all."""
    is_fault: bool = False
    """The association ended, or went silent, at this very object."""
    retry_in_s: float | None = None
    """When another attempt is worth it, where that is known."""
