"""``TbpResult`` as DICOM: lesions for the viewer, the patient's summary, contact sheets."""

from __future__ import annotations

import dataclasses
import math

from pydicom import Dataset

from models.tbp.patient import LesionScreening
from models.tbp.result import TbpResult
from reports import coding
from reports.attributes import copied
from reports.coding import Concept
from reports.context import ReportContext, ReportObject, SourceImage
from reports.document import processing_summary
from reports.errors import ResultError, SourceError
from reports.provenance import series_description
from reports.secondary_capture import secondary_capture
from reports.source import Source, select_sources
from reports.tbp.lesions import lesion_report
from reports.tbp.patient import ROLE as PATIENT_ROLE
from reports.tbp.patient import patient_report
from reports.tbp.sheet import LESIONS_PER_SHEET, Shown, draw_sheets
from reports.tracking import assign_tracking

_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_REFERENCED = (*_REQUIRED, "Modality", "NumberOfFrames")
"""What a reference to a tile needs."""
_SHOWN = (
    *_REFERENCED,
    *("PatientID", "IssuerOfPatientID", "TrackingID", "TrackingUID", "Rows", "Columns"),
    *("AnatomicRegionSequence", "ImageLaterality", "Laterality"),
)
"""What a measurement group on a tile needs."""


def encode_tbp(result: TbpResult, context: ReportContext) -> list[ReportObject]:
    """All objects of a screening: ``sr``, ``sr-patient`` and ``sheet-N``.

    Raises
    ------
    ResultError
        When the result holds a value out of range, or a lesion without its tile.
    SourceError
        When a tile of the result is not among the sources.
    """
    _check(result, context)
    tiles = _Tiles(result, context)
    summary = _summary(result)
    shown = tiles.shown(result)
    lesions = lesion_report(
        [
            (lesion, source, tracking)
            for (lesion, source), tracking in zip(
                shown, assign_tracking([source for _, source in shown]), strict=True
            )
        ],
        result,
        summary=summary,
        context=context,
    )
    patient = patient_report(
        result,
        [lesion for lesion in result.flagged if _tile(result, lesion) is None],
        sources=tiles.all,
        summary=summary,
        context=context,
    )
    return [
        ReportObject(role="sr", dataset=lesions),
        ReportObject(role=PATIENT_ROLE, dataset=patient),
        *_sheets(result, tiles, context),
    ]


class _Tiles:
    """The sources of a result, legal copies only of those that are written about."""

    def __init__(self, result: TbpResult, context: ReportContext) -> None:
        self._images = {str(image.header.SOPInstanceUID): image for image in context.sources}
        first = str(context.sources[0].header.SOPInstanceUID)
        wanted = [_tile(result, lesion) for lesion in (*result.flagged, *result.drawn)]
        uids = list(dict.fromkeys([first, *[uid for uid in wanted if uid is not None]]))
        if any(uid not in self._images for uid in uids):
            raise SourceError("a tile of the result is not among the sources")
        self._sources = {uid: _source(self._images[uid], _SHOWN) for uid in uids[2:]}
        # Patient and study of a document are those of its first source: the study's first tile,
        # or the first one that is shown.
        few = dataclasses.replace(context, sources=tuple(self._images[uid] for uid in uids[:2]))
        self._sources |= dict(zip(uids[:2], select_sources(few, uids[:2]), strict=True))
        self.first = self._sources[first]

    @property
    def all(self) -> list[Source]:
        """Every tile, in the order of the study."""
        return [
            self._sources.get(uid) or _source(image, _REFERENCED)
            for uid, image in self._images.items()
        ]

    def shown(self, result: TbpResult) -> list[tuple[LesionScreening, Source]]:
        """Recommended lesions with their tiles; else one lesion, since a report needs a region."""
        pairs = [(lesion, _tile(result, lesion)) for lesion in (*result.flagged, *result.drawn)]
        found = {
            lesion.lesion_id: (lesion, self._sources[uid])
            for lesion, uid in pairs
            if uid is not None
        }
        flagged = [pair for pair in found.values() if pair[0].is_flagged]
        if flagged:
            return flagged
        # Nothing to recommend, or nothing that has a picture: the first of the list all the same.
        rest = list(found.values())[:1]
        return rest or [(result.screening.lesions[0], self.first)]

    def pixels(self, uid: str | None) -> SourceImage | None:
        """The image of a tile."""
        return None if uid is None else self._images[uid]


def _source(image: SourceImage, keywords: tuple[str, ...]) -> Source:
    """A tile beside the first one: patient, study and equipment are written from that one."""
    header = copied(image.header, keywords)
    if any(keyword not in header for keyword in _REQUIRED):
        raise SourceError("a tile lacks an identifier")
    return Source(header=header, image=image)


def _tile(result: TbpResult, lesion: LesionScreening) -> str | None:
    return result.tiles[lesion.lesion_id].sop_instance_uid


def _check(result: TbpResult, context: ReportContext) -> None:
    """Refuse a result that contradicts itself."""
    lesions = result.screening.lesions
    if not lesions:
        raise ResultError("the result has no lesion")
    if not context.sources:
        raise SourceError("the result has no source")
    if any(lesion.lesion_id not in result.tiles for lesion in lesions):
        raise ResultError("a lesion of the result has no entry among the tiles")
    for lesion in lesions:
        for value in (lesion.risk_prob, lesion.trees_prob, lesion.nevus_prob):
            if value is not None and not (math.isfinite(value) and -1e-6 <= value <= 1 + 1e-6):
                raise ResultError("a lesion of the result has a probability outside [0, 1]")


def _summary(result: TbpResult) -> Concept:
    """CAD Processing and Findings Summary (CID 6047); a finding is a recommended lesion."""
    screening = result.screening
    return processing_summary(
        screening.assessed,
        screening.assessed + result.not_assessed,
        has_findings=screening.flagged > 0,
    )


def _sheets(result: TbpResult, tiles: _Tiles, context: ReportContext) -> list[ReportObject]:
    drawn = []
    for lesion in result.drawn:
        image = tiles.pixels(_tile(result, lesion))
        drawn.append(Shown(lesion=lesion, pixels=None if image is None else image.pixels))
    objects = []
    for number, picture in enumerate(draw_sheets(drawn, result), start=1):
        dataset = secondary_capture(
            picture, source=tiles.first, index=number, model=result.model, context=context
        )
        first = (number - 1) * LESIONS_PER_SHEET
        uids = [_tile(result, each.lesion) for each in drawn[first : first + LESIONS_PER_SHEET]]
        references = [_reference(tiles, uid) for uid in uids if uid is not None]
        if references:
            dataset.SourceImageSequence = references
        dataset.SeriesDescription = series_description("lesion contact sheet", context)
        dataset.DerivationDescription = "Lesion tiles by rank with the result of an AI model"
        objects.append(ReportObject(role=f"sheet-{number}", dataset=dataset))
    return objects


def _reference(tiles: _Tiles, uid: str) -> Dataset:
    image = tiles.pixels(uid)
    assert image is not None, "named by the result"
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.header.SOPClassUID
    reference.ReferencedSOPInstanceUID = uid
    reference.PurposeOfReferenceCodeSequence = [coding.SOURCE_IMAGE.as_item()]
    return reference
