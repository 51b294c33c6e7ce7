"""The lesions themselves: each puts its structures into a patch of skin."""

from __future__ import annotations

import numpy as np

from gateway.demo.fields import Field, Frame, blur, mesh, noise, smoothstep
from gateway.demo.structures import (
    Outline,
    arborising_vessels,
    globules,
    outline,
    pigment_network,
    streaks,
    white_lines,
)
from gateway.demo.tissue import Tissue


def grow_nevus(
    tissue: Tissue,
    rng: np.random.Generator,
    *,
    radius_mm: float = 3.6,
    pigment: float = 1.0,
) -> Outline:
    """Benign melanocytic nevus: symmetric, two browns, typical network that fades at the edge.

    Parameters
    ----------
    tissue, rng
        The skin, changed in place, and the source of randomness.
    radius_mm
        Mean radius.
    pigment
        Amount of melanin against a nevus on fair skin.
    """
    frame = tissue.frame
    edge = outline(frame, rng, radius_mm=radius_mm, elongation=1.25, lobes=0.045, jagged_mm=0.12)
    cover = edge.cover(1.7)
    centre = smoothstep(0.25, 0.95, edge.centrality + 0.06 * noise(frame, rng, 1.5, octaves=3))
    network = pigment_network(frame, rng, irregularity=0.22)
    patchy = np.clip(1.0 + 0.16 * noise(frame, rng, 1.4, octaves=4), 0.3, None)
    tissue.melanin[:] += pigment * cover * patchy * (0.34 + 0.46 * centre + 0.36 * network)
    tissue.deep_melanin[:] += 0.14 * cover * centre
    tissue.blood[:] *= 1.0 - 0.25 * cover
    dots = globules(frame, rng, cover * (0.15 + centre), count=70, radius_mm=(0.04, 0.09))
    tissue.melanin[:] += 0.40 * dots
    tissue.scar[:] *= 1.0 - 0.75 * cover
    return edge


def grow_melanoma(tissue: Tissue, rng: np.random.Generator) -> Outline:
    """Melanoma: asymmetric, many colours, atypical network, streaks, globules, blue-white veil."""
    frame = tissue.frame
    edge = outline(frame, rng, radius_mm=4.0, elongation=1.3, lobes=0.13, jagged_mm=0.30)
    cover = edge.cover(0.9)
    tissue.scar[:] *= 1.0 - 0.9 * cover
    patches = noise(frame, rng, 3.2, octaves=3)
    turn = rng.uniform(0, 2 * np.pi)
    tilt = np.asarray(np.cos(edge.angle - turn) * (1 - 0.4 * edge.centrality), np.float32)
    dark = smoothstep(-0.35, 1.1, 0.75 * patches + 0.55 * tilt)
    network = pigment_network(frame, rng, mesh_mm=0.46, line_mm=0.11, irregularity=0.6)
    clumps = np.clip(1.0 + 0.30 * noise(frame, rng, 0.55, octaves=4), 0.2, None)
    tissue.melanin[:] += cover * clumps * (0.42 + 1.05 * dark)
    tissue.melanin[:] += cover * (0.45 * network * smoothstep(1.6, 0.5, edge.depth_mm + dark))
    tissue.blood[:] += 0.40 * cover * smoothstep(0.3, 1.6, noise(frame, rng, 2.4, octaves=2))
    _add_eccentric_globules(tissue, rng, edge, cover, turn)
    rays = streaks(frame, rng, edge, sector=(turn - 0.9, turn + 0.8), count=26)
    tissue.melanin[:] += 0.60 * rays
    _add_veil(tissue, rng, edge, turn)
    _add_regression(tissue, rng, edge, turn + np.pi)
    return edge


def _add_eccentric_globules(
    tissue: Tissue, rng: np.random.Generator, edge: Outline, cover: Field, turn: float
) -> None:
    """Dots and globules of unequal size, crowded to one side."""
    frame = tissue.frame
    side = np.clip(np.cos(edge.angle - turn - 1.4), 0.0, None) * cover
    large = globules(frame, rng, side, count=44, radius_mm=(0.07, 0.19), edge_mm=0.12)
    small = globules(frame, rng, cover, count=120, radius_mm=(0.03, 0.08))
    tissue.melanin[:] += 0.75 * large + 0.55 * small


def _veil_at(frame: Frame, rng: np.random.Generator, edge: Outline, angle: float) -> Field:
    """Soft irregular patch between the centre and the border in one direction, in [0, 1]."""
    row, col = edge.point(angle, inside_mm=0.62 * edge.radius_mm)
    distance = np.hypot(frame.row_mm - row, frame.col_mm - col) / (0.42 * edge.radius_mm)
    shape = 1.0 - distance + 0.42 * noise(frame, rng, 2.0, octaves=4)
    return np.asarray(smoothstep(-0.35, 1.0, shape) * edge.cover(0.8), np.float32)


