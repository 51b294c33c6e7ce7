"""A drawn patient of total body photography: lesion tiles, each with the device's measurements.

The measurements are drawn from ranges of ordinary lesions, those of two odd ones from its ends;
they and the pictures are nobody's.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from gateway.demo.samples import Kind, render
from gateway.sending.wrap import StudyIdentity, new_uid, wrap

TILE_PX = 144
"""Side of a tile; those of devices have 90 to 160 pixels for 15 mm."""
PRIVATE_GROUP, PRIVATE_CREATOR = 0x0019, "99DERMAI TBP 1.0"
_SITES = ("Torso Front", "Torso Back", "Left Arm", "Right Arm", "Left Leg", "Right Leg")
_ODD = {5: Kind.MELANOMA, 17: Kind.BASAL_CELL_CARCINOMA}


def write_tiles(folder: Path, identity: StudyIdentity, *, count: int = 40) -> list[Path]:
    """Draw the tiles of one patient and wrap them with their measurements.

    Parameters
    ----------
    folder
        Made when it does not exist.
    identity
        Patient, study and series.
    count
        Lesions.

    Returns
    -------
    The files, one for each lesion.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    paths = []
    for number in range(1, count + 1):
        kind = _ODD.get(number, Kind.NEVUS)
        picture = folder / f"tile-{number:04d}.jpg"
        drawn = render(kind, 100 + number, (TILE_PX, TILE_PX))
        Image.fromarray(drawn).save(picture, quality=92, subsampling=0)
        ds = wrap(picture, "clinical", identity=identity)
        picture.unlink()
        ds.SeriesDescription = "TBP lesion tiles"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "TBP"]
        ds.InstanceNumber = number
        ds.TrackingID, ds.TrackingUID = f"Lesion {number}", new_uid()
        block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
        block.add_new(0x01, "UT", json.dumps(_measurements(rng, is_odd=number in _ODD)))
        path = folder / f"tile-{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _measurements(rng: np.random.Generator, *, is_odd: bool) -> dict[str, float | str]:
    """The 32 measurements of one lesion, by the device's names."""
    skin = {"L": rng.normal(62, 3), "A": rng.normal(14, 1.5), "B": rng.normal(24, 2)}
    contrast = rng.uniform(22, 30) if is_odd else rng.uniform(8, 15)
    inside = {
        "L": skin["L"] - contrast,
        "A": skin["A"] + rng.uniform(2, 7),
        "B": skin["B"] + rng.uniform(-3, 3),
    }
    major = rng.uniform(7, 9) if is_odd else rng.uniform(2.2, 4.5)
    minor = major * rng.uniform(0.55, 0.95)
    area = float(np.pi / 4 * major * minor)
    perimeter = float(np.pi * (major + minor) / 2 * rng.uniform(1.0, 1.3))
    irregular = rng.uniform(6, 9) if is_odd else rng.uniform(1, 4)
    values: dict[str, float] = {
        **inside,
        **{f"{name}ext": value for name, value in skin.items()},
        "C": float(np.hypot(inside["A"], inside["B"])),
        "Cext": float(np.hypot(skin["A"], skin["B"])),
        "H": float(np.degrees(np.arctan2(inside["B"], inside["A"]))),
        "Hext": float(np.degrees(np.arctan2(skin["B"], skin["A"]))),
        "deltaL": inside["L"] - skin["L"],
        "deltaA": inside["A"] - skin["A"],
        "deltaB": inside["B"] - skin["B"],
        "deltaLB": float(np.hypot(inside["L"] - skin["L"], inside["B"] - skin["B"])),
        "deltaLBnorm": contrast * 0.8,
        "areaMM2": area,
        "perimeterMM": perimeter,
        "area_perim_ratio": perimeter**2 / area,
        "majorAxisMM": major,
        "minorAxisMM": minor,
        "eccentricity": float(np.sqrt(1 - (minor / major) ** 2)),
        "color_std_mean": irregular * 0.3,
        "radial_color_std_max": irregular * 0.25,
        "norm_border": irregular,
        "norm_color": irregular,
        "symm_2axis": irregular / 10,
        "symm_2axis_angle": float(rng.uniform(0, 180)),
        "stdL": irregular * 0.8,
        "stdLExt": float(rng.uniform(1.5, 3)),
        "dnn_lesion_confidence": float(rng.uniform(90, 100)),
        "nevi_confidence": float(rng.uniform(85, 100)),
    }
    rounded: dict[str, float | str] = {name: round(value, 4) for name, value in values.items()}
    return {**rounded, "location_simple": str(rng.choice(_SITES))}
