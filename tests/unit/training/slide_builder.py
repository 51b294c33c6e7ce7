"""Slide files and patches for tests, made here."""

import csv
import struct

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
GLASS, PINK, PURPLE = (243, 243, 244), (205, 130, 180), (120, 70, 150)


def section(width, height, *, seed=0):
    """Glass with a block of two-coloured tissue in the middle."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), GLASS, np.uint8)
    inside = picture[height // 4 : -height // 4, width // 4 : -width // 4]
    is_nucleus = rng.random(inside.shape[:2]) < 0.3
    inside[:] = np.where(is_nucleus[..., np.newaxis], PURPLE, PINK)
    return picture


def write_tiff(path, picture, *, um_px, tile=256):
    """Tiled RGB TIFF without compression; ``um_px`` None leaves the resolution out."""
    height, width = picture.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.full((rows * tile, columns * tile, 3), 255, np.uint8)
    padded[:height, :width] = picture
    tiles = [
        padded[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile].tobytes()
        for r in range(rows)
        for c in range(columns)
    ]
    entries = [
        (254, 4, (0,)),
        (256, 4, (width,)),
        (257, 4, (height,)),
        (258, 3, (8, 8, 8)),
        (259, 3, (1,)),
        (262, 3, (2,)),
        (277, 3, (3,)),
        (284, 3, (1,)),
        (322, 4, (tile,)),
        (323, 4, (tile,)),
        (324, 4, None),
        (325, 4, tuple(len(data) for data in tiles)),
    ]
    if um_px is not None:
        per_cm = (round(10_000 / um_px * 1000), 1000)
        entries += [(282, 5, per_cm), (283, 5, per_cm), (296, 3, (3,))]
    entries.sort()
    formats = {3: "H", 4: "I", 5: "I"}
    start = 8 + 2 + 12 * len(entries) + 4
    body, extra = b"", b""
    data_start = start + 4096 + 16 * len(tiles)
    offsets = tuple(data_start + i * len(tiles[0]) for i in range(len(tiles)))
    for tag, kind, values in entries:
        values = offsets if values is None else values
        packed = struct.pack(f"<{len(values)}{formats[kind]}", *values)
        count = len(values) // 2 if kind == 5 else len(values)
        if len(packed) <= 4:
            field = packed.ljust(4, b"\0")
        else:
            field = struct.pack("<I", start + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        body += struct.pack("<HHI", tag, kind, count) + field
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + b"\0" * 4
    path.write_bytes((head + extra).ljust(data_start, b"\0") + b"".join(tiles))


def write_dicom(path, picture, *, um_px, tile=128):
    """VL Whole Slide Microscopy Image, TILED_FULL, not compressed."""
    height, width = picture.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.full((rows * tile, columns * tile, 3), 255, np.uint8)
    padded[:height, :width] = picture
    frames = padded.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = WSI_CLASS, generate_uid(entropy_srcs=[path.name])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.FrameOfReferenceUID = generate_uid()
    ds.Modality, ds.PatientID, ds.PatientName = "SM", "1", "Test"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.DimensionOrganizationType = "TILED_FULL"
    ds.Rows = ds.Columns = tile
    ds.NumberOfFrames = rows * columns
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = width, height
    ds.TotalPixelMatrixFocalPlanes = 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation, ds.SpecimenLabelInImage = "NO", "NO"
    ds.FocusMethod, ds.ExtendedDepthOfField = "AUTO", "NO"
    ds.VolumetricProperties = "VOLUME"
    ds.ContainerIdentifier = "1"
    ds.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 10.0
    ds.TotalPixelMatrixOriginSequence = Sequence([origin])
    path_item = Dataset()
    path_item.OpticalPathIdentifier = "1"
    light = Dataset()
    light.CodeValue, light.CodingSchemeDesignator = "111744", "DCM"
    light.CodeMeaning = "Brightfield illumination"
    path_item.IlluminationTypeCodeSequence = Sequence([light])
    ds.OpticalPathSequence = Sequence([path_item])
    ds.NumberOfOpticalPaths = 1
    shared = Dataset()
    if um_px is not None:
        measures = Dataset()
        measures.PixelSpacing = [um_px / 1000, um_px / 1000]
        measures.SliceThickness, measures.SpacingBetweenSlices = 0.001, 0.001
        shared.PixelMeasuresSequence = Sequence([measures])
        ds.ImagedVolumeWidth = width * um_px / 1000
        ds.ImagedVolumeHeight = height * um_px / 1000
        ds.ImagedVolumeDepth = 0.001
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PixelData = frames.tobytes()
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)


def write_patches(folder, *, size=700):
    """The three folders that the simulator reads, with tissue of two kinds."""
    rng = np.random.default_rng(0)

    def tissue(nucleus, share):
        is_nucleus = rng.random((size // 10, size // 10)) < share
        small = np.where(is_nucleus[..., np.newaxis], nucleus, PINK).astype(np.uint8)
        large = small.repeat(10, axis=0).repeat(10, axis=1)
        noise = rng.integers(-12, 13, large.shape)
        return np.clip(large.astype(int) + noise, 0, 255).astype(np.uint8)

    patches, masks = folder / "camelyon16_patches" / "images", folder / "camelyon16_patches/masks"
    background, styles = folder / "monuseg_test" / "images", folder / "stain_tiles"
    for made in (patches, masks, background, styles):
        made.mkdir(parents=True)
    records = []
    for number in range(3):
        for slide, label, share in (("normal_001", "normal", 0.2), ("tumor_001", "tumor", 0.6)):
            name = f"{slide}_{number}"
            y = 10_000 * number
            Image.fromarray(tissue(PURPLE, share)).save(patches / f"{name}.png")
            records.append({"name": name, "label": label, "slide": slide, "y_level0": y})
            if label == "tumor":
                Image.fromarray(np.full((size, size), 255, np.uint8)).save(masks / f"{name}.png")
    for name, share in (("near", 0.25), ("mid", 0.2), ("far", 0.15)):
        Image.fromarray(tissue(PURPLE, share)).save(background / f"{name}.png")
    Image.fromarray(tissue((60, 40, 120), 0.3)).save(styles / "style.png")
    with (folder / "camelyon16_patches" / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)
