"""Everything that a study says of its lesions in numbers, the preferred kind of source first."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.store.values import InstanceRow
from models.tbp.remarks import Remark
from workers.errors import Undecodable
from workers.study import Study
from workers.tbp.documents import read_document, read_private_block
from workers.tbp.rows import LesionRow, Reading
from workers.tbp.structured import SR_CLASSES, read_structured_report
from workers.tbp.tiles import Tile

# What pydicom raises when the bytes of a nested element turn out to be damaged.
_SR_FAULTS = (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, struct.error)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came, in whatever form."""

    sources: tuple[tuple[LesionRow, ...], ...]
    """Rows of structured reports, of the tiles' own headers, and of the site's documents."""
    remarks: tuple[Remark, ...]


def read_sources(study: Study, tiles: Sequence[Tile]) -> Measured:
    """Read the measurements of a study.

    Raises
    ------
    InstanceMissing, StorageUnavailable
        From the ports. What cannot be read is a remark.
    """
    reports = [each for each in study.instances if each.sop_class_uid in SR_CLASSES]
    with warnings.catch_warnings():
        # pydicom's warnings about illegal values quote the values: patients' attributes.
        warnings.simplefilter("ignore")
        readings = (
            _merged([_report(study, each) for each in reports]),
            _from_headers(tiles),
            _merged([read_document(document) for document in study.documents()]),
        )
    return Measured(
        sources=tuple(reading.rows for reading in readings),
        remarks=tuple(remark for reading in readings for remark in reading.remarks),
    )


def _merged(readings: Sequence[Reading]) -> Reading:
    """Several objects of one kind as one."""
    return Reading(
        rows=tuple(row for reading in readings for row in reading.rows),
        remarks=tuple(dict.fromkeys(remark for reading in readings for remark in reading.remarks)),
    )


def _report(study: Study, instance: InstanceRow) -> Reading:
    try:
        return read_structured_report(study.header(instance))
    except (Undecodable, *_SR_FAULTS):
        text = "a structured report of the study cannot be read"
        return Reading(remarks=(Remark(code="BAD_DOCUMENT", text=text),))


def _from_headers(tiles: Sequence[Tile]) -> Reading:
    """Measurements in the private block of the tiles."""
    rows, damaged = [], 0
    for tile in tiles:
        try:
            values = read_private_block(tile.header)
        except ValueError:
            damaged += 1
            continue
        if values:
            uid = tile.instance.sop_instance_uid
            rows.append(LesionRow(values=values, sop_instance_uid=uid))
    text = f"{damaged} tiles whose private block of measurements cannot be read"
    remarks = (Remark(code="BAD_DOCUMENT", text=text),) if damaged else ()
    return Reading(rows=tuple(rows), remarks=remarks)
