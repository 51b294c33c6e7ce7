"""Simulated patients for TBP screening, from real measurement rows and real dermoscopic lesions.

No public set holds tiles, measurements and pathology of whole patients. Here a patient is a skin
(a real row's colours outside), a style (the patient's lesions are drawn towards one real row) and
lesions: measurements from real rows, tiles cut from real dermoscopic images whose diagnosis is
known and recoloured to the measurements. Malignant lesions deviate by assumed amounts. What is
learnt from such patients proves that the software works, not that melanoma is found.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.tbp.lesions import PHOTODAMAGE_GRADES
from models.tbp.measurements import LOCATIONS, MEASUREMENTS, NAMES, column_number
from training.cohorts import Cohort, Row, split_groups
from training.errors import CohortError
from training.runs import Progress, write_atomically
from training.simulate.imaging import from_lab, load_lesion, read_lesions, recolour, to_lab
from training.simulate.measurement_rows import MeasurementPool, deviate

SPLITS = ("train", "validation", "test")
MAX_EXTENT, DRAWS = 0.6, 20
"""Lesions larger than this share of their picture have too little skin; after so many draws one is
taken all the same."""
MARKER = "simulation.json"
"""File that says that a cohort is simulated; who finds it must say so."""


@dataclass(frozen=True, kw_only=True)
class TbpSimulation:
    """Sizes and assumed effects."""

    seed: int
    """Seed of everything."""
    patients: int
    """Patients in all."""
    train_fraction: float
    """Share of the patients, real lesions and real rows for training."""
    validation_fraction: float
    """Share for choosing thresholds; the rest is the test split."""
    min_lesions: int
    """Fewest lesions of a patient."""
    max_lesions: int
    """Most lesions of a patient."""
    nevus_share: float
    """Share of nevi among the benign lesions."""
    malignant_patients: float
    """Share of patients with one or two malignant lesions."""
    nevus_labels: tuple[str, ...]
    """Labels of the source that are nevi."""
    malignant_labels: tuple[str, ...]
    """Labels of the source that are malignant."""
    other_labels: tuple[str, ...]
    """Labels of the source that are neither."""
    style: float
    """Share of a lesion's contrast and size that comes from the patient's style, in [0, 1]."""
    deviation: float
    """How far malignant lesions deviate in their measurements; 0: not at all."""
    referral_noise: float
    """Share of lesions whose referral does not follow from what they are."""
    tile_px: int
    """Side of a tile in pixels."""
    skin_tiles: int
    """Tiles of skin for photodamage, for each patient."""
    skin_tile_px: int
    """Side of a skin tile in pixels."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        shares = (self.nevus_share, self.malignant_patients, self.style, self.referral_noise)
        checks = {
            "patients": self.patients >= 3,
            "fractions": min(self.train_fraction, self.validation_fraction) > 0
            and self.train_fraction + self.validation_fraction < 1,
            "lesions": 3 <= self.min_lesions <= self.max_lesions,
            "labels": all((self.nevus_labels, self.malignant_labels, self.other_labels)),
            "shares": all(0 <= share <= 1 for share in shares),
            "deviation": self.deviation >= 0,
            "tiles": self.tile_px >= 16 and self.skin_tile_px >= 16 and self.skin_tiles >= 1,
        }
        wrong = [name for name, is_right in checks.items() if not is_right]
        if wrong:
            raise ValueError(f"impossible values: {', '.join(wrong)}")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Shares of train, validation and test."""
        first, second = self.train_fraction, self.validation_fraction
        return first, second, 1 - first - second


def simulate_tbp(
    settings: TbpSimulation,
    *,
    lesions: Path,
    measurements: Path | None,
    folder: Path,
    report: Progress,
) -> None:
    """Write a cohort as ``training.tbp.cohort`` reads it; nothing is done when it is there.

    Parameters
    ----------
    settings
        Sizes and effects.
    lesions
        Real dermoscopic images with masks (``training.simulate.imaging.read_lesions``).
    measurements
        CSV of real rows of measurements; None draws them from the marginal distributions of the
        public ISIC 2024 rows.
    folder
        Where the cohort goes.
    report
        Told of the progress.

    Raises
    ------
    CohortError
        If a source cannot be used.
    """
    if (folder / "lesions.csv").is_file():
        return
    labels = (*settings.nevus_labels, *settings.malignant_labels, *settings.other_labels)
    source = read_lesions(lesions, labels)
    parts = split_groups(source.rows, fractions=settings.fractions, seed=settings.seed)
    pools = _pools(settings, measurements)
    for name in ("tiles", "photodamage"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    skins: list[dict[str, object]] = []
    for number in range(settings.patients):
        part = _part_of(number, settings)
        writer = _Patient(
            settings,
            name=f"P{number:04d}",
            split=SPLITS[part],
            source=source.subset(parts[part]),
            pool=pools[part],
            folder=folder,
            rng=np.random.default_rng([settings.seed, number]),
        )
        rows += writer.write_lesions()
        skins += writer.write_skin()
        report("simulating patients", number + 1, settings.patients)
    _write_table(folder / "photodamage.csv", skins)
    marker = {
        "lesions": lesions.resolve().name,
        "measurements": "real rows" if measurements else "drawn from marginal distributions",
    }
    write_atomically(folder / MARKER, (json.dumps(marker, indent=2) + "\n").encode())
    _write_table(folder / "lesions.csv", rows)  # last: its presence says that all is there


def _part_of(number: int, settings: TbpSimulation) -> int:
    """Split of a patient: the first go to training, the last to the test."""
    place = (number + 0.5) / settings.patients
    train, validation, _ = settings.fractions
    return 0 if place < train else (1 if place < train + validation else 2)


def _pools(settings: TbpSimulation, measurements: Path | None) -> list[MeasurementPool]:
    """One pool of rows for each split: no real patient's rows serve two."""
    if measurements is None:
        return [
            MeasurementPool.drawn(np.random.default_rng([settings.seed, 7, part]), 400)
            for part in range(3)
        ]
    return MeasurementPool.read(measurements).split(settings.fractions, settings.seed)


