"""Who made a result, from what, and when: the modules that every result object shares."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from copy import deepcopy

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from models.results import ModelIdentity
from reports import coding
from reports.attributes import copied
from reports.coding import shorten
from reports.context import ReportContext
from reports.source import PATIENT_AND_STUDY, Source
from reports.uids import result_uid

MANUFACTURER = "Lentigo"
MODEL_NAME = "Lentigo"
"""By Manufacturer and Manufacturer's Model Name an object is known as ours, whoever sends it."""

CHARACTER_SET = "ISO_IR 192"  # UTF-8, PS3.3 C.12.1.1.2: holds whatever the sources held

_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
_LO_LENGTH = 64  # PS3.5 6.2
_DISCLAIMERS = (": not for diagnostic use without review", ": not for diagnostic use", "")


def result_uids(
    source: Source, model: ModelIdentity, context: ReportContext
) -> Callable[[str], str]:
    """The UIDs of a result's objects, series and dimensions, by their role."""

    def uid(role: str) -> str:
        return result_uid(
            source.study_instance_uid, context.generation, context.analysis, model.digest, role
        )

    return uid


def series_description(content: str, context: ReportContext) -> str:
    """Series Description: ``AI``, what the series holds, its revision, what it is not for."""
    revision = f" rev. {context.generation}" if context.generation > 1 else ""
    candidates = (f"AI {content}{revision}{tail}" for tail in _DISCLAIMERS)
    fitting = (text for text in candidates if len(text) <= _LO_LENGTH)
    return next(fitting, shorten(f"AI {content}{revision}", _LO_LENGTH))


def series_number(kind: int, index: int = 0) -> int:
    """Series Number: 9, the kind of object, and the index of the image in the result.

    The digits are joined, so numbers of different kinds never meet.

    Examples
    --------
    >>> series_number(0, 1), series_number(1, 12), series_number(1, 112)
    (9001, 9112, 91112)
    """
    return int(f"9{kind}{index:02d}")


def _local_time(created_at: datetime.datetime, header: Dataset) -> datetime.datetime:
    """The time of the result on the clock of the source, if the source names its timezone."""
    zone = _stated_zone(header)
    return created_at if zone is None else created_at.astimezone(zone)


def _stated_zone(header: Dataset) -> datetime.timezone | None:
    offset = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", str(header.get("TimezoneOffsetFromUTC", "")))
    if offset is None or int(offset[2]) > 14:  # -1200 to +1400, PS3.3 C.12.1.1.8
        return None
    sign = -1 if offset[1] == "-" else 1
    minutes = sign * (int(offset[2]) * 60 + int(offset[3]))
    return datetime.timezone(datetime.timedelta(minutes=minutes))


def acquisition_equipment(source: Source) -> Dataset | None:
    """Item of Contributing Equipment Sequence for the device that took the source image."""
    item = copied(source.header, _EQUIPMENT)
    if "Manufacturer" not in item:  # type 1 in the item, PS3.3 C.12.1
        return None
    item.PurposeOfReferenceCodeSequence = [coding.ACQUISITION_EQUIPMENT.as_item()]
    return item


def stamp(ds: Dataset, sources: list[Source], context: ReportContext) -> None:
    """Write the Patient, Study, Equipment, SOP Common and date attributes into a result.

    Parameters
    ----------
    ds
        The object; its SOP, series and content attributes are the caller's.
    sources
        At least one; patient and study are those of the first.
    context
        Time, installation and version.

    Notes
    -----
    Timezone Offset From UTC covers every date and time of an object, those copied from the source
    included (PS3.3 C.12.1.1.8). So it is written only where the source states it, and the
    result's own times are then converted to it; else they stay in the zone of ``created_at``.
    """
    header = sources[0].header
    ds.SpecificCharacterSet = CHARACTER_SET
    for keyword in PATIENT_AND_STUDY:
        if keyword in header:
            ds.add(deepcopy(header[keyword]))
    created_at = _local_time(context.created_at, header)
    date, time = created_at.strftime("%Y%m%d"), created_at.strftime("%H%M%S")
    ds.InstanceCreationDate = ds.SeriesDate = ds.ContentDate = date
    ds.InstanceCreationTime = ds.SeriesTime = ds.ContentTime = time
    if _stated_zone(header) is not None:
        ds.TimezoneOffsetFromUTC = header.TimezoneOffsetFromUTC
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = MODEL_NAME
    ds.SoftwareVersions = shorten(context.software_version, _LO_LENGTH)
    ds.DeviceSerialNumber = shorten(context.device_serial, _LO_LENGTH)
    equipment = _distinct([acquisition_equipment(source) for source in sources])
    if equipment:
        ds.ContributingEquipmentSequence = equipment
    elif "ContributingEquipmentSequence" in ds:
        del ds.ContributingEquipmentSequence


def _distinct(items: list[Dataset | None]) -> list[Dataset]:
    distinct: list[Dataset] = []
    for item in items:
        if item is not None and item not in distinct:
            distinct.append(item)
    return distinct


def observed_at(context: ReportContext, source: Source) -> datetime.datetime:
    """Observation time on the same clock as the object's other times."""
    return _local_time(context.created_at, source.header)


def file_meta(ds: Dataset) -> FileMetaDataset:
    """File Meta Information for an uncompressed object (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(ds.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(ds.SOPInstanceUID))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
