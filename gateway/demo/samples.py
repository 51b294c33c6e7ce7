"""Pictures for the demo: drawn, not photographed, so that no patient's image is shipped.

Each kind of picture shows the dermoscopic criteria by which a dermatologist would name the lesion.
They are illustrations: no figure about a model may be taken from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gateway.demo import lesions
from gateway.demo.fields import Frame, blur, noise
from gateway.demo.skin import Hair, SkinTone, grow_hairs, grow_skin
from gateway.demo.structures import Outline
from gateway.demo.tissue import Camera, RGBImage, Tissue, dark_frame, photograph

_SMALLEST_PX = 32
_JPEG_QUALITY = 92
_BALD = Hair(count=0)


class Kind(StrEnum):
    """What a picture shows."""

    NEVUS = "nevus"
    """Benign melanocytic nevus."""
    NEVUS_BROWN_SKIN = "nevus-brown-skin"
    """Benign melanocytic nevus on brown skin (Fitzpatrick type V)."""
    MELANOMA = "melanoma"
    """Melanoma."""
    SEBORRHOEIC_KERATOSIS = "seborrhoeic-keratosis"
    """Seborrhoeic keratosis."""
    BASAL_CELL_CARCINOMA = "basal-cell-carcinoma"
    """Basal cell carcinoma."""
    ANGIOMA = "angioma"
    """Vascular lesion."""
    DERMATOFIBROMA = "dermatofibroma"
    """Dermatofibroma."""
    CLINICAL = "clinical"
    """Photograph without a dermatoscope."""
    LENS_CAP = "lens-cap"
    """Nothing but sensor noise."""
    OUT_OF_FOCUS = "out-of-focus"
    """A nevus far out of focus."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture of the demo."""

    name: str
    """File name without suffix."""
    description: str
    """What a viewer should see, in one line."""
    kind: Kind
    """What is drawn."""
    seed: int
    """Chooses one picture of the kind."""


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """How one kind of picture is made."""

    grow: Callable[[Tissue, np.random.Generator], Outline]
    tone: SkinTone
    camera: Camera
    hair: Hair = _BALD
    width_mm: float = 15.0
    relief_mm: float = 0.0
    """How far the lesion stands out; 0 where a contact plate flattens the skin."""


_DERMATOSCOPE = Camera(light=(1.06, 1.05, 1.04), vignette=0.22)

_NEVUS = _Scene(
    grow=lesions.grow_nevus,
    tone=SkinTone(melanin=0.11, blood=0.15),
    camera=_DERMATOSCOPE,
    hair=Hair(count=7),
)

_SCENES: dict[Kind, _Scene] = {
    Kind.NEVUS: _NEVUS,
    Kind.NEVUS_BROWN_SKIN: replace(
        _NEVUS,
        grow=partial(lesions.grow_nevus, pigment=1.7),
        tone=SkinTone(
            melanin=0.48, blood=0.04, deep_melanin=0.22, mottling=0.5, freckles=0, vessels=0
        ),
        camera=replace(_DERMATOSCOPE, light=(1.22, 1.24, 1.28)),
        hair=Hair(count=4, darkness=2.2),
    ),
    Kind.MELANOMA: _Scene(
        grow=lesions.grow_melanoma,
        tone=SkinTone(melanin=0.08, blood=0.20),
        camera=replace(_DERMATOSCOPE, bubbles=6, glare=0.15),
        width_mm=16.5,
    ),
    Kind.SEBORRHOEIC_KERATOSIS: _Scene(
        grow=lesions.grow_seborrhoeic_keratosis,
        tone=SkinTone(melanin=0.13, blood=0.12, freckles=16),
        camera=replace(_DERMATOSCOPE, light=(1.06, 1.04, 1.0)),
        hair=Hair(count=4, darkness=0.9),
    ),
    Kind.BASAL_CELL_CARCINOMA: _Scene(
        grow=lesions.grow_basal_cell_carcinoma,
        tone=SkinTone(melanin=0.06, blood=0.13, freckles=10, vessels=12),
        camera=replace(_DERMATOSCOPE, glare=0.1),
    ),
    Kind.ANGIOMA: _Scene(
        grow=lesions.grow_angioma,
        tone=SkinTone(melanin=0.07, blood=0.13),
        camera=replace(_DERMATOSCOPE, light=(1.04, 1.04, 1.07), barrel_mm=8.3, bubbles=3),
        hair=Hair(count=5, darkness=0.6, width_mm=(0.025, 0.045)),
        width_mm=14.5,
    ),
    Kind.DERMATOFIBROMA: _Scene(
        grow=lesions.grow_dermatofibroma,
        tone=SkinTone(melanin=0.11, blood=0.20),
        camera=replace(_DERMATOSCOPE, vignette=0.3),
        hair=Hair(count=10),
    ),
    Kind.CLINICAL: _Scene(
        grow=partial(lesions.grow_nevus, radius_mm=3.4),
        tone=SkinTone(melanin=0.15, blood=0.14, mottling=0.5, furrows=0.5, freckles=20, vessels=0),
        camera=Camera(light=(1.10, 1.05, 1.00), vignette=0.10, focus_blur_mm=0.06),
        relief_mm=0.45,
        hair=Hair(count=26, length_mm=(2.0, 6.0), width_mm=(0.03, 0.06), darkness=0.8),
        width_mm=36.0,
    ),
    # Hardly any grain: a camera's noise reduction smooths what holds no detail.
    Kind.OUT_OF_FOCUS: replace(
        _NEVUS, camera=replace(_DERMATOSCOPE, focus_blur_mm=0.75, grain=0.001)
    ),
}


