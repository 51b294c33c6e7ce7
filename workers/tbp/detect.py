"""Which instances of a study are lesion tiles of total body photography. Pure over its ports.

Called by routing, of every analysis that takes photographs: it reads a few headers of each series
of photographs, never all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from gateway.store.values import InstanceRow
from reports.attributes import copied
from workers.errors import Undecodable
from workers.photographs import DERMOSCOPIC_PHOTOGRAPHY, is_photograph
from workers.study import Study
from workers.tbp.content import CONTENT
from workers.tbp.structured import SR_CLASSES

PRIVATE_GROUP, PRIVATE_CREATOR = 0x0019, "99DERMAI TBP 1.0"
"""Private block whose element 01 holds a tile's measurements as JSON."""
IMAGE_TYPE = "TBP"
"""Value of Image Type (value 3 or later) that marks a tile."""
SKIN_IMAGE_TYPE = "SKIN"
"""Value of Image Type of a tile of skin, from which photodamage is graded."""
MIN_TRACKED_TILES = 20
"""Tracked photographs in a series from which it counts as tiles without any other mark."""
MAX_TRACKED_SIDE_PX = 512
"""Longer side up to which a photograph without any other mark can be a tile; real tiles have 91 to
159 pixels, photographs of a camera at least 640."""
_DESCRIPTION = re.compile(
    r"\b(tbp|total[- ]body|lesion tiles?|vectra|wb360|atbm|3d body)\b", re.IGNORECASE
)
_DISTINCTIVE = (b"deltalbnorm", b"nevi_confidence", b"radial_color_std_max", b"symm_2axis")
_REPORTS = 4  # structured reports that are looked into
_READ = ("ImageType", "SeriesDescription", "TrackingID", "TrackingUID", "Rows", "Columns")


@dataclass(frozen=True, kw_only=True)
class TileSeries:
    """The photographs of one series that are lesion tiles."""

    instances: tuple[InstanceRow, ...]
    mark: str
    """What told so, readable."""


def tile_series(study: Study) -> tuple[TileSeries, ...]:
    """Find the series of lesion tiles.

    Returns
    -------
    tuple of TileSeries
        In the order of the study; empty for a study without total body photography.

    Raises
    ------
    InstanceMissing, StorageUnavailable
        From the ports. A header that cannot be read says nothing, for or against.

    Notes
    -----
    A series of photographs (not dermoscopic ones) counts when a header that was read has the
    private block, an Image Type that holds ``TBP``, or a Series Description that names the method;
    without such a mark, when its photographs have at most 512 pixels, every header that was read
    tracks a lesion of its own, and there are at least 20, or measurements came with the study.
    """
    by_series: dict[str, list[InstanceRow]] = {}
    for instance in study.instances:
        if is_photograph(instance) and instance.sop_class_uid != DERMOSCOPIC_PHOTOGRAPHY:
            by_series.setdefault(instance.series_instance_uid, []).append(instance)
    found = []
    for instances in by_series.values():
        mark = _mark_of(study, instances)
        if mark:
            found.append(TileSeries(instances=tuple(instances), mark=mark))
    return tuple(found)


def tile_instances(study: Study) -> tuple[InstanceRow, ...]:
    """Return every lesion tile of a study, in the order of the study."""
    return tuple(each for series in tile_series(study) for each in series.instances)


def is_skin(header: Dataset) -> bool:
    """Whether a tile shows skin for photodamage, and no lesion."""
    return SKIN_IMAGE_TYPE in image_types(header)


def image_types(header: Dataset) -> tuple[str, ...]:
    """Values of Image Type in capitals."""
    value = header.get("ImageType") or ()
    values = (value,) if isinstance(value, str) else value
    return tuple(str(each).strip().upper() for each in values)


def _mark_of(study: Study, instances: list[InstanceRow]) -> str:
    """What tells that a series holds tiles; empty when nothing does."""
    headers = list(_probed(study, instances))
    for header in headers:
        mark = _own_mark(header)
        if mark:
            return mark
    if not headers or not _are_tracked_tiles(headers):
        return ""
    if len(instances) >= MIN_TRACKED_TILES:
        return f"{len(instances)} small photographs, each of a tracked lesion of its own"
    return "measurements beside small photographs of lesions" if _is_measured(study) else ""


def _is_measured(study: Study) -> bool:
    """Whether a document or a structured report of the study names measurements of the method."""
    contents = [document.content for document in study.documents()]
    reports = [each for each in study.instances if each.sop_class_uid in SR_CLASSES]
    for report in reports[:_REPORTS]:
        try:
            found = study.header(report).get_item(BaseTag(CONTENT))
        except (Undecodable, KeyError):
            continue
        if isinstance(found, RawDataElement) and found.value is not None:
            contents.append(found.value)
    return any(name in content.lower() for content in contents for name in _DISTINCTIVE)


def _own_mark(header: Dataset) -> str:
    if any(IMAGE_TYPE in value.split() for value in image_types(header)):
        return "Image Type"
    if has_private_block(header):
        return "private block of measurements"
    if _DESCRIPTION.search(str(header.get("SeriesDescription") or "")):
        return "Series Description"
    return ""


def has_private_block(header: Dataset) -> bool:
    """Whether a header has the private block of measurements."""
    try:
        header.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    except KeyError:
        return False
    return True


def _are_tracked_tiles(headers: list[Dataset]) -> bool:
    uids = [str(header.get("TrackingUID") or header.get("TrackingID") or "") for header in headers]
    sides = [max(header.get("Rows") or 0, header.get("Columns") or 0) for header in headers]
    return (
        all(uids)
        and len(set(uids)) == len(uids)
        and all(0 < side <= MAX_TRACKED_SIDE_PX for side in sides)
    )


def _probed(study: Study, instances: list[InstanceRow]) -> Iterable[Dataset]:
    """Headers of the first, a middle and the last instance that can be read."""
    last = len(instances) - 1
    for number in dict.fromkeys((0, last // 2, last)):
        try:
            header = study.header(instances[number])
        except Undecodable:
            continue
        legal = copied(header, _READ)
        if has_private_block(header):
            legal.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
        yield legal
