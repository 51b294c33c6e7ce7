"""Kaplan-Meier curves of the training groups, with one patient's probabilities on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.prognosis.patient import HIGH_RISK, GroupCurve, HorizonSurvival
from models.prognosis.result import PrognosisResult
from reports.page import GREY, INK, RULE, Colour, Frame, Page, Point

_COLOURS: dict[str, Colour] = {"low risk": (0, 90, 160), HIGH_RISK: (190, 60, 20)}
_SIZE = 7.0
_LEFT, _RIGHT, _TABLE_ROW, _LEGEND_ROW = 62.0, 8.0, 10.0, 10.5


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """Where years and probabilities lie on the page."""

    frame: Frame
    years: float

    def at(self, years: float, survival: float) -> Point:
        x = self.frame.left + self.frame.width * min(years, self.years) / self.years
        return (x, self.frame.bottom - self.frame.height * survival)


def draw_curves(page: Page, frame: Frame, result: PrognosisResult) -> None:
    """Draw both groups' curves with their bands and numbers at risk; the patient's group is bold.

    Parameters
    ----------
    frame
        Rectangle for the plot and the table below it.
    """
    curves = sorted(result.manifest.curves, key=lambda curve: curve.group == HIGH_RISK)
    own = result.prognosis.risk_group if result.prognosis else ""
    has_patient = result.prognosis is not None
    legend = _LEGEND_ROW * (len(curves) + has_patient) + 8
    table = _TABLE_ROW * len(curves) + 26
    axes = _Axes(
        frame=Frame(
            left=frame.left + _LEFT,
            top=frame.top + legend,
            width=frame.width - _LEFT - _RIGHT,
            height=frame.height - legend - table,
        ),
        years=float(max(2, int(result.manifest.follow_up_years))),
    )
    _draw_axes(page, axes, result.manifest.free_of)
    for curve in curves:
        _draw_curve(page, axes, curve, is_own=curve.group == own)
    if result.prognosis is not None:
        _draw_patient(page, axes, result.prognosis.survival)
    _draw_legend(page, frame, curves, own, has_patient=has_patient)
    _draw_numbers(page, axes, curves)


def _draw_axes(page: Page, axes: _Axes, free_of: str) -> None:
    for percent in range(0, 101, 20):
        left, right = axes.at(0, percent / 100), axes.at(axes.years, percent / 100)
        page.line([left, right], colour=RULE, width=0.4)
        page.text(
            (left[0] - 4, left[1] + 2.5), f"{percent} %", size=_SIZE, colour=GREY, align="right"
        )
    for year in range(int(axes.years) + 1):
        x, y = axes.at(year, 0)
        page.line([(x, y), (x, y + 2.5)], width=0.5)
        page.text((x, y + 10), str(year), size=_SIZE, colour=GREY, align="centre")
    page.line([axes.at(0, 1), axes.at(0, 0), axes.at(axes.years, 0)], width=0.7)
    page.text((axes.frame.left + 4, axes.frame.bottom - 4), free_of, size=_SIZE, colour=GREY)
    page.text((axes.frame.right, axes.frame.bottom + 19), "years", size=_SIZE, align="right")


def _steps(axes: _Axes, years: Sequence[float], values: Sequence[float], end: float) -> list[Point]:
    """A step curve from (0, 1) to the end of the follow-up."""
    points, level = [axes.at(0, 1)], 1.0
    for year, value in zip(years, values, strict=True):
        points += [axes.at(year, level), axes.at(year, value)]
        level = value
    return [*points, axes.at(end, level)]


def _draw_curve(page: Page, axes: _Axes, curve: GroupCurve, *, is_own: bool) -> None:
    colour = _COLOURS[curve.group]
    followed = [int(year) for year, count in curve.at_risk.items() if count > 0]
    end = float(max([*followed, *curve.years], default=axes.years))
    known = [
        (year, low, high)
        for year, low, high in zip(curve.years, curve.low, curve.high, strict=True)
        if low is not None and high is not None
    ]
    years = [each[0] for each in known]
    upper = _steps(axes, years, [each[2] for each in known], end)
    lower = _steps(axes, years, [each[1] for each in known], end)
    page.polygon([*upper, *reversed(lower)], fill=colour, opacity=0.14)
    page.line(
        _steps(axes, curve.years, curve.survival, end),
        colour=colour,
        width=2.0 if is_own else 0.9,
        is_dashed=not is_own,
    )


def _draw_patient(page: Page, axes: _Axes, survival: Sequence[HorizonSurvival]) -> None:
    for each in survival:
        x, low = axes.at(each.years, each.low)
        _, high = axes.at(each.years, each.high)
        page.line([(x, low), (x, high)], width=1.0)
        for y in (low, high):
            page.line([(x - 3, y), (x + 3, y)], width=1.0)
        diamond(page, axes.at(each.years, each.probability))


def diamond(page: Page, at: Point, size: float = 3.4) -> None:
    """The mark of the patient."""
    x, y = at
    page.polygon([(x, y - size), (x + size, y), (x, y + size), (x - size, y)], fill=INK)


def _draw_legend(
    page: Page, frame: Frame, curves: Sequence[GroupCurve], own: str, *, has_patient: bool
) -> None:
    """Above the curves, where no curve and no interval can cross it."""
    x, y = frame.left, frame.top
    for curve in curves:
        y += _LEGEND_ROW
        is_own = curve.group == own
        page.line(
            [(x, y - 2.5), (x + 18, y - 2.5)],
            colour=_COLOURS[curve.group],
            width=2.0 if is_own else 0.9,
            is_dashed=not is_own,
        )
        words = f"{curve.group}, training cohort (n = {curve.n}, {curve.events} events)"
        words += ": the group of this patient" if is_own else ""
        page.text((x + 23, y), words, size=_SIZE, is_bold=is_own)
    if has_patient:
        y += _LEGEND_ROW
        diamond(page, (x + 9, y - 2.5))
        page.text((x + 23, y), "this patient, predicted, with 95 % interval", size=_SIZE)


def _draw_numbers(page: Page, axes: _Axes, curves: Sequence[GroupCurve]) -> None:
    y = axes.frame.bottom + 22
    page.text((axes.frame.left - _LEFT, y), "Number at risk", size=_SIZE, colour=GREY)
    for curve in curves:
        y += _TABLE_ROW
        colour = _COLOURS[curve.group]
        page.text((axes.frame.left - _LEFT, y), curve.group, size=_SIZE, colour=colour)
        for year in range(int(axes.years) + 1):
            count = curve.at_risk.get(str(year))
            if count is not None:
                x, _ = axes.at(year, 0)
                page.text((x, y), str(count), size=_SIZE, align="centre")
