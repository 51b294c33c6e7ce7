"""Slides as reports see them: specimen, container and place on the glass, all of it legal."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydicom import Dataset

from reports.attributes import copied
from reports.context import ReportContext
from reports.slide import codes
from reports.slide.geometry import SlidePlane, matrix_size, pixel_spacing_mm, slide_plane
from reports.source import Source, is_complete_code, select_sources, written_again
from reports.uids import tracking_uid

_GEOMETRY = (
    "FrameOfReferenceUID",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixOriginSequence",
    "ImageOrientationSlide",
)
_IDENTITY = ("ContainerIdentifier",)
_SPECIMEN = ("SpecimenIdentifier", "SpecimenUID", "SpecimenShortDescription")
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class SlideSource(Source):
    """One instance of a slide's pyramid.

    Its header holds Container Identifier where it is known, and the procedure where the instance
    names none: light microscopy, not the photography that other images imply.
    """

    plane: SlidePlane | None = None
    """Its total pixel matrix on the glass; None where the header does not say."""
    size: tuple[int, int] | None = None
    """(width, height) of its total pixel matrix in pixels."""
    spacing_mm: tuple[float, float] | None = None
    """Between rows, between columns; None where the header does not say."""
    specimens: tuple[Dataset, ...] = field(default=())
    """Items of Specimen Description Sequence, complete ones only."""

    @property
    def frame_number(self) -> int | None:
        """None: a slide is spoken of as a whole, never by one of its tiles."""
        return None

    @property
    def container_identifier(self) -> str:
        """Container Identifier, ``unknown`` where there is none."""
        return str(self.header.get("ContainerIdentifier") or _UNKNOWN)

    @property
    def specimen_identifier(self) -> str:
        """Identifier of the first specimen, else of the container."""
        for item in self.specimens:
            return str(item.SpecimenIdentifier)
        return self.container_identifier

    @property
    def specimen_uid(self) -> str:
        """UID of the first specimen, else one derived from the slide's series."""
        for item in self.specimens:
            return str(item.SpecimenUID)
        header = self.header
        return tracking_uid(
            str(header.get("IssuerOfPatientID") or ""),
            str(header.get("PatientID") or ""),
            self.study_instance_uid,
            f"{self.series_instance_uid}/specimen",
        )


def select_slides(context: ReportContext, sop_instance_uids: list[str]) -> list[SlideSource]:
    """The instances of a result, in the result's order.

    Raises
    ------
    SourceError
        As ``reports.source.select_sources``.
    """
    return [_slide(source) for source in select_sources(context, sop_instance_uids)]


def _slide(source: Source) -> SlideSource:
    given = source.image.header
    header = source.header
    header.update(copied(given, _IDENTITY))
    geometry = copied(given, _GEOMETRY)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        spacing = _pixel_measures(given, keyword)
        if spacing is not None:
            setattr(geometry, keyword, [spacing])
            break
    codes_given = header.get("ProcedureCodeSequence") or ()
    if not any(is_complete_code(item) for item in codes_given):
        header.ProcedureCodeSequence = [codes.LIGHT_MICROSCOPY.as_item()]
    return SlideSource(
        header=header,
        image=source.image,
        plane=slide_plane(geometry),
        size=matrix_size(geometry),
        spacing_mm=pixel_spacing_mm(geometry),
        specimens=tuple(_specimens(given)),
    )


def _pixel_measures(given: Dataset, keyword: str) -> Dataset | None:
    """Pixel Measures of the first functional group; the others are thousands, and not needed."""
    groups = given.get(keyword)
    if not groups or "PixelMeasuresSequence" not in groups[0]:
        return None
    measures = copied(groups[0], ("PixelMeasuresSequence",))
    return measures if len(measures) else None


def _specimens(given: Dataset) -> list[Dataset]:
    """Specimens with identifier and UID (PS3.3 C.7.6.22); preparation steps stay in the source."""
    found = []
    for item in given.get("SpecimenDescriptionSequence") or ():
        specimen = copied(item, _SPECIMEN)
        if "SpecimenIdentifier" not in specimen or "SpecimenUID" not in specimen:
            continue
        specimen.IssuerOfTheSpecimenIdentifierSequence = []
        specimen.SpecimenPreparationSequence = []
        structures = item.get("PrimaryAnatomicStructureSequence") or ()
        complete = [written_again(code) for code in structures if is_complete_code(code)]
        if complete:
            specimen.PrimaryAnatomicStructureSequence = complete[:1]
        found.append(specimen)
    return found
