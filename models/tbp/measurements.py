"""The 32 measurements that total body photography gives of a lesion, as one typed table.

The device's names (``majorAxisMM``) and those of the ISIC archive (``tbp_lv_areaMM2``,
``clin_size_long_diam_mm``) are both read. What is missing stays missing and is said: nothing is
filled in here. Reading files is left to the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import MeasurementError

ISIC_PREFIX = "tbp_lv_"
LOCATIONS = (
    "Torso Front",
    "Torso Back",
    "Left Arm",
    "Right Arm",
    "Left Leg",
    "Right Leg",
    "Head & Neck",
    "Unknown",
)
"""Values of ``location_simple`` in the ISIC 2024 table; their numbers are what the trees see."""
CONFIDENCES = ("dnn_lesion_confidence", "nevi_confidence")
MIN_LESIONS_TO_JUDGE_SCALE = 20
"""With fewer lesions, confidences that all lie below 1 % are quite possible."""
_MISSING_TEXTS = ("", "na", "n/a", "nan", "none", "null")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One column."""

    name: str
    """The device's name."""
    isic_name: str
    """Name in the ISIC archive."""
    unit: str
    """UCUM unit."""
    low: float
    """Smallest value that can be, included."""
    high: float
    """Largest value that can be, included."""
    meaning: str
    """What is measured."""
    kind: Literal["scalar", "angle", "category"] = "scalar"
    """Angles wrap around and suit trees, not linear models; categories are numbers of a list."""
    period: float | None = None
    """Degrees after which an angle repeats."""


def _column(
    name: str, unit: str, low: float, high: float, meaning: str, *, isic_name: str = ""
) -> Measurement:
    return Measurement(
        name=name,
        isic_name=isic_name or ISIC_PREFIX + name,
        unit=unit,
        low=low,
        high=high,
        meaning=meaning,
    )


def _angle(name: str, low: float, high: float, period: float, meaning: str) -> Measurement:
    return Measurement(
        name=name,
        isic_name=ISIC_PREFIX + name,
        unit="deg",
        low=low,
        high=high,
        meaning=meaning,
        kind="angle",
        period=period,
    )


# Ranges hold every row of the public ISIC 2024 table with room to spare: they catch a column of
# another kind or unit, not a rare lesion. The device's L* may pass 100 on overexposed skin.
MEASUREMENTS: tuple[Measurement, ...] = (
    _column("A", "1", -60, 100, "mean a* inside"),
    _column("Aext", "1", -60, 100, "mean a* outside"),
    _column("B", "1", -60, 100, "mean b* inside"),
    _column("Bext", "1", -60, 100, "mean b* outside"),
    _column("C", "1", 0, 140, "mean chroma inside"),
    _column("Cext", "1", 0, 140, "mean chroma outside"),
    _angle("H", -180, 360, 360, "hue inside, angle of (a*, b*)"),
    _angle("Hext", -180, 360, 360, "hue outside, angle of (a*, b*)"),
    _column("L", "1", 0, 120, "mean L* inside"),
    _column("Lext", "1", 0, 120, "mean L* outside"),
    _column("areaMM2", "mm2", 0, 10_000, "area"),
    _column("area_perim_ratio", "1", 4 * math.pi * 0.7, 500, "squared perimeter over area"),
    _column("color_std_mean", "1", 0, 30, "colour irregularity"),
    _column("deltaA", "1", -100, 100, "a* inside less outside"),
    _column("deltaB", "1", -100, 100, "b* inside less outside"),
    _column("deltaL", "1", -120, 120, "L* inside less outside"),
    _column("deltaLB", "1", 0, 150, "contrast in L* and b*"),
    _column("deltaLBnorm", "1", 0, 150, "contrast against the skin immediately around"),
    _column("dnn_lesion_confidence", "%", 0, 100, "confidence that this is a lesion"),
    _column("eccentricity", "1", 0, 1, "eccentricity of the fitted ellipse"),
    Measurement(
        name="location_simple",
        isic_name=ISIC_PREFIX + "location_simple",
        unit="1",
        low=0,
        high=len(LOCATIONS) - 1,
        meaning="body region",
        kind="category",
    ),
    _column("majorAxisMM", "mm", 0, 300, "longest diameter", isic_name="clin_size_long_diam_mm"),
    _column("minorAxisMM", "mm", 0, 300, "smallest diameter"),
    _column("nevi_confidence", "%", 0, 100, "confidence that this is a nevus"),
    _column("norm_border", "1", 0, 10, "border irregularity"),
    _column("norm_color", "1", 0, 10, "colour variation"),
    _column("perimeterMM", "mm", 0, 2_000, "perimeter"),
    _column("radial_color_std_max", "1", 0, 30, "colour asymmetry"),
    _column("stdL", "1", 0, 60, "standard deviation of L* inside"),
    _column("stdLExt", "1", 0, 60, "standard deviation of L* outside"),
    _column("symm_2axis", "1", 0, 10, "border asymmetry"),
    _angle("symm_2axis_angle", 0, 360, 180, "angle of the axis of asymmetry"),
)
"""The columns in the order of the model's input (PanDerm, Nature Medicine 2025, TBP methods)."""
NAMES = tuple(column.name for column in MEASUREMENTS)
_BY_NAME = {column.name: column for column in MEASUREMENTS}
_CANONICAL = {
    spelling.casefold(): column.name
    for column in MEASUREMENTS
    for spelling in (column.name, column.isic_name, ISIC_PREFIX + column.name)
}
_LOCATION_NUMBERS = {name.casefold(): number for number, name in enumerate(LOCATIONS)}

