"""Forest plot of the model's hazard ratios, with one patient's own beside them."""

from __future__ import annotations

import math

from models.prognosis.patient import HazardRatio
from models.prognosis.result import CovariateLine, PrognosisResult
from reports.page import GREY, INK, RULE, Frame, Page
from reports.prognosis.curves import diamond

_SIZE = 7.5
_ROW = 17.0
_TICKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_HEIGHT_OVER_ROWS = 29.0


def forest_height(result: PrognosisResult) -> float:
    """Height that the plot needs."""
    return _HEIGHT_OVER_ROWS + _ROW * len(result.covariates)


def draw_forest(page: Page, frame: Frame, result: PrognosisResult) -> None:
    """Draw one line a covariate: its ratio with the interval, and the patient's own ratio."""
    names, plot, figures, own = frame.split(2.6, 3.0, 2.5, 1.7, gap=10)
    ratios = result.manifest.hazard_ratios
    patients = [line.hazard_ratio for line in result.covariates if line.hazard_ratio is not None]
    lowest = min([*(each.low for each in ratios), *patients, 0.5])
    highest = max([*(each.high for each in ratios), *patients, 2.0])
    limits = (math.log(lowest) - 0.15, math.log(highest) + 0.15)
    y = frame.top + 9
    page.text((names.left, y), "Covariate", size=_SIZE, is_bold=True)
    page.text((plot.left, y), "Hazard ratio (log scale)", size=_SIZE, is_bold=True)
    page.text((figures.left, y), "Ratio (95 % interval), p", size=_SIZE, is_bold=True)
    page.text((own.left, y), "This patient", size=_SIZE, is_bold=True)
    top, bottom = y + 4, y + 4 + _ROW * len(ratios)
    _draw_axis(page, plot, limits, top, bottom)
    for number, (line, ratio) in enumerate(zip(result.covariates, ratios, strict=True)):
        middle = top + _ROW * (number + 0.5)
        base = middle + 2.6
        page.text((names.left, base), _name(line, ratio), size=_SIZE)
        page.text((figures.left, base), _figures(ratio), size=_SIZE)
        page.text((own.left, base), _own(line), size=_SIZE)
        _draw_ratio(page, plot, limits, middle, ratio)
        if line.hazard_ratio is not None:
            diamond(page, (_x(plot, limits, line.hazard_ratio), middle), size=3.0)


def _x(plot: Frame, limits: tuple[float, float], ratio: float) -> float:
    low, high = limits
    share = (math.log(ratio) - low) / (high - low)
    return plot.left + plot.width * share


def _draw_axis(
    page: Page, plot: Frame, limits: tuple[float, float], top: float, bottom: float
) -> None:
    page.line([(plot.left, bottom), (plot.right, bottom)], width=0.6)
    for tick in _TICKS:
        if not limits[0] <= math.log(tick) <= limits[1]:
            continue
        x = _x(plot, limits, tick)
        is_one = tick == 1.0
        page.line(
            [(x, top), (x, bottom + 2.5)],
            colour=INK if is_one else RULE,
            width=0.7 if is_one else 0.4,
        )
        page.text((x, bottom + 10), f"{tick:g}", size=7, colour=GREY, align="centre")


def _draw_ratio(
    page: Page, plot: Frame, limits: tuple[float, float], y: float, ratio: HazardRatio
) -> None:
    low, middle, high = (_x(plot, limits, each) for each in (ratio.low, ratio.ratio, ratio.high))
    page.line([(low, y), (high, y)], colour=GREY, width=1.0)
    for x in (low, high):
        page.line([(x, y - 2.5), (x, y + 2.5)], colour=GREY, width=1.0)
    box = Frame(left=middle - 2.6, top=y - 2.6, width=5.2, height=5.2)
    page.box(box, fill=GREY)


def _name(line: CovariateLine, ratio: HazardRatio) -> str:
    return f"{line.meaning[:1].upper()}{line.meaning[1:]}, {ratio.contrast}"


def _figures(ratio: HazardRatio) -> str:
    p = "p < 0.001" if ratio.p_value < 0.001 else f"p = {ratio.p_value:.3f}"
    return f"{ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), {p}"


def _own(line: CovariateLine) -> str:
    if line.hazard_ratio is None:
        return line.value or "missing"
    return f"{line.value}: {line.hazard_ratio:.2f}"
