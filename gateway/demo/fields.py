"""Scalar fields on the picture plane: noise, meshes, outlines and soft strokes, in millimetres.

Everything the demo renderer draws is built from these few. A :class:`Frame` fixes the size and the
scale, so that structures are described by their real size (a pigment network has holes of a third
of a millimetre) and look alike at any picture size. This module knows no anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""(H, W) float32: one value for each pixel."""

_SUBPIXEL_BITS = 4


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The picture plane: its size in pixels and its scale."""

    height_px: int
    """H, at least 1."""
    width_px: int
    """W, at least 1."""
    px_per_mm: float
    """Pixels in one millimetre of skin."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height_px, self.width_px

    @property
    def width_mm(self) -> float:
        """Width of the field of view in mm."""
        return self.width_px / self.px_per_mm

    @property
    def height_mm(self) -> float:
        """Height of the field of view in mm."""
        return self.height_px / self.px_per_mm

    @cached_property
    def row_mm(self) -> Field:
        """(H, W) distance below the centre in mm."""
        return self._plane(self.height_px)[:, None] + np.zeros(self.shape, np.float32)

    @cached_property
    def col_mm(self) -> Field:
        """(H, W) distance to the right of the centre in mm."""
        return self._plane(self.width_px)[None, :] + np.zeros(self.shape, np.float32)

    def to_px(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn (N, 2) points (row, column) in mm from the centre into pixels."""
        centre = np.array([self.height_px - 1, self.width_px - 1]) / 2
        return points_mm * self.px_per_mm + centre

    def _plane(self, count: int) -> Field:
        offsets = (np.arange(count) - (count - 1) / 2) / self.px_per_mm
        return offsets.astype(np.float32)


def smoothstep(low: float, high: float, field: Field) -> Field:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((field - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def blur(frame: Frame, field: Field, sigma_mm: float) -> Field:
    """Blur by a Gaussian of `sigma_mm`; (H, W) or (H, W, C)."""
    sigma_px = sigma_mm * frame.px_per_mm
    if sigma_px < 0.15:  # narrower than any pixel: nothing to do
        return field
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma_px), np.float32)


def noise(
    frame: Frame,
    rng: np.random.Generator,
    wavelength_mm: float,
    *,
    octaves: int = 1,
    stretch: float = 1.0,
) -> Field:
    """Smooth random field of zero mean and unit variance.

    Parameters
    ----------
    frame
        The picture plane.
    rng
        Source of randomness.
    wavelength_mm
        Size of the largest blobs.
    octaves
        Each further octave has half the wavelength and half the amplitude.
    stretch
        Above 1, the blobs are that many times longer along the columns than along the rows.
    """
    total = np.zeros(frame.shape, np.float32)
    for octave in range(octaves):
        step_px = max(wavelength_mm * frame.px_per_mm / 2**octave, 1.0)
        total += _lattice_noise(frame.shape, rng, (step_px, step_px * stretch)) / 2**octave
    total -= total.mean()
    return np.asarray(total / max(float(total.std()), 1e-6), np.float32)


def _lattice_noise(
    shape: tuple[int, int], rng: np.random.Generator, step_px: tuple[float, float]
) -> Field:
    """Random lattice of the given steps, enlarged by cubic interpolation and cut to `shape`."""
    nodes = tuple(int(np.ceil(n / step)) + 3 for n, step in zip(shape, step_px, strict=True))
    lattice = rng.standard_normal(nodes).astype(np.float32)
    origin = rng.uniform(1.0, 2.0, size=2)
    # The map takes each pixel to its place among the nodes; the random origin hides the lattice.
    scale = np.array(
        [[1 / step_px[1], 0, origin[1]], [0, 1 / step_px[0], origin[0]]], dtype=np.float64
    )
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    height, width = shape
    warped = cv2.warpAffine(
        lattice, scale, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(warped, np.float32)


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """The plane divided into irregular cells, as pigment network or lacunae divide it."""

    wall_mm: Field
    """(H, W) distance to the nearest wall between two cells."""
    cell: NDArray[np.int32]
    """(H, W) number of the cell, from 0."""
    count: int
    """Number of cells."""

    def value_per_cell(self, values: NDArray[np.float64]) -> Field:
        """Paint one of `values` (at least `count` of them) into each cell."""
        return np.asarray(values[self.cell], np.float32)


def mesh(
    frame: Frame,
    rng: np.random.Generator,
    spacing_mm: float,
    *,
    warp_mm: float = 0.0,
    stretch: float = 1.0,
) -> Mesh:
    """Voronoi cells around jittered points.

    Parameters
    ----------
    frame, rng
        The picture plane and the source of randomness.
    spacing_mm
        Mean distance between neighbouring cells.
    warp_mm
        How far the walls are bent away from straight lines.
    stretch
        Above 1, cells are longer along the columns.
    """
    margin_px = int(2 * spacing_mm * stretch * frame.px_per_mm) + 2
    height, width = (n + 2 * margin_px for n in frame.shape)
    step_px = np.array([spacing_mm, spacing_mm * stretch]) * frame.px_per_mm
    step_px = np.maximum(step_px, 2.0)
    rows, cols = np.meshgrid(
        np.arange(0.5, height / step_px[0]), np.arange(0.5, width / step_px[1]), indexing="ij"
    )
    points = np.stack([rows.ravel(), cols.ravel()], axis=1)
    points[:, 1] += 0.5 * (np.floor(points[:, 0]) % 2)  # offset every second row: no square grid
    points = ((points + rng.uniform(-0.36, 0.36, points.shape)) * step_px).astype(int)
    points = np.clip(points, 0, [height - 1, width - 1])
    canvas = np.full((height, width), 255, np.uint8)
    canvas[points[:, 0], points[:, 1]] = 0
    _, label = cv2.distanceTransformWithLabels(
        canvas, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label = _bend(frame, rng, np.asarray(label, np.int32), warp_mm)
    wall = np.full(label.shape, 255, np.uint8)
    wall[:, 1:][label[:, 1:] != label[:, :-1]] = 0
    wall[1:, :][label[1:, :] != label[:-1, :]] = 0
    distance = cv2.distanceTransform(wall, cv2.DIST_L2, 5) / frame.px_per_mm
    inner = (slice(margin_px, -margin_px), slice(margin_px, -margin_px))
    return Mesh(
        wall_mm=np.asarray(distance[inner], np.float32),
        cell=np.asarray(label[inner] - 1, np.int32),
        count=int(label.max()),
    )


def _bend(
    frame: Frame, rng: np.random.Generator, label: NDArray[np.int32], warp_mm: float
) -> NDArray[np.int32]:
    """Displace a label picture by smooth noise of amplitude `warp_mm`."""
    if warp_mm == 0.0:
        return label
    plane = Frame(height_px=label.shape[0], width_px=label.shape[1], px_per_mm=frame.px_per_mm)
    grid = np.indices(label.shape).astype(np.float32)
    amplitude_px = warp_mm * frame.px_per_mm
    rows = grid[0] + amplitude_px * noise(plane, rng, 4 * warp_mm + 0.2)
    cols = grid[1] + amplitude_px * noise(plane, rng, 4 * warp_mm + 0.2)
    bent = cv2.remap(
        label.astype(np.float32), cols, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(bent, np.int32)


def strokes(
    frame: Frame,
    paths_mm: list[NDArray[np.float64]],
    widths_mm: list[NDArray[np.float64]],
) -> Field:
    """Draw curved lines of varying width with soft edges.

    Parameters
    ----------
    frame
        The picture plane.
    paths_mm
        One (N, 2) polyline (row, column) in mm from the centre for each line.
    widths_mm
        One (N,) width for each line; what is thinner than a pixel becomes fainter instead.

    Returns
    -------
    (H, W) coverage in [0, 1].
    """
    supersampling = 2
    canvas = np.zeros((frame.height_px * supersampling, frame.width_px * supersampling), np.uint8)
    for path, width in zip(paths_mm, widths_mm, strict=True):
        points = (frame.to_px(path) + 0.5) * supersampling - 0.5
        fixed = np.round(points[:, ::-1] * 2**_SUBPIXEL_BITS).astype(int)
        width_px = width * frame.px_per_mm * supersampling
        for start, end, thickness in zip(fixed[:-1], fixed[1:], width_px[:-1], strict=True):
            colour = int(255 * min(1.0, thickness))
            cv2.line(
                canvas,
                (int(start[0]), int(start[1])),
                (int(end[0]), int(end[1])),
                colour,
                max(1, round(float(thickness))),
                cv2.LINE_AA,
                _SUBPIXEL_BITS,
            )
    small = cv2.resize(canvas, (frame.width_px, frame.height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255.0)


def discs(
    frame: Frame,
    centres_mm: NDArray[np.float64],
    radii_mm: NDArray[np.float64],
    edge_mm: float,
    strengths: NDArray[np.float64] | None = None,
) -> Field:
    """Draw round spots, fading over `edge_mm`.

    Parameters
    ----------
    frame
        The picture plane.
    centres_mm
        (N, 2) centres (row, column) in mm from the middle of the picture.
    radii_mm
        (N,) radii.
    edge_mm
        Width of the soft rim.
    strengths
        (N,) value in the middle of each; None for 1.

    Returns
    -------
    (H, W) coverage in [0, 1]; where spots overlap, the stronger counts.
    """
    strengths = np.ones(len(radii_mm)) if strengths is None else strengths
    field = np.zeros(frame.shape, np.float32)
    centres_px = frame.to_px(centres_mm)
    for (row, col), radius_mm, strength in zip(centres_px, radii_mm, strengths, strict=True):
        reach_px = (radius_mm + edge_mm) * frame.px_per_mm + 1
        window = tuple(
            slice(max(0, int(middle - reach_px)), max(0, int(middle + reach_px) + 2))
            for middle in (row, col)
        )
        patch = field[window]
        if patch.size == 0:
            continue
        grid = np.hypot(
            np.arange(window[0].start, window[0].start + patch.shape[0])[:, None] - row,
            np.arange(window[1].start, window[1].start + patch.shape[1])[None, :] - col,
        )
        depth_mm = radius_mm - (grid / frame.px_per_mm).astype(np.float32)
        spot = np.float32(strength) * smoothstep(-edge_mm / 2, edge_mm / 2, depth_mm)
        np.maximum(patch, spot, out=patch)
    return field