LEAK_PREFIXES = ("iddx",)
LEAK_COLUMNS = frozenset({"mel_thick_mm", "mel_mitotic_index", "lesion_id", "target", "malignant"})
"""Columns known only once a lesion was cut out and read: never an input of a model."""
OTHER_COLUMNS = frozenset(
    {
        "isic_id",
        "patient_id",
        "age_approx",
        "sex",
        "anatom_site_general",
        "image_type",
        "tbp_tile_type",
        "tbp_lv_location",
        "tbp_lv_x",
        "tbp_lv_y",
        "tbp_lv_z",
        "attribution",
        "copyright_license",
        "out_of_bounds_fraction",
        "tbp_lv_out_of_bounds_fraction",
    }
)
"""Known columns of such tables that are neither measurements nor targets."""


def column_number(name: str) -> int:
    """Position of a measurement in the model's input; the device's names only."""
    return NAMES.index(name)


def canonical_name(column: str) -> str | None:
    """Return the device's name of a column in either spelling, or None when it is not one of ours.

    Examples
    --------
    >>> canonical_name("clin_size_long_diam_mm"), canonical_name("tbp_lv_stdLExt")
    ('majorAxisMM', 'stdLExt')
    >>> canonical_name("iddx_1") is None
    True
    """
    # Spellings differ in case between exports; no two columns differ in case alone.
    return _CANONICAL.get(column.strip().casefold())


def is_leak(column: str) -> bool:
    """Whether a column tells the outcome and so must never be an input."""
    name = column.strip().casefold()
    return name.startswith(LEAK_PREFIXES) or name in LEAK_COLUMNS


@dataclass(frozen=True, kw_only=True)
class LesionProblem:
    """Why one value of one lesion cannot be used."""

    name: str
    """The device's name of the measurement."""
    problem: Literal["missing", "not a number", "out of range", "unknown location"]


@dataclass(frozen=True, kw_only=True)
class MeasurementTable:
    """Measurements of N lesions with what is wrong with them."""

    values: NDArray[np.float32]
    """(N, 32) in the order of ``MEASUREMENTS``; nan where there is no usable value."""
    problems: tuple[tuple[LesionProblem, ...], ...]
    """For each lesion the values that cannot be used, ``()`` when all 32 can."""
    absent: tuple[str, ...]
    """Columns that no row has."""
    remarks: tuple[str, ...]
    """What a person should look at, such as confidences that seem to be on another scale."""

    def missing(self, lesion: int) -> tuple[str, ...]:
        """Names of the measurements of a lesion that cannot be used, for whatever reason."""
        return tuple(problem.name for problem in self.problems[lesion])


def read_measurements(rows: Sequence[Mapping[str, object]]) -> MeasurementTable:
    """Read the 32 measurements out of rows of any mixture of columns.

    Parameters
    ----------
    rows
        One mapping a lesion, column -> number, text or None. Other columns are ignored; whether
        an unknown one is an error is for the caller to say.

    Returns
    -------
    MeasurementTable
        Values that are missing, not finite or impossible are nan, and listed.

    Raises
    ------
    MeasurementError
        If one row gives a measurement twice, under both spellings.

    Examples
    --------
    >>> table = read_measurements([{"tbp_lv_A": "20.5", "clin_size_long_diam_mm": 3.1}])
    >>> float(table.values[0, 0]), len(table.missing(0))
    (20.5, 30)
    """
    values = np.full((len(rows), len(NAMES)), np.nan, np.float32)
    problems: list[tuple[LesionProblem, ...]] = []
    seen: set[str] = set()
    for lesion, row in enumerate(rows):
        found = _by_canonical_name(row)
        seen |= set(found)
        wrong = []
        for number, column in enumerate(MEASUREMENTS):
            value, problem = _read_value(column, found.get(column.name))
            values[lesion, number] = value
            if problem is not None:
                wrong.append(LesionProblem(name=column.name, problem=problem))
        problems.append(tuple(wrong))
    return MeasurementTable(
        values=values,
        problems=tuple(problems),
        absent=tuple(name for name in NAMES if name not in seen) if rows else NAMES,
        remarks=_remarks(values),
    )


def _by_canonical_name(row: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for column, value in row.items():
        name = canonical_name(column)
        if name is None:
            continue
        if name in found:
            raise MeasurementError(f"a row gives {name} twice, under two spellings")
        found[name] = value
    return found


_Problem = Literal["missing", "not a number", "out of range", "unknown location"]


def _read_value(column: Measurement, value: object) -> tuple[float, _Problem | None]:
    if value is None or (isinstance(value, str) and value.strip().casefold() in _MISSING_TEXTS):
        return math.nan, "missing"
    if column.kind == "category" and isinstance(value, str):
        number = _LOCATION_NUMBERS.get(value.strip().casefold())
        return (math.nan, "unknown location") if number is None else (float(number), None)
    try:
        number_read = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan, "not a number"
    if math.isnan(number_read):
        return math.nan, "missing"
    if not column.low <= number_read <= column.high:
        return math.nan, "out of range"
    if column.kind == "category" and number_read != int(number_read):
        return math.nan, "unknown location"
    return number_read, None


def _remarks(values: NDArray[np.float32]) -> tuple[str, ...]:
    """Confidences are percentages; a whole table below 1 looks like fractions."""
    remarks = []
    for name in CONFIDENCES:
        known = values[:, column_number(name)]
        known = known[np.isfinite(known)]
        if len(known) >= MIN_LESIONS_TO_JUDGE_SCALE and known.max() <= 1:
            remarks.append(f"{name} seems to be given as a fraction; a percentage is expected")
    return tuple(remarks)


def ranges() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of each measurement, (32,) each."""
    return (
        np.array([column.low for column in MEASUREMENTS]),
        np.array([column.high for column in MEASUREMENTS]),
    )


def measurement(name: str) -> Measurement:
    """Return the column of a device's name."""
    return _BY_NAME[name]
