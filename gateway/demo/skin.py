"""Healthy skin: tone, mottling, fine furrows, vessels, freckles and hairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.demo.fields import Field, Frame, blur, discs, mesh, noise, smoothstep, strokes
from gateway.demo.tissue import Tissue


@dataclass(frozen=True, kw_only=True)
class SkinTone:
    """How the skin around the lesion looks."""

    melanin: float = 0.10
    """Mean melanin: 0.05 very fair, 0.3 olive, 0.9 brown."""
    blood: float = 0.20
    """Mean redness."""
    deep_melanin: float = 0.0
    """Mean greyness, as in dark skin."""
    mottling: float = 1.0
    """Strength of the uneven redness and pigment."""
    furrows: float = 1.0
    """Strength of the fine skin markings."""
    freckles: int = 6
    """Faint pigment spots in the field of view."""
    vessels: int = 8
    """Fine, blurred vessels in the field of view."""


def grow_skin(frame: Frame, rng: np.random.Generator, tone: SkinTone) -> Tissue:
    """Make a patch of healthy skin.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    tone
        How the skin looks.
    """
    tissue = Tissue.bare(frame)
    blotches = noise(frame, rng, 6.0, octaves=4)
    mottle = noise(frame, rng, 1.1, octaves=3)
    speckle = noise(frame, rng, 0.22, octaves=2)
    redness = 0.16 * blotches + 0.08 * mottle + 0.045 * speckle
    pigment = 0.15 * noise(frame, rng, 2.0, octaves=4) + 0.10 * speckle
    tissue.blood[:] = tone.blood * np.exp(tone.mottling * 1.5 * redness)
    tissue.melanin[:] = tone.melanin * np.exp(tone.mottling * 1.8 * pigment)
    tissue.deep_melanin[:] = tone.deep_melanin * np.exp(tone.mottling * 0.2 * blotches)
    tissue.keratin[:] = 0.04 * np.exp(0.5 * noise(frame, rng, 3.0, octaves=3))
    _add_furrows(tissue, rng, tone.furrows)
    _add_freckles(tissue, rng, tone.freckles)
    _add_fine_vessels(tissue, rng, tone.vessels)
    return tissue


def _add_furrows(tissue: Tissue, rng: np.random.Generator, strength: float) -> None:
    """Skin markings: a lattice of rhomboid plateaus parted by fine pale furrows."""
    lattice = mesh(tissue.frame, rng, 0.75, warp_mm=0.12, stretch=1.7)
    line = blur(tissue.frame, np.exp(-((lattice.wall_mm / 0.045) ** 2)), 0.02)
    presence = smoothstep(-0.6, 1.6, noise(tissue.frame, rng, 3.5, octaves=2))
    furrow = strength * line * presence
    tissue.scar[:] += 0.13 * furrow
    plateau = lattice.value_per_cell(rng.normal(0.0, 1.0, lattice.count))
    tissue.blood[:] *= 1.0 + 0.05 * strength * blur(tissue.frame, plateau, 0.1)


def _add_freckles(tissue: Tissue, rng: np.random.Generator, count: int) -> None:
    frame = tissue.frame
    if count == 0:
        return
    spots = _spots(frame, rng, count, (0.15, 0.7), edge_mm=0.5)
    grain = np.clip(0.8 + 0.35 * noise(frame, rng, 0.35, octaves=2), 0.0, None)
    tissue.melanin[:] += 0.16 * spots * grain


def _spots(
    frame: Frame,
    rng: np.random.Generator,
    count: int,
    radius_mm: tuple[float, float],
    *,
    edge_mm: float,
) -> Field:
    """Discs strewn over the whole picture."""
    extent = np.array([frame.height_mm, frame.width_mm])
    centres = rng.uniform(-0.5, 0.5, size=(count, 2)) * extent
    return discs(frame, centres, rng.uniform(*radius_mm, size=count), edge_mm)


def _add_fine_vessels(tissue: Tissue, rng: np.random.Generator, count: int) -> None:
    frame = tissue.frame
    if count == 0:
        return
    extent = np.array([frame.height_mm, frame.width_mm])
    paths = [
        wander(rng, rng.uniform(-0.5, 0.5, 2) * extent, rng.uniform(0, 2 * np.pi), 1.6, 0.22)
        for _ in range(count)
    ]
    widths = [rng.uniform(0.05, 0.10) * np.linspace(1.0, 0.3, len(path)) for path in paths]
    tissue.blood[:] += 0.22 * blur(frame, strokes(frame, paths, widths), 0.06)


def wander(
    rng: np.random.Generator,
    start_mm: NDArray[np.float64],
    heading: float,
    length_mm: float,
    wobble: float,
    step_mm: float = 0.08,
) -> NDArray[np.float64]:
    """Winding path, as vessels and hairs take.

    Parameters
    ----------
    rng
        Source of randomness.
    start_mm
        (2,) start (row, column) in mm from the centre.
    heading
        First direction in radians, from the columns towards the rows.
    length_mm
        Length of the path.
    wobble
        Standard deviation of the change of direction in each step, in radians.
    step_mm
        Length of a step.

    Returns
    -------
    (N, 2) points (row, column) in mm, N >= 2.
    """
    count = max(2, int(length_mm / step_mm))
    turn = rng.normal(0.0, wobble, count)
    turn = 0.6 * turn + 0.4 * np.concatenate([[0.0], turn[:-1]])  # bends last over two steps
    angle = heading + np.cumsum(turn)
    steps = step_mm * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([[start_mm], start_mm + np.cumsum(steps, axis=0)])


@dataclass(frozen=True, kw_only=True)
class Hair:
    """A growth of hairs."""

    count: int
    """Number of hairs."""
    length_mm: tuple[float, float] = (3.0, 9.0)
    """Shortest and longest."""
    width_mm: tuple[float, float] = (0.035, 0.07)
    """Thinnest and thickest at the root."""
    darkness: float = 1.5
    """Pigment: 0.3 blond, 1.5 dark brown, 2.5 black."""
    spread: float = 0.5
    """Standard deviation of the direction in radians."""


def grow_hairs(tissue: Tissue, rng: np.random.Generator, hair: Hair) -> None:
    """Lay hairs over the tissue, with a soft shadow beside each.

    Parameters
    ----------
    tissue
        Changed in place.
    rng
        Source of randomness.
    hair
        What grows.
    """
    frame = tissue.frame
    if hair.count == 0:
        return
    lie = rng.uniform(0, 2 * np.pi)
    extent = np.array([frame.height_mm, frame.width_mm]) * 1.2
    paths, widths = [], []
    for _ in range(hair.count):
        start = rng.uniform(-0.5, 0.5, 2) * extent
        heading = lie + rng.normal(0.0, hair.spread)
        bend = rng.normal(0.0, 0.014)
        path = wander(rng, start, heading, rng.uniform(*hair.length_mm), 0.012, step_mm=0.15)
        path = _curl(path, bend)
        taper = np.linspace(1.0, 0.12, len(path)) ** 0.6
        paths.append(path)
        widths.append(rng.uniform(*hair.width_mm) * taper)
    cover = strokes(frame, paths, widths)
    shadow = blur(frame, strokes(frame, [p + 0.09 for p in paths], widths), 0.06)
    tissue.scar[:] *= 1.0 - cover
    tissue.cyst[:] *= 1.0 - cover
    tissue.melanin[:] += hair.darkness * cover + 0.18 * shadow
    tissue.deep_melanin[:] += 0.55 * hair.darkness * cover


def _curl(path: NDArray[np.float64], bend_per_step: float) -> NDArray[np.float64]:
    """Bend a path steadily, keeping its start and the length of its steps."""
    steps = np.diff(path, axis=0)
    angle = bend_per_step * np.arange(len(steps))
    sine, cosine = np.sin(angle), np.cos(angle)
    turned = np.stack(
        [cosine * steps[:, 0] + sine * steps[:, 1], cosine * steps[:, 1] - sine * steps[:, 0]],
        axis=1,
    )
    return np.concatenate([path[:1], path[0] + np.cumsum(turned, axis=0)])
