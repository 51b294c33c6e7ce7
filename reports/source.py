"""Source instances as reports see them: identity, geometry, lesion and site, all of it legal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
    VideoEndoscopicImageStorage,
    VideoMicroscopicImageStorage,
    VideoPhotographicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from reports.attributes import copied
from reports.context import ReportContext, SourceImage
from reports.errors import SourceError

PATIENT_AND_STUDY = (  # PS3.3 C.7.1.1, C.7.2.1 and C.7.2.2
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
)
_TYPE_2 = (  # must be present, may be empty
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_IMAGE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "Laterality",
    "ImageLaterality",
    "AnatomicRegionSequence",
    "TrackingID",
    "TrackingUID",
    "TimezoneOffsetFromUTC",
    "ProcedureCodeSequence",
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
_MULTI_FRAME_CLASSES = (
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
    VideoEndoscopicImageStorage,
    VideoMicroscopicImageStorage,
    VideoPhotographicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)
_NO_IMAGE_CLASSES = (  # PS3.4 Table B.5-1, by their beginnings
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key object selections
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
)
_CODE = (
    "CodeValue",
    "CodingSchemeDesignator",
    "CodingSchemeVersion",
    "CodeMeaning",
)
_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source instance whose every attribute is decoded and legal."""

    header: Dataset
    """Patient, study and image attributes; type 2 attributes are present though empty."""
    image: SourceImage
    """The instance as it came."""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID."""
        return str(self.header.StudyInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.header.SeriesInstanceUID)

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID."""
        return str(self.header.SOPClassUID)

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID."""
        return str(self.header.SOPInstanceUID)

    @property
    def frame_number(self) -> int | None:
        """The frame that was read, 1-based, or None for a single-frame image.

        A frame may be named only where the SOP Class has frames (PS3.3 10.3), whatever Number of
        Frames says.
        """
        has_frames = self.sop_class_uid in _MULTI_FRAME_CLASSES
        return 1 if has_frames and int(self.header.get("NumberOfFrames") or 1) > 1 else None

    @property
    def is_image(self) -> bool:
        """Whether the instance is of an image: a document is none, nor a presentation state."""
        return not self.sop_class_uid.startswith(_NO_IMAGE_CLASSES)

    @property
    def shape(self) -> tuple[int, int] | None:
        """(rows, columns) in pixels, or None if neither header nor pixels say."""
        if self.image.pixels is not None:
            return (int(self.image.pixels.shape[0]), int(self.image.pixels.shape[1]))
        rows, columns = self.header.get("Rows"), self.header.get("Columns")
        return (int(rows), int(columns)) if rows and columns else None

    @property
    def pixel_spacing_mm(self) -> tuple[float, float] | None:
        """(between rows, between columns) in mm, or None if the image is not calibrated.

        Only Pixel Spacing (0028,0030) counts: Imager Pixel Spacing is measured at the detector
        and Nominal Scanned Pixel Spacing on the film, neither on the skin (PS3.3 10.7).
        """
        spacing = _numbers(self.header, "PixelSpacing", 2)
        return (spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None

    @property
    def has_patient_geometry(self) -> bool:
        """Whether the image has a place in a patient-based frame of reference."""
        return (
            "FrameOfReferenceUID" in self.header
            and self.pixel_spacing_mm is not None
            and _numbers(self.header, "ImagePositionPatient", 3) is not None
            and _numbers(self.header, "ImageOrientationPatient", 6) is not None
        )

    @property
    def finding_sites(self) -> tuple[Dataset, ...]:
        """Complete codes of the anatomic region (PS3.3 Table 10-5)."""
        items = self.header.get("AnatomicRegionSequence") or ()
        return tuple(item for item in items if is_complete_code(item))

    @property
    def laterality(self) -> str | None:
        """``R`` or ``L``, or None if unknown or unpaired."""
        value = self.header.get("ImageLaterality") or self.header.get("Laterality")
        return str(value) if value in ("R", "L") else None


def _numbers(ds: Dataset, keyword: str, count: int) -> list[float] | None:
    values = ds.get(keyword)
    if not isinstance(values, (MultiValue, list)) or len(values) != count:
        return None
    numbers = [float(value) for value in values]
    return numbers if all(math.isfinite(number) for number in numbers) else None


def is_complete_code(item: Dataset) -> bool:
    """Whether a code sequence item can be written again (PS3.3 8.1)."""
    value = str(item.get("CodeValue") or "")
    return (
        0 < len(value) <= 16
        and bool(item.get("CodingSchemeDesignator"))
        and bool(item.get("CodeMeaning"))
    )


def written_again(item: Dataset) -> Dataset:
    """A complete code of the source, as an item of its own."""
    return copied(item, _CODE)


def _source(image: SourceImage) -> Source:
    header = copied(image.header, PATIENT_AND_STUDY + _IMAGE)
    for keyword in _REQUIRED:
        if keyword not in header:
            raise SourceError(f"a source instance has no {keyword}")
    for keyword in _TYPE_2:
        if keyword not in header:
            setattr(header, keyword, "")
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if header.get("PatientIdentityRemoved") == "YES" and not any(m in header for m in methods):
        header.DeidentificationMethod = "Not stated in the source image"  # type 1C, PS3.3 C.7.1.1
    return Source(header=header, image=image)


def select_sources(context: ReportContext, sop_instance_uids: list[str]) -> list[Source]:
    """The sources of a result, in the result's order.

    Raises
    ------
    SourceError
        When an instance is not among the sources, twice among them, lacks an identifying UID, or
        lies in another study than the first.
    """
    selected = sources_of_any_study(context, sop_instance_uids)
    if len({source.study_instance_uid for source in selected}) > 1:
        raise SourceError("the sources lie in more than one study")
    return selected


def sources_of_any_study(context: ReportContext, sop_instance_uids: list[str]) -> list[Source]:
    """The sources of a result that speaks of earlier studies too, in the result's order.

    Raises
    ------
    SourceError
        When an instance is not among the sources, twice among them, or lacks an identifying UID.
    """
    by_uid: dict[str, Source] = {}
    for image in context.sources:
        source = _source(image)
        if source.sop_instance_uid in by_uid:
            raise SourceError("two sources have the same SOPInstanceUID")
        by_uid[source.sop_instance_uid] = source
    try:
        return [by_uid[uid] for uid in sop_instance_uids]
    except KeyError:
        raise SourceError("an image of the result is not among the sources") from None
