"""Skin as layers of pigment, and the camera that looks at it.

Colour comes from what absorbs the light, so that structures mix as they do in skin: melanin near
the surface looks brown, deep melanin grey-blue (Tyndall effect), blood red, keratin yellow
(Weismann 2006, "Principles of dermoscopy"; Anderson and Parrish 1981,
doi:10.1111/1523-1747.ep12479191). :class:`Tissue` collects the amounts, :func:`photograph` turns
them into an 8-bit picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.demo.fields import Field, Frame, blur, discs, noise, smoothstep

RGBImage = NDArray[np.uint8]
"""(H, W, 3) uint8, sRGB."""

Rgb = tuple[float, float, float]

# Absorbance of a unit amount in red, green and blue; matched by eye to dermoscopic pictures.
_EPIDERMAL_MELANIN: Rgb = (0.46, 0.88, 1.24)
_DERMAL_MELANIN: Rgb = (1.00, 0.82, 0.55)
_BLOOD: Rgb = (0.16, 1.00, 0.74)
_DARK_BLOOD: Rgb = (0.62, 1.12, 0.62)
_KERATIN: Rgb = (0.06, 0.30, 0.78)
_DERMIS: Rgb = (0.97, 0.86, 0.82)  # reflectance of skin without pigment
_SCAR: Rgb = (0.97, 0.91, 0.90)  # dense collagen and white structures
_CYST: Rgb = (0.98, 0.93, 0.78)  # keratin that fills a cyst


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """Amounts of what gives skin its colour, each (H, W), about 1 where a lesion is strong."""

    frame: Frame
    """The picture plane."""
    melanin: Field
    """Melanin near the surface: light brown at 0.3, black above 2."""
    deep_melanin: Field
    """Melanin in the dermis: grey to blue."""
    blood: Field
    """Red blood."""
    dark_blood: Field
    """Blood with little oxygen, or clotted: purple to black."""
    keratin: Field
    """Keratin: yellow to ochre."""
    scar: Field
    """Cover by white structures, in [0, 1]."""
    cyst: Field
    """Cover by bright yellowish cysts, in [0, 1]."""

    @classmethod
    def bare(cls, frame: Frame) -> Tissue:
        """Tissue without any pigment, to be filled."""
        names = ("melanin", "deep_melanin", "blood", "dark_blood", "keratin", "scar", "cyst")
        return cls(frame=frame, **{name: np.zeros(frame.shape, np.float32) for name in names})

    def reflectance(self) -> NDArray[np.float32]:
        """(H, W, 3) reflected share of white light in [0, 1] (Beer-Lambert, one layer)."""
        density = np.zeros((*self.frame.shape, 3), np.float32)
        for amount, absorbance in (
            (self.melanin, _EPIDERMAL_MELANIN),
            (self.deep_melanin, _DERMAL_MELANIN),
            (self.blood, _BLOOD),
            (self.dark_blood, _DARK_BLOOD),
            (self.keratin, _KERATIN),
        ):
            density += np.maximum(amount, 0.0)[..., None] * np.asarray(absorbance, np.float32)
        colour = np.asarray(_DERMIS, np.float32) * np.exp(-density)
        for cover, white in ((self.scar, _SCAR), (self.cyst, _CYST)):
            share = np.clip(cover, 0.0, 1.0)[..., None]
            colour += share * (np.asarray(white, np.float32) - colour)
        return np.asarray(colour, np.float32)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """How the picture is taken."""

    light: Rgb = (1.0, 1.0, 1.0)
    """Tint and strength of the light."""
    vignette: float = 0.25
    """Loss of light in the corners, in [0, 1]."""
    barrel_mm: float | None = None
    """Radius of the dermatoscope's round opening; None when it is wider than the picture."""
    focus_blur_mm: float = 0.02
    """Width (sigma) of the blur."""
    grain: float = 0.008
    """Standard deviation of the sensor noise, full scale 1."""
    bubbles: int = 0
    """Air bubbles in the immersion fluid."""
    glare: float = 0.0
    """Share of the surface with specular glints, about 0 to 1."""
    relief: Field | None = field(default=None, repr=False)
    """Height of the surface in mm, lit from the upper left; None for a contact plate."""


