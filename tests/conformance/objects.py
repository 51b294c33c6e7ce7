"""Tables of the objects that are made, read off objects of every result kind."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache
from pathlib import Path

import highdicom
from pydicom import DataElement, Dataset
from pydicom.filewriter import correct_ambiguous_vr_element
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

import reports
from gateway.delivery.routes import KINDS
from reports.coding import PRIVATE_SCHEME, Concept
from tests.conformance.markdown import table
from tests.every_result import CASES, made

_STANDARD = Path(highdicom.__file__).parent / "_standard"
_SHORT = 40


@cache
def _standard(name: str) -> dict[str, object]:
    import json

    found = json.loads((_STANDARD / f"{name}.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


@cache
def _made() -> dict[str, list[tuple[str, str, Dataset, Sequence[Dataset]]]]:
    """Return kind of object -> analysis, role, object and headers of its sources."""
    kinds = {uid: kind for kind, uid in KINDS.items()}
    found: dict[str, list[tuple[str, str, Dataset, Sequence[Dataset]]]] = defaultdict(list)
    for case in CASES:
        result = made(case)
        headers = [source.header for source in result.context.sources]
        for each in result.objects:
            kind = kinds[str(each.dataset.SOPClassUID)]
            found[kind].append((case.partition(",")[0], each.role, each.dataset, headers))
    return found


def created() -> str:
    """Return the SOP classes of results, who makes them, and how they are encoded."""
    rows = []
    for kind, uid in KINDS.items():
        objects = _made().get(kind, [])
        roles = defaultdict(set)
        for analysis, role, _, _ in objects:
            roles[analysis].add(re.sub(r"-\d+$", "", role))
        makers = "; ".join(f"{name}: {', '.join(sorted(each))}" for name, each in roles.items())
        syntaxes = {UID(ds.file_meta.TransferSyntaxUID).name for _, _, ds, _ in objects}
        sets = {str(ds.get("SpecificCharacterSet")) for _, _, ds, _ in objects}
        rows.append(
            (f"`{kind}`", UID(uid).name, uid, makers or "none at present",
             ", ".join(sorted(syntaxes)), ", ".join(sorted(sets)))
        )  # fmt: skip
    head = (
        "Kind",
        "SOP class",
        "UID",
        "Made by analysis: role",
        "Transfer syntax",
        "Character set",
    )
    return table(head, rows)


def _modules(uid: str) -> list[tuple[str, str]]:
    """Return the modules of an IOD with their usage (PS3.3, as highdicom carries it)."""
    iod = _standard("sop_class_iod_map")[uid]
    found = _standard("iod_module_map")[str(iod)]
    assert isinstance(found, list)
    return [(str(each["key"]), str(each["usage"])) for each in found]


def _module_tags(module: str) -> list[str]:
    attributes = _standard("module_attribute_map")[module]
    assert isinstance(attributes, list)
    return [str(each["keyword"]) for each in attributes if not each["path"]]


def modules() -> str:
    """Return, for each IOD, which of its modules are written."""
    parts = []
    for kind, objects in _made().items():
        rows = []
        used = [{each.keyword for each in ds} for _, _, ds, _ in objects]
        for module, usage in _modules(KINDS[kind]):
            own = set(_module_tags(module)) - _SHARED
            count = sum(bool(own & each) for each in used)
            if count:
                presence = "ALWAYS" if count == len(used) else "CONDITIONAL"
                rows.append((module.replace("-", " ").capitalize(), usage, presence))
        parts.append(f"*{UID(KINDS[kind]).name}*\n\n{table(('Module', 'Usage', 'Presence'), rows)}")
    return "\n\n".join(parts)


# Attributes that stand in modules of many kinds and tell nothing of one.
_SHARED = {"Modality", "InstanceNumber", "ContentDate", "ContentTime", "ImageType"}


def attributes() -> str:
    """Return, for each SOP class, the top-level attributes with presence and source."""
    parts = []
    for kind, objects in _made().items():
        tags = sorted({each.tag for _, _, ds, _ in objects for each in ds})
        rows = [_attribute_row(Tag(tag), objects) for tag in tags]
        head = ("Attribute", "Tag", "VR", "Presence", "Source", "Value")
        parts.append(f"*{UID(KINDS[kind]).name}*\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _attribute_row(
    tag: BaseTag, objects: Sequence[tuple[str, str, Dataset, Sequence[Dataset]]]
) -> tuple[object, ...]:
    # As it is written: an object in memory may have "OB or OW" until then.
    elements = [
        correct_ambiguous_vr_element(copy(ds[tag]), ds, is_little_endian=True)
        for _, _, ds, _ in objects
        if tag in ds
    ]
    if len(elements) < len(objects):
        presence = "ANAP"
    elif all(element.is_empty for element in elements):
        presence = "EMPTY"
    else:
        presence = "VNAP" if any(element.is_empty for element in elements) else "ALWAYS"
    source, value = _source(tag, elements, objects)
    name = elements[0].name
    return name, f"({tag.group:04X},{tag.element:04X})", elements[0].VR, presence, source, value


def _source(
    tag: BaseTag,
    elements: Sequence[DataElement],
    objects: Sequence[tuple[str, str, Dataset, Sequence[Dataset]]],
) -> tuple[str, str]:
    """Return where a value comes from: COPY, FIXED or AUTO (PS3.2 A.8.1), and a fixed one."""
    filled = [(ds[tag], heads) for _, _, ds, heads in objects if tag in ds and not ds[tag].is_empty]
    if not filled:
        return "", ""
    is_copied = tag.group in _COPIED_GROUPS or tag in _COPIED_TAGS
    if is_copied and all(_is_copied(tag, each, heads) for each, heads in filled):
        return "COPY", ""
    values = {_text(element) for element, _ in filled}
    if len(values) == 1 and tag in _FIXED_TAGS:
        return "FIXED", values.pop()[:_SHORT]
    return "AUTO", ""


def _is_copied(tag: BaseTag, element: DataElement, headers: Sequence[Dataset]) -> bool:
    return any(tag in header and header[tag] == element for header in headers)


_COPIED_GROUPS = (0x0010,)
_COPIED_TAGS = {
    Tag(keyword)
    for keyword in (
        "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
        "ReferringPhysicianName", "StudyDescription", "FrameOfReferenceUID", "ContainerIdentifier",
        "SpecimenDescriptionSequence", "IssuerOfTheContainerIdentifierSequence",
        "ContainerTypeCodeSequence", "Laterality", "PositionReferenceIndicator",
        "ReferencedStudySequence", "ReasonForPerformedProcedureCodeSequence",
    )
}  # fmt: skip
_FIXED_TAGS = {
    Tag(keyword)
    for keyword in (
        "SOPClassUID", "Modality", "SpecificCharacterSet", "Manufacturer", "ManufacturerModelName",
        "ConversionType", "CompletionFlag", "VerificationFlag", "PreliminaryFlag", "ValueType",
        "ContinuityOfContent", "SegmentationType", "BurnedInAnnotation",
        "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation",
        "PlanarConfiguration", "LossyImageCompression", "MIMETypeOfEncapsulatedDocument",
        "ContentQualification", "TimezoneOffsetFromUTC", "DimensionOrganizationType",
        "RecognizableVisualFeatures", "ContentLabel", "PresentationLUTShape",
    )
}  # fmt: skip


def _text(element: DataElement) -> str:
    value = element.value
    return "\\".join(map(str, value)) if element.VM > 1 else str(value)


def private_attributes() -> str:
    """Return the private attributes of the objects, as a sentence or a table."""
    found = {
        (f"({each.tag.group:04X},{each.tag.element:04X})", str(each.VR), kind)
        for kind, objects in _made().items()
        for _, _, ds, _ in objects
        for each in ds.iterall()
        if each.tag.is_private
    }
    if not found:
        return "No object holds a private attribute."
    return table(("Tag", "VR", "Kind"), sorted(found))


def templates() -> str:
    """Return the templates of PS3.16 by what the reports are made with."""
    roots = {
        (item.MappingResource, item.TemplateIdentifier)
        for _, _, ds, _ in _made()["sr"]
        for item in ds.ContentTemplateSequence
    }
    used = _named_templates()
    root = ", ".join(f"TID {number} ({resource})" for resource, number in sorted(roots))
    rows = [(f"TID {number}", ", ".join(f"`{each}`" for each in sorted(places)))
            for number, places in sorted(used.items())]  # fmt: skip
    return f"Root template: {root}.\n\n{table(('Template', 'Encoded by'), rows)}"


def _named_templates() -> dict[int, set[str]]:
    folder = Path(reports.__file__).parent
    found: dict[int, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("*.py")):
        for match in re.finditer(r"TID ((?:\d+(?:, | and | to )?)+)", path.read_text("utf-8")):
            for number in re.findall(r"\d{3,5}", match[1]):
                found[int(number)].add("reports/" + str(path.relative_to(folder)))
    return found


def concepts() -> Iterator[Concept]:
    """Yield every coded concept of ``reports``, each once."""
    found: dict[tuple[str, str], Concept] = {}
    for info in pkgutil.walk_packages(reports.__path__, "reports."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            for concept in _concepts_in(value):
                found.setdefault((concept.scheme, concept.value), concept)
    yield from (found[key] for key in sorted(found))


def _concepts_in(value: object) -> Iterator[Concept]:
    if isinstance(value, Concept):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _concepts_in(each)
    elif isinstance(value, tuple | list | frozenset):
        for each in value:
            yield from _concepts_in(each)


def private_codes() -> str:
    """Return the concepts of the private coding scheme."""
    rows = [(each.value, each.meaning) for each in concepts() if each.scheme == PRIVATE_SCHEME]
    return table((f"Code Value ({PRIVATE_SCHEME})", "Code Meaning"), rows)


def standard_codes() -> str:
    """Return the concepts of public schemes, with where each was checked."""
    rows = [
        (each.scheme, each.value, each.meaning, each.origin)
        for each in concepts()
        if each.scheme != PRIVATE_SCHEME and each.verified
    ]
    return table(("Scheme", "Code Value", "Code Meaning", "Origin"), rows)


OBJECT_TABLES: dict[str, Callable[[], str]] = {
    "created objects": created,
    "modules": modules,
    "attributes": attributes,
    "private attributes": private_attributes,
    "templates": templates,
    "private codes": private_codes,
    "standard codes": standard_codes,
}