_SAMPLES = tuple(
    Sample(name=kind.value, kind=kind, seed=seed, description=description)
    for kind, seed, description in (
        (Kind.NEVUS, 2, "Benign nevus: symmetric, two browns, typical pigment network"),
        (Kind.MELANOMA, 3, "Melanoma: asymmetric, many colours, streaks, blue-white veil"),
        (Kind.SEBORRHOEIC_KERATOSIS, 1, "Seborrhoeic keratosis: sharp border, cysts, openings"),
        (Kind.BASAL_CELL_CARCINOMA, 2, "Basal cell carcinoma: branching vessels, ovoid nests"),
        (Kind.ANGIOMA, 1, "Vascular lesion: red and purple lacunae"),
        (Kind.DERMATOFIBROMA, 1, "Dermatofibroma: central white patch, delicate network"),
        (Kind.NEVUS_BROWN_SKIN, 1, "Benign nevus on brown skin (Fitzpatrick type V)"),
        (Kind.CLINICAL, 1, "Clinical photograph of a nevus, without a dermatoscope"),
        (Kind.LENS_CAP, 1, "Lens cap on: cannot be assessed"),
        (Kind.OUT_OF_FOCUS, 1, "Far out of focus: cannot be assessed"),
    )
)


def render(kind: Kind | str, seed: int, size: tuple[int, int] = (600, 450)) -> RGBImage:
    """Draw one picture.

    Parameters
    ----------
    kind
        What to draw.
    seed
        Chooses one picture of the kind, 0 or more; the same seed gives the same picture.
    size
        (width, height) in pixels, each at least 32.

    Returns
    -------
    (H, W, 3) picture.

    Raises
    ------
    ValueError
        If the kind is unknown or the size too small.

    Examples
    --------
    >>> render("nevus", seed=1, size=(64, 48)).shape
    (48, 64, 3)
    """
    kind = Kind(kind)
    width_px, height_px = size
    if min(width_px, height_px) < _SMALLEST_PX:
        raise ValueError(f"a picture needs at least {_SMALLEST_PX} x {_SMALLEST_PX} pixels")
    rng = np.random.default_rng([seed, *kind.encode()])
    if kind is Kind.LENS_CAP:
        return dark_frame(Frame(height_px=height_px, width_px=width_px, px_per_mm=1.0), rng)
    return _photograph(_SCENES[kind], size, rng)


def render_grown(seed: int, size: tuple[int, int] = (600, 450)) -> tuple[RGBImage, RGBImage]:
    """Draw one nevus twice on the same skin, the second time larger and darker.

    Returns
    -------
    Two (H, W, 3) pictures: before and after.
    """
    before = replace(_NEVUS, grow=partial(lesions.grow_nevus, radius_mm=2.7))
    after = replace(_NEVUS, grow=partial(lesions.grow_nevus, radius_mm=3.5, pigment=1.25))
    # The same numbers are drawn twice, so that furrows, vessels and hairs stay in their places.
    first, second = (np.random.default_rng([seed, 17]) for _ in range(2))
    return _photograph(before, size, first), _photograph(after, size, second)


def _photograph(scene: _Scene, size: tuple[int, int], rng: np.random.Generator) -> RGBImage:
    width_px, height_px = size
    # The lesion fits the shorter side, measured as if the picture were 4:3.
    px_per_mm = min(width_px / 4, height_px / 3) * 4 / scene.width_mm
    frame = Frame(height_px=height_px, width_px=width_px, px_per_mm=px_per_mm)
    tissue = grow_skin(frame, rng, scene.tone)
    edge = scene.grow(tissue, rng)
    grow_hairs(tissue, rng, scene.hair)
    camera = scene.camera
    if scene.relief_mm > 0:
        pores = blur(frame, noise(frame, rng, 0.9, octaves=2), 0.1) + noise(frame, rng, 9.0)
        relief = scene.relief_mm * edge.cover(2.4) + 0.022 * pores
        camera = replace(camera, relief=np.asarray(relief, np.float32))
    return photograph(tissue, camera, rng)


def sample_set() -> list[Sample]:
    """Pictures that the demo sends, in the order in which it sends them."""
    return list(_SAMPLES)


def write_samples(folder: Path, size: tuple[int, int] = (600, 450)) -> list[Path]:
    """Write the whole set as JPEG files.

    Parameters
    ----------
    folder
        Made when it does not exist; files of the same names are replaced.
    size
        (width, height) in pixels.

    Returns
    -------
    The files in the order of `sample_set`.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for sample in sample_set():
        path = folder / f"{sample.name}.jpg"
        picture = Image.fromarray(render(sample.kind, sample.seed, size))
        picture.save(path, quality=_JPEG_QUALITY, subsampling=0)
        paths.append(path)
    return paths
