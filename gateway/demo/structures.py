"""Dermoscopic structures of a lesion, each a field to be added to the tissue.

Names follow the third consensus of the International Dermoscopy Society (Kittler et al. 2016,
doi:10.1016/j.jaad.2015.12.038).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.demo.fields import Field, Frame, blur, discs, mesh, noise, smoothstep, strokes
from gateway.demo.skin import wander


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Where the lesion is."""

    depth_mm: Field
    """(H, W) distance inside the border, negative outside."""
    angle: Field
    """(H, W) direction seen from the centre in radians."""
    radius_mm: float
    """Mean radius."""
    centre_mm: tuple[float, float]
    """Centre (row, column) from the middle of the picture."""

    def cover(self, softness_mm: float) -> Field:
        """1 inside and 0 outside, with a border of the given width."""
        return smoothstep(-softness_mm / 2, softness_mm / 2, self.depth_mm)

    @property
    def centrality(self) -> Field:
        """0 at the border and outside, 1 in the middle."""
        return np.asarray(np.clip(self.depth_mm / self.radius_mm, 0.0, 1.0), np.float32)

    def band(self, middle_mm: float, width_mm: float) -> Field:
        """Band along the border, `middle_mm` inside it."""
        offset = (self.depth_mm - middle_mm) / width_mm
        return np.asarray(np.exp(-(offset**2)), np.float32)

    def point(self, angle: float, inside_mm: float) -> NDArray[np.float64]:
        """Point `inside_mm` inside the mean radius, in the given direction."""
        reach = self.radius_mm - inside_mm
        centre = np.asarray(self.centre_mm, np.float64)
        return centre + reach * np.array([np.sin(angle), np.cos(angle)])


