"""The page of a prognosis: result, covariates, curves and what they hold for."""

from __future__ import annotations

from models.prognosis.patient import HIGH_RISK, Prognosis
from models.prognosis.result import PrognosisResult
from reports.page import GREY, INK, WARNING, Page
from reports.prognosis.curves import draw_curves
from reports.prognosis.forest import draw_forest, forest_height
from reports.prognosis.wording import (
    evidence,
    group_meaning,
    headline,
    interval,
    meaning,
    version,
)
from reports.wording import RESEARCH_USE, demonstration, percent, sentence

TITLE = "AI prognosis"
_CURVES_HEIGHT = 218.0
_NOTE = 7.0
_MOST_REMARKS = 5


def prognosis_page(result: PrognosisResult) -> Page:
    """Lay the page out; it names no patient."""
    page = Page(title=TITLE, footer=f"{RESEARCH_USE} {version(result)}")
    page.gap(6)  # viewers write into the corner
    warning = demonstration(result.model)
    if warning:
        page.paragraph(warning, size=10, colour=WARNING, is_bold=True)
    prognosis = result.prognosis
    is_grave = prognosis is None or prognosis.risk_group == HIGH_RISK
    page.heading(headline(result), size=17, colour=WARNING if is_grave else INK)
    if prognosis is None:
        _put_reasons(page, result)
    else:
        _put_probabilities(page, result, prognosis)
    _put_covariates(page, result)
    if prognosis is not None:
        _put_plots(page, result)
    _put_notes(page, result)
    return page


def _put_reasons(page: Page, result: PrognosisResult) -> None:
    page.paragraph("No probability is given, because:", is_bold=True)
    for each in result.reasons:
        page.paragraph(f"- {sentence(each.text[:1].upper() + each.text[1:])}", indent=6)
    page.gap(4)


def _put_probabilities(page: Page, result: PrognosisResult, prognosis: Prognosis) -> None:
    page.paragraph(meaning(result))
    page.gap(3)
    rows = [("Years", "Probability", "95 % interval")]
    rows += [
        (f"{each.years:g}", percent(each.probability), interval(each))
        for each in prognosis.survival
    ]
    page.table(rows, (1, 1.4, 3), size=10)
    page.gap(2)
    page.paragraph(
        f"Risk score {prognosis.risk_score:.3f}. {group_meaning(result)}", size=_NOTE + 0.5
    )


def _put_covariates(page: Page, result: PrognosisResult) -> None:
    page.heading("Covariates, and where they were taken from")
    rows = [("Covariate", "Value", "Source")]
    rows += [
        (
            line.meaning[:1].upper() + line.meaning[1:],
            line.value or "missing",
            line.source or "nowhere stated",
        )
        for line in result.covariates
    ]
    rows.append(("Stage", result.stage or "not stated", result.stage_source or "nowhere stated"))
    page.table(rows, (2, 1.6, 3))
    for remark in result.remarks[:_MOST_REMARKS]:
        page.paragraph(f"Remark: {_ended(remark)}", size=_NOTE)
    if len(result.remarks) > _MOST_REMARKS:
        page.paragraph("More remarks in the structured report.", size=_NOTE)


def _ended(remark: str) -> str:
    return remark if remark.endswith("?") else sentence(remark)


def _put_plots(page: Page, result: PrognosisResult) -> None:
    page.heading("Course of the training cohort, and this patient's prediction")
    curves = page.frame(_CURVES_HEIGHT)
    if curves is not None:
        draw_curves(page, curves, result)
    page.heading("What drives the score")
    forest = page.frame(forest_height(result))
    if forest is not None:
        draw_forest(page, forest, result)
    page.paragraph(
        f"Squares: the model's ratios. Diamonds: this patient against the reference patient "
        f"({result.reference}).",
        size=_NOTE,
        colour=GREY,
    )


def _put_notes(page: Page, result: PrognosisResult) -> None:
    manifest = result.manifest
    # What matters most first: a page that is full loses its end.
    notes = [
        ("Evidence", evidence(result)),
        ("Whom it speaks of", f"stage {' and '.join(manifest.stages)}. {manifest.scope}"),
    ]
    if result.prognosis is not None:
        notes += [
            ("Competing risks", manifest.competing_risks),
            ("Intervals", manifest.interval_method),
        ]
    page.gap(3)
    for name, text in notes:
        page.paragraph(f"{name}: {sentence(text)}", size=_NOTE)
