"""Reads JPEG and PNG pictures for wrapping: a JPEG stream kept as it is, or decoded pixels.

A JPEG is kept byte for byte wherever DICOM has a transfer syntax for its process (PS3.5 A.4.1) and
it lies the right way up. Everything else is decoded, and a note says why.
"""

from __future__ import annotations

import datetime as dt
import io
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from gateway.errors import WrapError
from gateway.listener.acceptance import EXPLICIT_VR_LITTLE_ENDIAN, JPEG_BASELINE, JPEG_EXTENDED

_MAX_SIDE = 0xFFFF  # Rows and Columns are US (PS3.3 C.7.6.3)
_MAX_PIXELS = 178_000_000
_UPRIGHT = 1  # Exif 2.32, tag 0x0112

# What Pillow raises on files that are not what they seem, found by damaging some.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pixels as a DICOM image holds them, 8 bits a sample."""

    rows: int
    columns: int
    photometric_interpretation: str
    transfer_syntax_uid: str
    pixel_data: bytes = field(repr=False)
    """A JPEG stream, or interleaved samples row by row."""
    lossy_ratio: float | None
    """Compression ratio of the JPEG that the pixels come from; None if they never were one."""
    icc_profile: bytes | None = field(default=None, repr=False)
    is_altered: bool = False
    """Whether sample values differ from those in the file."""
    notes: tuple[str, ...] = ()
    manufacturer: str = ""
    model: str = ""
    taken_at: str = ""
    """Exif DateTimeOriginal, ``YYYYMMDDHHMMSS``."""

    @property
    def samples_per_pixel(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.photometric_interpretation == "MONOCHROME2" else 3


def read_picture(path: Path) -> Picture:
    """Return the picture in a JPEG or PNG file.

    Raises
    ------
    WrapError
        The message names the file and what is wrong with it.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise WrapError(f"{path.name}: {exc.strerror or 'unreadable'}") from exc
    if not content:
        raise WrapError(f"{path.name}: the file is empty")
    try:
        with warnings.catch_warnings():
            # Size is checked here; Pillow's other warnings are on metadata that is of no use to us
            # where it is damaged.
            warnings.simplefilter("ignore")
            return _read(content)
    except _Unsuitable as exc:
        raise WrapError(f"{path.name}: {exc}") from exc


class _Unsuitable(Exception):
    """What is wrong with a picture, said for its owner."""


def _read(content: bytes) -> Picture:
    image = _load(content)
    exif = image.getexif()
    orientation = exif.get(ExifTags.Base.Orientation, _UPRIGHT)
    if orientation not in range(1, 9):
        orientation = _UPRIGHT  # Exif 2.32 knows 1 to 8; 0 is what some software leaves
    stream = _parse_jpeg(content) if image.format in ("JPEG", "MPO") else None
    if stream is not None and stream.transfer_syntax_uid and orientation == _UPRIGHT:
        return _kept(stream, image, exif)
    return _decoded(stream, image, exif, orientation)


def _load(content: bytes) -> Image.Image:
    """Decode to the end, which is also the check that a stream we keep can be decoded."""
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        if max(image.size) > _MAX_SIDE or image.width * image.height > _MAX_PIXELS:
            raise _Unsuitable(f"{image.width} x {image.height} pixels are too many")
        if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
            raise _Unsuitable("an animated picture")
        image.load()
    except Image.DecompressionBombError as exc:
        raise _Unsuitable("too many pixels") from exc
    except UnidentifiedImageError as exc:
        raise _Unsuitable("neither JPEG nor PNG") from exc
    except _DAMAGED as exc:
        raise _Unsuitable(f"damaged or truncated ({type(exc).__name__})") from exc
    return image


@dataclass(frozen=True, kw_only=True)
class _JpegStream:
    """A JPEG from SOI to EOI and what its markers say (ISO/IEC 10918-1 B.1)."""

    data: bytes
    process: int
    """Second byte of the SOF marker."""
    bits: int
    components: tuple[int, ...]
    """Component identifiers."""
    adobe_transform: int | None
    is_jfif: bool

    @property
    def transfer_syntax_uid(self) -> str:
        """The syntax for the stream as it is; '' when DICOM has none for it (PS3.5 A.4.1).

        Colour kept as RGB inside a lossy JPEG counts among those: validators take
        YBR_FULL_422 for the only photometric interpretation of one in the VL IODs.
        """
        if self.bits != 8 or self.photometric_interpretation == "RGB":
            return ""
        if len(self.components) not in (1, 3):
            return ""
        return {0xC0: JPEG_BASELINE, 0xC1: JPEG_EXTENDED}.get(self.process, "")

    @property
    def photometric_interpretation(self) -> str:
        """How its samples are to be understood, by the conventions of libjpeg."""
        if len(self.components) == 1:
            return "MONOCHROME2"
        is_rgb = self.components == (0x52, 0x47, 0x42)  # identifiers 'R', 'G', 'B'
        if self.adobe_transform is not None:
            is_rgb = self.adobe_transform == 0
        elif self.is_jfif:
            is_rgb = False
        # Whatever the subsampling: the stream itself says it (PS3.5 8.2.1).
        return "RGB" if is_rgb else "YBR_FULL_422"


_STANDALONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _parse_jpeg(content: bytes) -> _JpegStream:
    """Walk the markers to EOI; what follows it (a preview, a clip) is no part of the picture."""
    position = 2
    frame: bytes | None = None
    process = 0
    adobe_transform: int | None = None
    is_jfif = False
    while True:
        marker, position = _next_marker(content, position)
        if marker == 0xD9:
            break
        if marker in _STANDALONE_MARKERS:
            continue
        body = _segment(content, position)
        position += 2 + len(body)
        if marker in _SOF_MARKERS:
            process, frame = marker, body
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe_transform = body[11]
        elif marker == 0xE0 and body[:4] == b"JFIF":
            is_jfif = True
    if frame is None:
        raise _Unsuitable("a JPEG without a frame header")
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise _Unsuitable("a JPEG with a damaged frame header")
    specifications = [frame[at : at + 3] for at in range(6, 6 + 3 * frame[5], 3)]
    return _JpegStream(
        data=content[:position],
        process=process,
        bits=frame[0],
        components=tuple(each[0] for each in specifications),
        adobe_transform=adobe_transform,
        is_jfif=is_jfif,
    )


def _segment(content: bytes, position: int) -> bytes:
    """Return the parameters of the marker segment whose length stands at ``position``."""
    if position + 2 > len(content):
        raise _Unsuitable("truncated: the JPEG ends in a marker segment")
    (length,) = struct.unpack_from(">H", content, position)
    if length < 2 or position + length > len(content):
        raise _Unsuitable("a JPEG with a damaged marker segment")
    return content[position + 2 : position + length]


def _next_marker(content: bytes, position: int) -> tuple[int, int]:
    """Return the next marker from ``position`` on, past entropy-coded data, and what follows it."""
    while True:
        position = content.find(b"\xff", position)
        if position < 0 or position + 1 >= len(content):
            raise _Unsuitable("truncated: the JPEG has no end")
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0x00:  # stuffed: entropy-coded data
            position += 2
        else:
            return marker, position + 2


def _kept(stream: _JpegStream, image: Image.Image, exif: Image.Exif) -> Picture:
    icc_profile, note = _input_profile(image, exif)
    return Picture(
        rows=image.height,
        columns=image.width,
        photometric_interpretation=stream.photometric_interpretation,
        transfer_syntax_uid=stream.transfer_syntax_uid,
        pixel_data=stream.data,
        lossy_ratio=_lossy_ratio(image, stream),
        icc_profile=icc_profile,
        notes=(note,) if note else (),
        manufacturer=_exif_text(exif, ExifTags.Base.Make),
        model=_exif_text(exif, ExifTags.Base.Model),
        taken_at=_taken_at(exif),
    )


def _decoded(
    stream: _JpegStream | None, image: Image.Image, exif: Image.Exif, orientation: int
) -> Picture:
    notes = []
    if stream is not None and not stream.transfer_syntax_uid:
        kind = "a progressive" if stream.process == 0xC2 else "this kind of"
        notes.append(f"{kind} JPEG cannot be kept as it is: decoded, kept without more loss")
    if orientation != _UPRIGHT:
        notes.append(f"Exif orientation {orientation}: decoded, turned upright, kept without loss")
    icc_profile, note = _input_profile(image, exif)
    notes.append(note)
    plain, changes = _to_grey_or_rgb(ImageOps.exif_transpose(image))
    notes += changes
    if image.mode == "CMYK":
        icc_profile = _as_input_profile(_srgb_profile())
    return Picture(
        rows=plain.height,
        columns=plain.width,
        photometric_interpretation="MONOCHROME2" if plain.mode == "L" else "RGB",
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        pixel_data=plain.tobytes(),
        lossy_ratio=None if stream is None else _lossy_ratio(image, stream),
        icc_profile=icc_profile if plain.mode == "RGB" else None,
        is_altered=bool(changes),
        notes=tuple(each for each in notes if each),
        manufacturer=_exif_text(exif, ExifTags.Base.Make),
        model=_exif_text(exif, ExifTags.Base.Model),
        taken_at=_taken_at(exif),
    )


def _to_grey_or_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return the picture in mode L or RGB and what of its values had to change for it."""
    changes: list[str] = []
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image), ["CMYK converted to sRGB through its ICC profile"]
    if image.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(image).astype(np.uint32).clip(0, 0xFFFF)
        image = Image.fromarray(((values * 0xFF + 0x7FFF) // 0xFFFF).astype(np.uint8))
        return image, ["16 bits a sample reduced to 8, all that VL images hold"]
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        is_grey = image.mode in ("L", "LA")
        if rgba.getchannel("A").getextrema() != (0xFF, 0xFF):
            white = Image.new("RGBA", rgba.size, "white")
            rgba = Image.alpha_composite(white, rgba)
            changes.append("transparent parts laid on white")
        return rgba.convert("L" if is_grey else "RGB"), changes
    if image.mode in ("1", "L"):
        return image.convert("L"), changes
    return image.convert("RGB"), changes


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        raise _Unsuitable("a CMYK picture without ICC profile: its colours are not defined")
    try:
        converted = ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError as exc:
        raise _Unsuitable("a CMYK picture whose ICC profile cannot be used") from exc
    assert converted is not None  # None only when converting in place
    return converted


def _lossy_ratio(image: Image.Image, stream: _JpegStream) -> float:
    return image.width * image.height * len(stream.components) / len(stream.data)


def _srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _input_profile(image: Image.Image, exif: Image.Exif) -> tuple[bytes | None, str]:
    """Return the picture's ICC profile for ICC Profile (0028,2000), and a note if it is left out.

    sRGB is written where the picture itself says so; nothing is assumed where it says nothing.
    """
    if image.mode == "CMYK":
        return None, ""
    profile = image.info.get("icc_profile")
    if profile:
        found = _as_input_profile(profile)
        return found, "" if found else "its ICC profile is not one for RGB and was left out"
    says_srgb = "srgb" in image.info or (
        exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace) == 1
    )
    return (_as_input_profile(_srgb_profile()) if says_srgb else None), ""


def _as_input_profile(profile: bytes) -> bytes | None:
    """Return an RGB profile as one of an input device, which PS3.3 C.11.15 asks for.

    Pictures carry display profiles. Their transform to the connection space is what an input
    profile holds, under another class; the optional checksum (ICC.1 7.2.18) is cleared with it.
    """
    if len(profile) < 128 or profile[36:40] != b"acsp" or profile[16:20] != b"RGB ":
        return None
    if profile[12:16] in (b"scnr", b"spac"):
        return profile
    if profile[12:16] != b"mntr":
        return None
    return profile[:12] + b"scnr" + profile[16:84] + bytes(16) + profile[100:]


def _exif_text(exif: Image.Exif, tag: int) -> str:
    """Return an Exif text fit for LO (PS3.5 6.2): no backslash, no control, at most 64 long."""
    value = exif.get(tag, "")
    text = value if isinstance(value, str) else ""
    return "".join(each for each in text if each.isprintable() and each != "\\").strip()[:64]


def _taken_at(exif: Image.Exif) -> str:
    value = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal, "")
    if not isinstance(value, str):
        return ""
    try:
        return dt.datetime.strptime(value.strip("\0 "), "%Y:%m:%d %H:%M:%S").strftime(
            "%Y%m%d%H%M%S"
        )
    except ValueError:
        return ""