def _add_veil(tissue: Tissue, rng: np.random.Generator, edge: Outline, angle: float) -> None:
    """Blue-white veil: structureless steel blue under a ground-glass haze."""
    frame = tissue.frame
    veil = _veil_at(frame, rng, edge, angle)
    tissue.melanin[:] *= 1.0 - 0.72 * veil
    tissue.blood[:] *= 1.0 - 0.65 * veil
    tissue.deep_melanin[:] += (
        1.2 * veil * np.clip(1 + 0.2 * noise(frame, rng, 1.2, octaves=3), 0, 2)
    )
    haze = np.clip(0.8 + 0.3 * noise(frame, rng, 0.9, octaves=3), 0.0, 1.2)
    tissue.scar[:] += 0.20 * veil * haze


def _add_regression(tissue: Tissue, rng: np.random.Generator, edge: Outline, angle: float) -> None:
    """Regression: a scar-like pale area with grey peppering."""
    frame = tissue.frame
    area = _veil_at(frame, rng, edge, angle)
    tissue.melanin[:] *= 1.0 - 0.72 * area
    tissue.scar[:] += 0.22 * area
    pepper = globules(frame, rng, area, count=130, radius_mm=(0.02, 0.05), edge_mm=0.05)
    tissue.deep_melanin[:] += 0.45 * pepper + 0.10 * area


def grow_seborrhoeic_keratosis(tissue: Tissue, rng: np.random.Generator) -> Outline:
    """Seborrhoeic keratosis: sharp border, fissures and ridges, cysts and comedo-like openings."""
    frame = tissue.frame
    edge = outline(frame, rng, radius_mm=4.1, elongation=1.2, lobes=0.05, jagged_mm=0.22)
    cover = edge.cover(0.22)
    fold = noise(frame, rng, 1.15, octaves=2)
    fissures = np.exp(-((fold / 0.24) ** 2)) * smoothstep(0.1, 0.8, edge.depth_mm)
    grain = np.clip(1.0 + 0.34 * noise(frame, rng, 0.55, octaves=4), 0.3, None)
    tint = 1.0 + 0.30 * noise(frame, rng, 2.4, octaves=4)
    tissue.melanin[:] += cover * grain * tint * (0.30 + 0.34 * blur(frame, fissures, 0.05))
    tissue.keratin[:] += 0.26 * cover * np.clip(tint, 0.4, None)
    tissue.deep_melanin[:] += 0.16 * cover
    tissue.melanin[:] += 0.16 * cover * edge.band(0.1, 0.22)
    inside = smoothstep(0.35, 0.9, edge.depth_mm)
    openings = globules(frame, rng, inside, count=24, radius_mm=(0.07, 0.24), edge_mm=0.14)
    tissue.melanin[:] += 0.85 * openings
    tissue.keratin[:] += 0.50 * blur(frame, openings, 0.05)
    cysts = globules(frame, rng, inside, count=34, radius_mm=(0.04, 0.15), edge_mm=0.16)
    tissue.cyst[:] += 0.70 * cysts * (1.0 - np.clip(1.5 * openings, 0.0, 1.0))
    tissue.scar[:] *= 1.0 - 0.9 * cover
    return edge


def grow_basal_cell_carcinoma(tissue: Tissue, rng: np.random.Generator) -> Outline:
    """Basal cell carcinoma: pearly pink, arborising vessels, blue-grey nests, shiny white lines."""
    frame = tissue.frame
    edge = outline(frame, rng, radius_mm=3.9, elongation=1.15, lobes=0.07, jagged_mm=0.16)
    cover = edge.cover(0.9)
    uneven = np.clip(1.0 + 0.22 * noise(frame, rng, 1.3, octaves=3), 0.2, None)
    tissue.melanin[:] *= 1.0 - 0.55 * cover
    tissue.blood[:] += 0.20 * cover * uneven
    tissue.scar[:] += cover * np.clip(0.15 + 0.12 * noise(frame, rng, 1.8, octaves=3), 0.0, 0.5)
    rim = smoothstep(0.2, 0.9, edge.depth_mm) * smoothstep(2.6, 1.0, edge.depth_mm)
    side = np.clip(0.35 + np.cos(edge.angle - rng.uniform(0, 2 * np.pi)), 0.0, None)
    nests = globules(frame, rng, rim * side, count=13, radius_mm=(0.22, 0.60), edge_mm=0.45)
    small = globules(frame, rng, cover, count=36, radius_mm=(0.05, 0.13), edge_mm=0.10)
    tissue.blood[:] *= 1.0 - 0.75 * nests
    tissue.deep_melanin[:] += 1.05 * nests * uneven + 0.45 * small
    tissue.melanin[:] += 0.05 * nests
    _add_erosion(tissue, rng, edge)
    vessels = arborising_vessels(frame, rng, edge, trunks=6)
    tissue.blood[:] += 0.85 * vessels
    tissue.keratin[:] += 0.22 * vessels  # oxygenated blood close to the surface: scarlet
    tissue.scar[:] += 0.42 * white_lines(frame, rng, cover, count=26)
    tissue.scar[:] *= 1.0 - 0.8 * vessels
    return edge