def _write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, content.getvalue().encode())


class _Patient:
    """One simulated patient."""

    def __init__(
        self,
        settings: TbpSimulation,
        *,
        name: str,
        split: str,
        source: Cohort,
        pool: MeasurementPool,
        folder: Path,
        rng: np.random.Generator,
    ) -> None:
        self.settings, self.name, self.split = settings, name, split
        self.pool, self.folder, self.rng, self.source = pool, folder, rng, source
        self.anchor = pool.values[rng.integers(len(pool.values))]
        self.grade = int(rng.integers(len(PHOTODAMAGE_GRADES)))

    def _rows_of(self, labels: tuple[str, ...]) -> list[Row]:
        rows = [row for row in self.source.rows if row.label in labels]
        if not rows:
            raise CohortError(f"no lesion of {sorted(labels)} is left for the {self.split} split")
        return rows

    def write_lesions(self) -> list[dict[str, object]]:
        """Write the tiles; returns the rows of the table."""
        settings, rng = self.settings, self.rng
        count = int(rng.integers(settings.min_lesions, settings.max_lesions + 1))
        malignant = int(rng.integers(1, 3)) if rng.random() < settings.malignant_patients else 0
        nevi = rng.random(count - malignant) < settings.nevus_share
        kinds = [settings.malignant_labels] * malignant + [
            settings.nevus_labels if is_nevus else settings.other_labels for is_nevus in nevi
        ]
        return [
            self._write_lesion(number, kinds[i]) for number, i in enumerate(rng.permutation(count))
        ]

    def _draw_lesion(self, labels: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Draw a real lesion that has skin around it."""
        candidates = self._rows_of(labels)
        for _ in range(DRAWS):
            row = candidates[self.rng.integers(len(candidates))]
            image, mask = load_lesion(self.source, row)
            extents = [np.ptp(places) + 1 for places in np.nonzero(mask)]
            if all(e <= MAX_EXTENT * side for e, side in zip(extents, mask.shape, strict=True)):
                break
        return image, mask

    def _write_lesion(self, number: int, labels: tuple[str, ...]) -> dict[str, object]:
        settings, rng = self.settings, self.rng
        image, mask = self._draw_lesion(labels)
        is_malignant = labels == settings.malignant_labels
        values = deviate(
            self.pool.draw(rng),
            self.anchor,
            style=settings.style,
            strength=settings.deviation if is_malignant else 0.0,
            rng=rng,
        )
        tile = cut_tile(image, mask, values, settings.tile_px, rng)
        tile_id = f"{self.name}_{number:03d}"
        Image.fromarray(tile).save(self.folder / "tiles" / f"{tile_id}.jpg", quality=92)
        # What a physician refers: mostly the malignant ones, never all and never only those.
        follows = rng.random() >= settings.referral_noise
        is_referred = is_malignant if follows else bool(rng.random() < 0.3)
        named = dict(zip(NAMES, (f"{value:.6g}" for value in values), strict=True))
        named["location_simple"] = LOCATIONS[int(values[column_number("location_simple")])]
        del named["dnn_lesion_confidence"]  # no public row has it: the trees must do without
        columns = {column.name: column.isic_name for column in MEASUREMENTS}
        return {
            "tile_id": tile_id,
            "patient_id": self.name,
            "split": self.split,
            "referred": int(is_referred),
            "nevus": int(labels == settings.nevus_labels),
            "malignant": int(is_malignant),
            **{columns[name]: value for name, value in named.items()},
        }

    def write_skin(self) -> list[dict[str, object]]:
        """Write the skin tiles; returns the rows of their table."""
        rows: list[dict[str, object]] = []
        skin = self.anchor[[column_number(name) for name in ("Lext", "Aext", "Bext")]]
        for number in range(self.settings.skin_tiles):
            row = self.source.rows[self.rng.integers(len(self.source.rows))]
            image, mask = load_lesion(self.source, row)
            tile = skin_tile(image, mask, self.settings.skin_tile_px, skin, self.rng)
            tile = damage_skin(tile, self.grade, self.rng)
            tile_id = f"{self.name}_skin{number:02d}"
            Image.fromarray(tile).save(self.folder / "photodamage" / f"{tile_id}.jpg", quality=92)
            rows.append(
                {
                    "tile_id": tile_id,
                    "patient_id": self.name,
                    "grade": PHOTODAMAGE_GRADES[self.grade],
                }
            )
        return rows


def cut_tile(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    values: NDArray[np.float64],
    side_px: int,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Cut a lesion out with skin around it, in the colours that the measurements state.

    Parameters
    ----------
    image, mask
        (H, W, 3) uint8 and (H, W) bool, not empty.
    values
        (32,) measurements.
    side_px
        Side of the tile.

    Returns
    -------
    ndarray
        (side, side, 3) uint8.
    """
    lesion, skin = (
        values[[column_number(name + where) for name in ("L", "A", "B")]] for where in ("", "ext")
    )
    coloured = recolour(image, mask, skin=skin, lesion=lesion)
    rows, columns = np.nonzero(mask)
    centre = ((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    scale = side_px / (extent * rng.uniform(1.5, 2.0))
    turned = cv2.getRotationMatrix2D(centre, rng.uniform(-180, 180), scale)
    turned[:, 2] += np.asarray(side_px / 2 - np.array(centre))
    # Smoothed first: a reduction by warping alone would alias.
    smooth = cv2.GaussianBlur(coloured, (0, 0), max(0.3, 0.4 / scale))
    tile = cv2.warpAffine(
        smooth, turned, (side_px, side_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(tile, np.uint8)


def skin_tile(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    side_px: int,
    skin: NDArray[np.floating],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Tile of skin without the lesion, in a patient's skin colour, (side, side, 3) uint8."""
    side = min(mask.shape) // 3
    best = min(
        (
            (int(mask[r : r + side, c : c + side].sum()), int(r), int(c))
            for r, c in zip(
                rng.integers(0, mask.shape[0] - side, 24),
                rng.integers(0, mask.shape[1] - side, 24),
                strict=True,
            )
        )
    )
    part = image[best[1] : best[1] + side, best[2] : best[2] + side]
    # Mirrored to four times its area, so that the tile keeps some of the texture's scale.
    part = np.concatenate([part, part[:, ::-1]], axis=1)
    part = np.concatenate([part, part[::-1]], axis=0)
    whole = np.asarray(cv2.resize(part, (side_px, side_px), interpolation=cv2.INTER_LINEAR))
    lab = to_lab(whole.astype(np.uint8))
    return from_lab((lab - lab.mean(axis=(0, 1)) + skin).astype(np.float32))


def damage_skin(tile: NDArray[np.uint8], grade: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw sun damage: lentigines, mottled pigment, redness; more of each with the grade.

    Parameters
    ----------
    tile
        (S, S, 3) uint8.
    grade
        Number in ``PHOTODAMAGE_GRADES``.
    """
    lab = to_lab(tile)
    side = tile.shape[0]
    pigment = np.zeros((side, side), np.float32)
    for _ in range(int(rng.poisson((2, 9, 24)[grade]))):
        centre = tuple(int(v) for v in rng.integers(0, side, 2))
        axes = tuple(int(v) for v in rng.uniform(0.008, 0.03, 2) * side + 1)
        strength = float(rng.uniform(0.4, 1.0))
        cv2.ellipse(pigment, centre, axes, float(rng.uniform(0, 180)), 0, 360, strength, -1)
    pigment = np.asarray(cv2.GaussianBlur(pigment, (0, 0), side / 150))
    coarse = rng.normal(0, 1, (8, 8)).astype(np.float32)
    mottle = np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))
    lab[..., 0] += -14 * pigment + (0.3, 1.0, 2.0)[grade] * mottle
    lab[..., 1] += 2 * pigment + max(0.0, rng.normal((0.0, 1.5, 3.0)[grade], 1.0))
    lab[..., 2] += 6 * pigment
    return from_lab(lab)
