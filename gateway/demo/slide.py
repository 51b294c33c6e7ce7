"""A drawn biopsy as a whole-slide image: tissue for the demo that is no patient's.

Haematoxylin stains nuclei blue-violet, eosin everything else pink; a nest of crowded, larger nuclei
stands for a tumour. An illustration: no figure about a model may be taken from it.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

from gateway.demo.fields import Field, Frame, blur, noise, smoothstep
from gateway.demo.tissue import RGBImage
from gateway.sending.wrap import StudyIdentity, new_uid

UM_PX = 0.5
"""Resolution of the finest level in micrometres a pixel: 20x."""
TILE_PX = 256
_GLASS = (244, 243, 245)
_FACTORS = (1, 4, 16)
_JPEG_QUALITY = 85
_UNKNOWN = "unknown"
_STUDY_DATE = "20260304"


def draw_section(size: tuple[int, int] = (3072, 2304), *, seed: int = 1) -> RGBImage:
    """Draw a stained section on glass.

    Parameters
    ----------
    size
        (width, height) in pixels of 0.5 um.
    seed
        Chooses one section.

    Returns
    -------
    (H, W, 3) picture.
    """
    rng = np.random.default_rng([seed, 7])
    width, height = size
    frame = Frame(height_px=height, width_px=width, px_per_mm=1000 / UM_PX)
    reach = np.hypot(
        frame.row_mm / (0.40 * frame.height_mm), frame.col_mm / (0.42 * frame.width_mm)
    )
    cover = smoothstep(-0.02, 0.02, 1 - reach + 0.10 * noise(frame, rng, 0.35, octaves=4))
    nest = smoothstep(
        0.0,
        0.1,
        0.34
        - np.hypot(frame.row_mm - 0.05, frame.col_mm - 0.22) / (0.6 * frame.width_mm) * 1.5
        + 0.04 * noise(frame, rng, 0.2, octaves=3),
    )
    eosin = cover * (0.55 + 0.10 * noise(frame, rng, 0.06, octaves=4, stretch=3.0))
    nuclei = _nuclei(frame, rng, cover, nest)
    absorbance = eosin[..., None] * np.array([0.10, 0.62, 0.30], np.float32) + (
        nuclei + 0.10 * nest * cover
    )[..., None] * np.array([0.95, 1.15, 0.55], np.float32)
    picture = np.array(_GLASS, np.float32) * np.exp(-np.clip(absorbance, 0, None))
    picture += rng.normal(0, 1.5, picture.shape).astype(np.float32)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def _nuclei(frame: Frame, rng: np.random.Generator, cover: Field, nest: Field) -> Field:
    """Amount of haematoxylin: scattered nuclei, crowded and larger ones in the nest."""
    canvas = np.zeros(frame.shape, np.uint8)
    area_mm2 = frame.width_mm * frame.height_mm
    for density, radius_um, is_nest in ((1500, 3.0, False), (6500, 4.6, True)):
        count = int(density * area_mm2)
        rows = rng.integers(0, frame.height_px, count)
        columns = rng.integers(0, frame.width_px, count)
        wanted = (nest[rows, columns] > 0.5) == is_nest
        wanted &= cover[rows, columns] > 0.6
        for row, column in zip(rows[wanted].tolist(), columns[wanted].tolist(), strict=True):
            long_px = radius_um / UM_PX * rng.uniform(0.8, 1.5)
            axes = (round(long_px), round(long_px * rng.uniform(0.5, 0.95)))
            level = int(rng.uniform(130, 255))
            cv2.ellipse(canvas, (column, row), axes, rng.uniform(0, 180), 0, 360, level, -1)
    return blur(frame, np.asarray(canvas / np.float32(255), np.float32), 0.0007)


def write_slide(folder: Path, identity: StudyIdentity, picture: RGBImage) -> list[Path]:
    """Write a picture as a pyramid of three VL Whole Slide Microscopy instances.

    Parameters
    ----------
    folder
        Made when it does not exist.
    identity
        Patient and study.
    picture
        (H, W, 3) at 0.5 um a pixel.

    Returns
    -------
    The files, finest level first.

    References
    ----------
    PS3.3 A.32.8 (VL Whole Slide Microscopy Image IOD), C.8.12.4.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"frame_of_reference": new_uid(), "pyramid": new_uid(), "specimen": new_uid()}
    paths = []
    for number, factor in enumerate(_FACTORS, start=1):
        ds = _level(picture, number, factor, identity, shared)
        path = folder / f"slide-{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _level(
    picture: RGBImage, number: int, factor: int, identity: StudyIdentity, shared: dict[str, str]
) -> Dataset:
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    pixels = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    frames = _tiles(np.asarray(pixels, np.uint8))
    ds = Dataset()
    _add_study(ds, identity)
    _add_slide(ds, shared)
    ds.SOPInstanceUID = new_uid()
    ds.InstanceNumber = number
    ds.ImageType = ["ORIGINAL" if factor == 1 else "DERIVED", "PRIMARY", "VOLUME", "NONE"]
    if factor > 1:
        ds.ImageType[3] = "RESAMPLED"
    ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.Rows = ds.Columns = TILE_PX
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.NumberOfFrames = len(frames)
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = width, height
    ds.TotalPixelMatrixFocalPlanes = 1
    ds.ImagedVolumeWidth = picture.shape[1] * UM_PX / 1000
    ds.ImagedVolumeHeight = picture.shape[0] * UM_PX / 1000
    ds.ImagedVolumeDepth = 1.0
    spacing_mm = UM_PX * factor / 1000
    groups = ds.SharedFunctionalGroupsSequence[0]
    groups.PixelMeasuresSequence = [
        _item(PixelSpacing=[spacing_mm, spacing_mm], SliceThickness=1.0)
    ]
    ratio = pixels.nbytes / sum(map(len, frames))
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio = f"{ratio:.1f}"
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return ds


