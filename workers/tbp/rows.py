"""Measurements of one lesion as they arrive, whatever they arrive in. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.tbp.measurements import canonical_name, measurement
from models.tbp.remarks import Remark

OUT_OF_BOUNDS = "out_of_bounds_fraction"
"""A number of the device beside the 32, which one filter needs."""
MIN_MEASUREMENTS = 3
"""Known names from which something is a table of measurements, and not of something else."""
MAX_LESIONS = 20_000
"""Rows of one source beyond which it is refused: no patient has so many lesions."""

# UCUM unit -> factor to the unit that the model expects.
_FACTORS: dict[str, dict[str, float]] = {
    "mm": {"mm": 1, "cm": 10, "um": 1e-3, "m": 1e3},
    "mm2": {"mm2": 1, "cm2": 100, "um2": 1e-6},
    "deg": {"deg": 1, "rad": 180 / math.pi},
    "%": {"%": 1, "[%]": 1},
    "1": {"1": 1, "": 1, "{ratio}": 1, "{score}": 1, "{confidence}": 1},
}


@dataclass(frozen=True, kw_only=True)
class LesionRow:
    """What one source says of one lesion."""

    values: Mapping[str, object]
    """Measurement by the device's name -> number, text or None."""
    sop_instance_uid: str = ""
    """Of its tile; empty where the source does not say."""
    tracking_uid: str = ""
    """Tracking Unique Identifier; empty where the source does not say."""
    lesion_id: str = ""
    """The site's identifier; unique within the patient, or not at all."""
    instance_number: int | None = None
    """Instance Number of its tile."""
    patient_id: str = ""
    """Patient that the row belongs to; empty where the source does not say."""

    @property
    def has_identifier(self) -> bool:
        """Whether the row names its lesion in any way."""
        return bool(
            self.sop_instance_uid
            or self.tracking_uid
            or self.lesion_id
            or self.instance_number is not None
        )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one source gave."""

    rows: tuple[LesionRow, ...] = ()
    remarks: tuple[Remark, ...] = field(default=())


class UnknownUnit(ValueError):
    """A number's unit is not one that its measurement can have; the message names both."""


def canonical(name: str) -> str | None:
    """The device's name of a column in any spelling, ``out_of_bounds_fraction`` included.

    Examples
    --------
    >>> canonical("TBP deltaLBnorm"), canonical("tbp_lv_out_of_bounds_fraction")
    ('deltaLBnorm', 'out_of_bounds_fraction')
    """
    bare = name.strip()
    for prefix in ("", "tbp ", "tbp_lv_"):
        if bare.casefold().startswith(prefix):
            rest = bare[len(prefix) :]
            if rest.casefold() == OUT_OF_BOUNDS:
                return OUT_OF_BOUNDS
            found = canonical_name(rest)
            if found is not None:
                return found
    return None


def in_expected_unit(name: str, value: float, unit: str) -> float:
    """Convert a number to the unit that its measurement has in the model.

    Parameters
    ----------
    name
        The device's name of the measurement.
    unit
        UCUM code.

    Raises
    ------
    UnknownUnit
        If the unit does not belong to such a measurement. A percentage without a unit stays as it
        is: whether it is a fraction is only seen over all lesions (``models.tbp.measurements``).

    Examples
    --------
    >>> in_expected_unit("majorAxisMM", 0.31, "cm"), in_expected_unit("areaMM2", 2, "cm2")
    (3.1, 200)
    """
    expected = "1" if name == OUT_OF_BOUNDS else measurement(name).unit
    given = unit.strip()
    if expected == "%" and given in _FACTORS["1"]:
        return value
    if name == OUT_OF_BOUNDS and given == "%":
        return value / 100
    factor = _FACTORS[expected].get(given)
    if factor is None:
        raise UnknownUnit(f"{name} in {given or 'no unit'}, not in {expected}")
    return value * factor