def photograph(tissue: Tissue, camera: Camera, rng: np.random.Generator) -> RGBImage:
    """Take a picture of the tissue.

    Parameters
    ----------
    tissue
        What is seen.
    camera
        How it is taken.
    rng
        Source of the grain, bubbles and glints.

    Returns
    -------
    (H, W, 3) picture.
    """
    frame = tissue.frame
    image = tissue.reflectance() * np.asarray(camera.light, np.float32)
    if camera.relief is not None:
        image = _shade(frame, image, camera.relief)
    image = blur(frame, np.asarray(image, np.float32), camera.focus_blur_mm)
    if camera.glare > 0:
        image += _glints(frame, rng, camera.glare)[..., None]
    for _ in range(camera.bubbles):
        _add_bubble(frame, rng, image)
    image *= _falloff(frame, rng, camera)[..., None]
    grain = rng.standard_normal(image.shape).astype(np.float32)
    image += camera.grain * blur(frame, grain, 0.6 / frame.px_per_mm) * 2.0
    return np.asarray(np.clip(np.rint(image * 255.0), 0, 255), np.uint8)


def _falloff(frame: Frame, rng: np.random.Generator, camera: Camera) -> Field:
    """Loss of light towards the corners, and the dark ring around a round opening."""
    centre = rng.normal(0.0, 0.03, size=2) * frame.width_mm
    radius = np.hypot(frame.row_mm - centre[0], frame.col_mm - centre[1])
    corner_mm = np.hypot(frame.width_mm, frame.height_mm) / 2
    light = 1.0 - camera.vignette * (radius / corner_mm) ** 2.4
    if camera.barrel_mm is not None:
        light *= 0.03 + 0.97 * smoothstep(-0.25, 0.25, camera.barrel_mm - radius)
    return np.asarray(light, np.float32)


def _glints(frame: Frame, rng: np.random.Generator, amount: float) -> Field:
    """White specular specks along fine skin relief, in patches."""
    fine = noise(frame, rng, 0.16, octaves=2, stretch=1.6)
    patches = smoothstep(0.9, 2.0, noise(frame, rng, 5.0) + amount)
    return blur(frame, 0.85 * smoothstep(2.1, 3.0, fine) * patches, 0.02)


def _add_bubble(frame: Frame, rng: np.random.Generator, image: NDArray[np.float32]) -> None:
    """Add one air bubble: a bright rim, a darker inside and a glint, away from the centre."""
    angle = rng.uniform(0, 2 * np.pi)
    centre = np.array([[np.sin(angle) * frame.height_mm, np.cos(angle) * frame.width_mm]])
    centre = centre * rng.uniform(0.34, 0.48)
    radius = np.array([0.08 + 0.35 * rng.random() ** 3])
    full = discs(frame, centre, radius, 0.06)
    rim = full - discs(frame, centre + 0.06 * radius[0], radius * 0.9, 0.08)
    crescent = rim * np.clip(-(frame.row_mm - centre[0, 0]) / radius[0], 0.1, 1.0)
    glint = discs(frame, centre - 0.45 * radius[:, None], radius * 0.14, 0.04)
    image += (0.22 * crescent - 0.05 * rim + 0.02 * full + 0.4 * glint)[..., None]


def _shade(frame: Frame, image: NDArray[np.float32], relief: Field) -> NDArray[np.float32]:
    """Light the surface from the upper left, with a little shine."""
    down, right = np.gradient(relief * frame.px_per_mm)
    normal = np.stack([-down, -right, np.ones_like(down)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    towards_light = np.array([-0.42, -0.38, 0.82], np.float32)
    lambert = np.clip(normal @ (towards_light / np.linalg.norm(towards_light)), 0.0, None)
    halfway = towards_light + np.array([0.0, 0.0, 1.0], np.float32)
    shine = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0.0, None) ** 60
    lit = image * (0.35 + 0.78 * lambert)[..., None] + 0.10 * shine[..., None]
    return np.asarray(lit, np.float32)


def dark_frame(frame: Frame, rng: np.random.Generator) -> RGBImage:
    """Picture with the lens cap on: sensor noise and a little stray light at one edge."""
    stray = np.clip(frame.col_mm / frame.width_mm - 0.38, 0.0, None)
    light = 0.018 + 0.10 * stray**2
    grain = 0.008 * rng.standard_normal((*frame.shape, 3))
    image = np.clip(light[..., None] + grain, 0.0, 1.0)
    return np.asarray(np.rint(255.0 * image), np.uint8)