def _tiles(pixels: RGBImage) -> list[bytes]:
    """JPEG tiles, row by row; those at the edge are filled up with glass."""
    frames = []
    for top in range(0, pixels.shape[0], TILE_PX):
        for left in range(0, pixels.shape[1], TILE_PX):
            tile = np.full((TILE_PX, TILE_PX, 3), _GLASS, np.uint8)
            part = pixels[top : top + TILE_PX, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            buffer = BytesIO()
            Image.fromarray(tile).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=1)
            frames.append(buffer.getvalue())
    return frames


def _add_study(ds: Dataset, identity: StudyIdentity) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID = identity.patient_name, identity.patient_id
    ds.PatientBirthDate, ds.PatientSex = identity.patient_birth_date, identity.patient_sex
    ds.StudyInstanceUID = identity.study_instance_uid
    ds.SeriesInstanceUID = identity.series_instance_uid
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = _STUDY_DATE
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "150000"
    ds.AcquisitionDateTime = ds.StudyDate + "150000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.StudyDescription = identity.study_description or "Skin biopsy"
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "SM", 1, "Drawn section, H&E"
    ds.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    for keyword in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"):
        setattr(ds, keyword, _UNKNOWN)
    ds.SoftwareVersions = "Lentigo demo"


def _add_slide(ds: Dataset, shared: dict[str, str]) -> None:
    """Specimen, optical path and geometry, the same for every level (PS3.3 C.8.12.4, C.8.12.5)."""
    ds.FrameOfReferenceUID = shared["frame_of_reference"]
    ds.PositionReferenceIndicator = "SLIDE_CORNER"
    ds.PyramidUID = shared["pyramid"]
    ds.ContainerIdentifier = "SLIDE-1"
    ds.IssuerOfTheContainerIdentifierSequence = []
    ds.ContainerTypeCodeSequence = [_code("433466003", "SCT", "Microscope slide")]
    ds.AcquisitionContextSequence = []
    ds.SpecimenDescriptionSequence = [
        _item(
            SpecimenIdentifier="SPECIMEN-1",
            IssuerOfTheSpecimenIdentifierSequence=[],
            SpecimenUID=shared["specimen"],
            SpecimenPreparationSequence=[],
        )
    ]
    ds.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    ds.TotalPixelMatrixOriginSequence = [
        _item(XOffsetInSlideCoordinateSystem=20.0, YOffsetInSlideCoordinateSystem=40.0)
    ]
    ds.VolumetricProperties, ds.FocusMethod = "VOLUME", "AUTO"
    ds.ExtendedDepthOfField = ds.SpecimenLabelInImage = ds.BurnedInAnnotation = "NO"
    ds.DimensionOrganizationType = "TILED_FULL"
    ds.DimensionOrganizationSequence = [
        _item(DimensionOrganizationUID=shared["frame_of_reference"])
    ]
    ds.NumberOfOpticalPaths = 1
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ds.OpticalPathSequence = [
        _item(
            OpticalPathIdentifier="1",
            IlluminationTypeCodeSequence=[_code("111744", "DCM", "Brightfield illumination")],
            IlluminationColorCodeSequence=[_code("371251000", "SCT", "White")],
            ICCProfile=profile,
            ColorSpace="SRGB",
        )
    ]
    ds.SharedFunctionalGroupsSequence = [
        _item(
            WholeSlideMicroscopyImageFrameTypeSequence=[
                _item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
            ],
            OpticalPathIdentificationSequence=[_item(OpticalPathIdentifier="1")],
        )
    ]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
