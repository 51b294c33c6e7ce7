"""Data sets as DICOM JSON (PS3.18 Annex F) and native XML (PS3.19 A.1), and the choice of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from starlette.responses import Response

from gateway.dicomweb.multipart import MediaType
from gateway.errors import WebRequestRefused

JSON = "application/dicom+json"
XML = "application/dicom+xml"
PLAIN_JSON = "application/json"
_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")


def choose(accept: str, offered: Sequence[str]) -> str:
    """Return the media type to answer in (PS3.18 8.7.4); the first offered one if all the same.

    Raises
    ------
    WebRequestRefused
        406: none of them is acceptable.

    Examples
    --------
    >>> choose("application/dicom+xml;q=0.9, */*;q=0.1", (JSON, XML))
    'application/dicom+xml'
    """
    wanted = accepted(accept)
    if not wanted:
        return offered[0]

    def weight(media_type: str) -> float:
        family = media_type.partition("/")[0] + "/*"
        for pattern in (media_type, family, "*/*"):
            found = [_quality(each) for each in wanted if essence_of(each) == pattern]
            if found:
                return max(found)
        return 0.0

    best = max(offered, key=weight)
    if not weight(best):
        raise WebRequestRefused(f"answers come as {' or '.join(offered)}", 406)
    return best


def accepted(accept: str) -> list[MediaType]:
    """Return the media types of an Accept header; none where it is empty."""
    return [MediaType.parse(entry) for entry in _entries(accept)] if accept.strip() else []


def _entries(accept: str) -> Iterable[str]:
    """Split at commas that stand outside quotes."""
    entry, is_quoted = "", False
    for character in accept:
        is_quoted ^= character == '"'
        if character == "," and not is_quoted:
            yield entry
            entry = ""
        else:
            entry += character
    yield entry


def essence_of(wanted: MediaType) -> str:
    """Return what a multipart of one type asks for: some clients write it so (PS3.18 8.6.1.2)."""
    inner = wanted.parameters.get("type", "").lower()
    return inner if wanted.essence == "multipart/related" and inner else wanted.essence


def _quality(wanted: MediaType) -> float:
    try:
        return min(1.0, max(0.0, float(wanted.parameters.get("q", "1"))))
    except ValueError:
        return 1.0


def answer(
    found: Dataset | Sequence[Dataset],
    media_type: str,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return data sets as an HTTP response.

    In JSON several are an array (PS3.18 F.2.1), and one given by itself is one object: so the
    Store Instances Response is read by dicomweb-client and Orthanc. XML holds the first.
    """
    several = [found] if isinstance(found, Dataset) else list(found)
    if media_type == XML:
        body = encode_xml(several[0])
    else:
        models = [each.to_json_dict() for each in several]
        body = json.dumps(models[0] if isinstance(found, Dataset) else models).encode()
    return Response(body, status_code, dict(headers or {}), media_type=media_type)


def encode_xml(ds: Dataset) -> bytes:
    """Return a data set as a native DICOM model (PS3.19 A.1.5); it holds no bulk data."""
    root = ET.Element("NativeDicomModel", {"xmlns": _NAMESPACE, "xml:space": "preserve"})
    _append(root, ds.to_json_dict())
    head = b'<?xml version="1.0" encoding="UTF-8"?>\n'
    body: bytes = ET.tostring(root, "utf-8", xml_declaration=False)
    return head + body


def _append(parent: ET.Element, model: Mapping[str, Any]) -> None:
    for tag, attribute in model.items():
        names = {"tag": tag, "vr": attribute["vr"], "keyword": keyword_for_tag(int(tag, 16))}
        element = ET.SubElement(parent, "DicomAttribute", names)
        for number, value in enumerate(attribute.get("Value", ()), start=1):
            numbered = {"number": str(number)}
            if attribute["vr"] == "SQ":
                _append(ET.SubElement(element, "Item", numbered), value)
            elif attribute["vr"] == "PN":
                _append_name(ET.SubElement(element, "PersonName", numbered), value)
            elif value is not None:
                ET.SubElement(element, "Value", numbered).text = str(value)


def _append_name(element: ET.Element, name: Mapping[str, str]) -> None:
    for group in ("Alphabetic", "Ideographic", "Phonetic"):
        if name.get(group):
            inner = ET.SubElement(element, group)
            for part, text in zip(_NAME_PARTS, name[group].split("^"), strict=False):
                if text:
                    ET.SubElement(inner, part).text = text