def outline(
    frame: Frame,
    rng: np.random.Generator,
    *,
    radius_mm: float,
    elongation: float = 1.2,
    lobes: float = 0.05,
    jagged_mm: float = 0.1,
) -> Outline:
    """Draw the border of a lesion near the middle of the picture.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    radius_mm
        Mean radius.
    elongation
        Length over width, at least 1.
    lobes
        Relative depth of large bays and bulges; above 0.15 the lesion is asymmetric.
    jagged_mm
        Depth of small notches.
    """
    centre = rng.uniform(-0.06, 0.06, 2) * frame.height_mm
    rows, cols = frame.row_mm - centre[0], frame.col_mm - centre[1]
    tilt = rng.uniform(0, np.pi)
    along = (np.cos(tilt) * cols + np.sin(tilt) * rows) / np.sqrt(elongation)
    across = (np.cos(tilt) * rows - np.sin(tilt) * cols) * np.sqrt(elongation)
    angle = np.arctan2(across, along).astype(np.float32)
    reach = np.full(frame.shape, radius_mm, np.float32)
    for order in range(2, 8):
        swing = lobes * radius_mm * rng.normal() / order**0.6
        reach += np.float32(swing) * np.cos(order * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    # Bulges are limited, so that a lesion of this radius stays in the picture.
    limit_mm = 0.28 * radius_mm
    reach = radius_mm + limit_mm * np.tanh((reach - radius_mm) / limit_mm)
    reach += jagged_mm * noise(frame, rng, 1.6, octaves=4)
    depth = reach - np.hypot(along, across)
    return Outline(
        depth_mm=np.asarray(depth, np.float32),
        angle=np.arctan2(rows, cols).astype(np.float32),
        radius_mm=radius_mm,
        centre_mm=(float(centre[0]), float(centre[1])),
    )


def pigment_network(
    frame: Frame,
    rng: np.random.Generator,
    *,
    mesh_mm: float = 0.36,
    line_mm: float = 0.075,
    irregularity: float = 0.3,
) -> Field:
    """Reticular lines: a brown grid around paler holes.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    mesh_mm
        Distance between neighbouring holes.
    line_mm
        Width of a line.
    irregularity
        How much width and strength of the lines vary, 0 for a typical network.
    """
    grid = mesh(frame, rng, mesh_mm, warp_mm=0.22 * mesh_mm)
    width = line_mm * np.exp(irregularity * noise(frame, rng, 1.3, octaves=2))
    lines = np.exp(-((grid.wall_mm / width) ** 2))
    strength = np.clip(1.0 + irregularity * noise(frame, rng, 1.8), 0.0, None)
    return blur(frame, np.asarray(lines * strength, np.float32), 0.025)


def globules(
    frame: Frame,
    rng: np.random.Generator,
    within: Field,
    *,
    count: int,
    radius_mm: tuple[float, float],
    edge_mm: float = 0.08,
) -> Field:
    """Round clods strewn where `within` is high: dots, globules, cysts or openings by their size.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    within
        (H, W) relative frequency.
    count
        How many.
    radius_mm
        Smallest and largest radius.
    edge_mm
        Softness of the rim.
    """
    if count == 0:
        return np.zeros(frame.shape, np.float32)
    weight = np.clip(within, 0.0, None).astype(np.float64).ravel()
    if weight.sum() == 0:
        return np.zeros(frame.shape, np.float32)
    places = rng.choice(weight.size, size=count, p=weight / weight.sum())
    pixels = np.stack(np.unravel_index(places, frame.shape), axis=1).astype(np.float64)
    middle = np.array([frame.height_px - 1, frame.width_px - 1]) / 2
    centres = (pixels - middle) / frame.px_per_mm
    radii = rng.uniform(*radius_mm, size=count)
    # Not perfectly round and not all equally deep: each is drawn as a few overlapping discs.
    parts = [discs(frame, centres, radii * 0.8, edge_mm, rng.uniform(0.45, 1.0, count))]
    for _ in range(2):
        shifted = centres + 0.45 * radii[:, None] * rng.normal(0, 0.7, centres.shape)
        strength = rng.uniform(0.35, 1.0, count)
        parts.append(discs(frame, shifted, radii * rng.uniform(0.5, 0.85), edge_mm, strength))
    return np.asarray(np.maximum.reduce(parts), np.float32)


def streaks(
    frame: Frame,
    rng: np.random.Generator,
    edge: Outline,
    *,
    sector: tuple[float, float],
    count: int,
) -> Field:
    """Radial streaks and pseudopods: finger-like lines leaving the border in one sector.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    edge
        The lesion.
    sector
        First and last direction in radians.
    count
        How many.
    """
    paths, widths = [], []
    for angle in np.sort(rng.uniform(*sector, size=count)):
        root = _border_point(frame, edge, float(angle))
        length = rng.uniform(0.2, 0.75)
        start = root - 0.7 * np.array([np.sin(angle), np.cos(angle)])
        path = wander(rng, start, float(angle) + rng.normal(0, 0.12), 0.7 + length, 0.08)
        paths.append(path)
        width = rng.uniform(0.11, 0.22) * np.linspace(1.0, 0.55, len(path))
        width[-2:] *= rng.uniform(1.0, 1.5)  # a pseudopod ends in a knob
        widths.append(width)
    lines = blur(frame, strokes(frame, paths, widths), 0.05)
    return np.asarray(lines * np.clip(0.8 + 0.25 * noise(frame, rng, 0.4), 0.2, 1.2), np.float32)


def _border_point(frame: Frame, edge: Outline, angle: float) -> NDArray[np.float64]:
    """Where the ray from the centre in this direction leaves the lesion."""
    reach = np.arange(0.2, 2.2, 0.02) * edge.radius_mm
    ray = np.asarray(edge.centre_mm) + reach[:, None] * np.array([np.sin(angle), np.cos(angle)])
    pixels = np.rint(frame.to_px(ray)).astype(int)
    inside = np.all((pixels >= 0) & (pixels < frame.shape), axis=1)
    depth = edge.depth_mm[tuple(pixels[inside].T)]
    beyond = np.flatnonzero(depth < 0)
    return np.asarray(ray[inside][beyond[0] if beyond.size else -1], np.float64)


def arborising_vessels(
    frame: Frame, rng: np.random.Generator, edge: Outline, *, trunks: int
) -> Field:
    """Bright red, sharply focused vessels that branch like trees.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    edge
        The lesion; trunks enter over its border.
    trunks
        Number of trees.
    """
    paths: list[NDArray[np.float64]] = []
    widths: list[NDArray[np.float64]] = []
    first = rng.uniform(0, 2 * np.pi)
    for index in range(trunks):
        angle = first + 2 * np.pi * index / trunks + rng.normal(0, 0.25)
        root = edge.point(angle, inside_mm=rng.uniform(-0.3, 0.5))
        inwards = angle + np.pi + rng.normal(0, 0.4)
        _branch(rng, root, inwards, rng.uniform(1.8, 2.8), rng.uniform(0.07, 0.13), paths, widths)
    depth = np.clip(0.8 + 0.25 * noise(frame, rng, 1.0, octaves=2), 0.25, 1.1)
    return np.asarray(depth * blur(frame, strokes(frame, paths, widths), 0.015), np.float32)


def _branch(
    rng: np.random.Generator,
    start: NDArray[np.float64],
    heading: float,
    length_mm: float,
    width_mm: float,
    paths: list[NDArray[np.float64]],
    widths: list[NDArray[np.float64]],
) -> None:
    """Grow one branch and, while it is thick enough, its own branches."""
    path = wander(rng, start, heading, length_mm, 0.36)
    paths.append(path)
    widths.append(np.linspace(width_mm, 0.6 * width_mm, len(path)))
    if width_mm < 0.03:
        return
    for share in (0.5, 1.0):
        at = max(1, min(len(path) - 1, int(share * (len(path) - 1))))
        step = path[at] - path[at - 1]
        along = float(np.arctan2(step[0], step[1]))
        side = rng.choice([-1.0, 1.0]) * rng.uniform(0.35, 0.95)
        reach = length_mm * rng.uniform(0.5, 0.8)
        _branch(rng, path[at], along + side, reach, width_mm * 0.62, paths, widths)


def white_lines(frame: Frame, rng: np.random.Generator, within: Field, *, count: int) -> Field:
    """Shiny white lines: short, straight, at right angles to each other.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    within
        (H, W) cover in [0, 1] that limits them.
    count
        How many.
    """
    lie = rng.uniform(0, np.pi)
    rows, cols = np.nonzero(within > 0.5)
    if count == 0 or rows.size == 0:
        return np.zeros(frame.shape, np.float32)
    middle = np.array([frame.height_px - 1, frame.width_px - 1]) / 2
    paths, widths = [], []
    for pick in rng.integers(rows.size, size=count):
        start = (np.array([rows[pick], cols[pick]]) - middle) / frame.px_per_mm
        heading = lie + rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.12)
        path = wander(rng, start, heading, rng.uniform(0.3, 0.9), 0.03)
        paths.append(path)
        widths.append(rng.uniform(0.04, 0.08) * np.sin(np.linspace(0.5, 2.6, len(path))))
    return np.asarray(within * blur(frame, strokes(frame, paths, widths), 0.03), np.float32)