def _add_erosion(tissue: Tissue, rng: np.random.Generator, edge: Outline) -> None:
    """Small eroded spot with a haemorrhagic crust."""
    frame = tissue.frame
    row, col = edge.point(rng.uniform(0, 2 * np.pi), inside_mm=0.75 * edge.radius_mm)
    distance = np.hypot(frame.row_mm - row, frame.col_mm - col)
    shape = 0.55 - distance + 0.16 * noise(frame, rng, 0.6, octaves=3)
    crust = smoothstep(-0.05, 0.18, shape)
    tissue.dark_blood[:] += 0.55 * crust
    tissue.keratin[:] += 0.65 * crust
    tissue.blood[:] += 0.65 * smoothstep(-0.5, 0.1, shape)


def grow_angioma(tissue: Tissue, rng: np.random.Generator) -> Outline:
    """Vascular lesion: well-defined red and purple lacunae parted by pale septa."""
    frame = tissue.frame
    edge = outline(frame, rng, radius_mm=2.7, elongation=1.2, lobes=0.08, jagged_mm=0.10)
    cover = edge.cover(0.25)
    sacs = mesh(frame, rng, 0.95, warp_mm=0.10)
    # Blurring a hard mask rounds the corners of the cells into sacs.
    rounded = blur(frame, smoothstep(0.02, 0.08, sacs.wall_mm), 0.15)
    septum = 0.62 + 0.08 * noise(frame, rng, 0.8, octaves=2)
    lacuna = smoothstep(-0.26, 0.22, rounded - septum) * edge.cover(0.35)
    oxygen = sacs.value_per_cell(np.clip(rng.normal(0.62, 0.30, sacs.count), 0.0, 1.0))
    depth = sacs.value_per_cell(rng.uniform(0.75, 1.25, sacs.count))
    dome = 0.62 + 0.42 * smoothstep(0.0, 0.4, sacs.wall_mm)
    tissue.blood[:] += lacuna * depth * dome * (0.60 + 0.55 * oxygen)
    tissue.dark_blood[:] += lacuna * depth * dome * 0.55 * (1.0 - oxygen) ** 1.5
    tissue.blood[:] += (0.72 + 0.14 * noise(frame, rng, 0.9, octaves=3)) * cover
    tissue.blood[:] += 0.30 * edge.cover(2.6)
    clot = smoothstep(0.9, 1.5, noise(frame, rng, 1.6)) * lacuna
    tissue.dark_blood[:] += 0.7 * clot
    tissue.scar[:] += 0.12 * cover * (1.0 - lacuna) - 0.9 * tissue.scar * lacuna
    return edge


def grow_dermatofibroma(tissue: Tissue, rng: np.random.Generator) -> Outline:
    """Dermatofibroma: central white scar-like patch, delicate network around, pink tinge."""
    frame = tissue.frame
    edge = outline(frame, rng, radius_mm=3.7, elongation=1.12, lobes=0.04, jagged_mm=0.16)
    cover = edge.cover(2.2)
    patch = smoothstep(0.42, 0.80, edge.centrality + 0.07 * noise(frame, rng, 1.1, octaves=3))
    network = pigment_network(frame, rng, mesh_mm=0.34, line_mm=0.06, irregularity=0.2)
    uneven = np.clip(1.0 + 0.18 * noise(frame, rng, 1.5, octaves=3), 0.3, None)
    ring = cover * (1.0 - 0.9 * patch)
    tissue.melanin[:] += ring * uneven * (0.24 + 0.36 * network)
    tissue.blood[:] += 0.08 * cover * uneven
    tissue.blood[:] += 0.16 * edge.band(1.7, 0.8) * uneven
    septa = mesh(frame, rng, 0.5, warp_mm=0.09)
    strands = np.exp(-((septa.wall_mm / 0.09) ** 2)) * patch
    tissue.scar[:] += patch * 0.40 + 0.26 * blur(frame, strands, 0.03)
    tissue.scar[:] += 0.25 * white_lines(frame, rng, patch, count=14)
    return edge
