"""A drawn slide in the PACS, with the results of ``slide_classification``, made without a model."""

from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageCms
from pydicom import Dataset
from pydicom.encaps import encapsulate

from reports.encode import ReportContext, SourceImage, encode
from tests.browser.driver import Picture
from tests.servers import Orthanc
from tests.unit.reports.report_builders import written
from tests.unit.reports.slide import slide_builders as builders

SIZE = (4096, 3072)
"""(width, height) of level 0 in pixels."""
_FACTORS = (1, 4, 16)
_TILE_PX = 256


@dataclass(frozen=True, kw_only=True)
class SlideStudy:
    """A slide in the PACS, with the results that belong to it."""

    study_instance_uid: str
    slide_series_uid: str
    overview: Picture
    """(H, W, 3) of the whole slide, as drawn."""
    objects: dict[str, Dataset]
    """Role -> object."""

    def series_uid(self, role: str) -> str:
        """Series Instance UID of the object with this role."""
        return str(self.objects[role].SeriesInstanceUID)

    def series_number(self, role: str) -> int:
        """Series Number of the object with this role."""
        return int(self.objects[role].SeriesNumber)


def _level(picture: Picture, number: int, factor: int) -> Dataset:
    """One level of the pyramid as a VL Whole Slide Microscopy Image (PS3.3 A.32.8)."""
    width, height = SIZE[0] // factor, SIZE[1] // factor
    pixels = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    frames = []
    for top in range(0, height, _TILE_PX):
        for left in range(0, width, _TILE_PX):
            tile = np.full((_TILE_PX, _TILE_PX, 3), 243, np.uint8)
            part = pixels[top : top + _TILE_PX, left : left + _TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            buffer = BytesIO()
            Image.fromarray(tile).save(buffer, "JPEG", quality=85, subsampling=1)
            frames.append(buffer.getvalue())
    ds = builders.header(number=number, size=(width, height), um_px=builders.UM_PX * factor)
    ds.ImageType = ["ORIGINAL" if factor == 1 else "DERIVED", "PRIMARY", "VOLUME", "NONE"]
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.SeriesDescription = "Drawn slide"
    ds.ContentDate, ds.ContentTime = ds.StudyDate, ds.StudyTime
    ds.AcquisitionDateTime = "20260304150000"
    ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.VolumetricProperties, ds.FocusMethod = "VOLUME", "AUTO"
    ds.ExtendedDepthOfField = ds.SpecimenLabelInImage = ds.BurnedInAnnotation = "NO"
    ds.TotalPixelMatrixFocalPlanes = 1
    ds.ImagedVolumeWidth = SIZE[1] * builders.UM_PX / 1000  # along the slide's x
    ds.ImagedVolumeHeight = SIZE[0] * builders.UM_PX / 1000
    ds.ImagedVolumeDepth = 1.0
    ds.DimensionOrganizationType = "TILED_FULL"
    ds.NumberOfFrames = len(frames)
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    path.IlluminationTypeCodeSequence = [
        builders.code_item("111744", "DCM", "Brightfield illumination")
    ]
    path.IlluminationColorCodeSequence = [builders.code_item("371251000", "SCT", "White")]
    path.ICCProfile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ds.OpticalPathSequence = [path]
    ds.NumberOfOpticalPaths = 1
    identification = Dataset()
    identification.OpticalPathIdentifier = "1"
    ds.SharedFunctionalGroupsSequence[0].OpticalPathIdentificationSequence = [identification]
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    return ds


def store_slide(pacs: Orthanc) -> SlideStudy:
    """Draw a slide of three levels, make its results and store everything."""
    picture = cv2.resize(builders.draw_overview(SIZE), SIZE, interpolation=cv2.INTER_CUBIC)
    levels = [_level(picture, number, factor) for number, factor in enumerate(_FACTORS, start=1)]
    assessment = builders.assessed(size=SIZE, top=4)
    context = ReportContext(
        sources=tuple(SourceImage(header=level, pixels=None) for level in levels[:2]),
        generation=1,
        analysis="slide_classification",
        created_at=builders.CREATED_AT,
        software_version="0.4.0",
        device_serial="test",
    )
    result = builders.result(assessment, model=builders.DEMONSTRATION)
    objects = {each.role: each.dataset for each in encode(result, context)}
    for ds in (*levels, *objects.values()):
        pacs.store(written(ds).getvalue())
    assert assessment.overview is not None
    return SlideStudy(
        study_instance_uid=builders.STUDY_UID,
        slide_series_uid=str(levels[0].SeriesInstanceUID),
        overview=assessment.overview,
        objects=objects,
    )
