"""The patient as a report of text and numbers: totals, counts by body site, remarks.

It has no region, and OHIF turns black on a group without one; under another title than that of
the viewer's report it prints the document as text instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

from models.tbp.lesions import Reason
from models.tbp.patient import LesionScreening
from models.tbp.result import TbpResult
from reports import coding
from reports.coding import Concept
from reports.content_items import Relationship, code, container, number, text, uid_reference
from reports.context import ReportContext
from reports.document import algorithm, measurement_document
from reports.source import Source
from reports.tbp import codes
from reports.tbp.lesions import evaluations, finding_site, measurements
from reports.tbp.wording import comments, details, headline, identity, limits
from reports.uids import tracking_uid
from reports.wording import demonstration, sentence

ROLE = "sr-patient"


def patient_report(
    result: TbpResult,
    without_tile: Sequence[LesionScreening],
    *,
    sources: Sequence[Source],
    summary: Concept,
    context: ReportContext,
) -> Dataset:
    """The summary of the patient.

    Parameters
    ----------
    without_tile
        Recommended lesions that the viewer's report cannot show.
    sources
        Every tile.
    """
    groups = _Groups(result, sources[0])
    content = [
        _patient(groups, result),
        *[
            groups.group(
                f"Nevi, {site}",
                f"nevi/{site}",
                coding.DIAGNOSES["NV"],
                [number(codes.NEVUS_COUNT, nevi, codes.COUNT_UNIT)],
                site=site,
            )
            for site, nevi in result.screening.nevus_count.items()
        ],
        *_photodamage(groups, result),
        *[_without_tile(groups, lesion, result) for lesion in without_tile],
    ]
    return measurement_document(
        content,
        sources=sources,
        summary=summary,
        model=result.model,
        context=context,
        role=ROLE,
        number=2,
        content="patient summary",
        title=coding.ONCOLOGY_MEASUREMENT_REPORT,
    )


class _Groups:
    """Makes measurement groups (TID 1501) that speak of the patient, not of an image."""

    def __init__(self, result: TbpResult, source: Source) -> None:
        self._algorithm = algorithm(result.model)
        self._source = source

    def group(
        self,
        name: str,
        part: str,
        finding: Concept | None,
        items: list[Dataset],
        *,
        site: str = "",
    ) -> Dataset:
        """One group; ``part`` tells it from the other groups of the patient."""
        header = self._source.header
        uid = tracking_uid(
            str(header.get("IssuerOfPatientID") or ""),
            str(header.get("PatientID") or ""),
            self._source.study_instance_uid,
            f"tbp/{part}",
        )
        link = Relationship.OBS_CONTEXT
        children = [
            text(coding.TRACKING_IDENTIFIER, name, link),
            uid_reference(coding.TRACKING_UNIQUE_IDENTIFIER, uid, link),
            *([] if finding is None else [code(coding.FINDING, finding)]),
            *finding_site(site),
            *items,
            *self._algorithm,  # last: a viewer prints the items in this order
        ]
        return container(coding.MEASUREMENT_GROUP, children, template="1501")


def _patient(groups: _Groups, result: TbpResult) -> Dataset:
    screening = result.screening
    listed = len(screening.lesions)
    by_module: list[tuple[Concept, int]] = [
        (codes.FLAGGED_BY[name], screening.flagged_by.get(name, 0)) for name in _MODULES
    ]
    totals = [
        (codes.LESIONS, listed + result.not_assessed),
        (codes.ASSESSED_LESIONS, screening.assessed),
        (codes.FLAGGED_LESIONS, screening.flagged),
        *by_module,
        (codes.EXCLUDED_LESIONS, listed - screening.assessed),
        *[(codes.EXCLUDED_BY[name], times) for name, times in screening.excluded_by.items()],
        (codes.NOT_ASSESSED_LESIONS, result.not_assessed),
        (codes.NEVUS_COUNT, sum(screening.nevus_count.values())),
    ]
    warning = demonstration(result.model)
    items = [
        *([text(coding.COMMENT, warning)] if warning else []),
        text(coding.COMMENT, f"AI: {sentence(headline(result))}"),
        *[number(name, times, codes.COUNT_UNIT) for name, times in totals],
        *[code(codes.REMARK, codes.REMARK_CODES[r]) for r in _remark_codes(result)],
        *[text(coding.COMMENT, sentence(_capitalised(r.text))) for r in result.remarks],
        text(coding.ASSESSMENT_DETAILS, f"{limits(result)} {identity(result)}"),
    ]
    return groups.group("Patient", "patient", None, items)


_MODULES: tuple[Reason, ...] = ("risk", "ugly duckling", "measurements")


def _remark_codes(result: TbpResult) -> list[str]:
    return list(dict.fromkeys(remark.code for remark in result.remarks))


def _capitalised(line: str) -> str:
    return line[:1].upper() + line[1:]


def _photodamage(groups: _Groups, result: TbpResult) -> list[Dataset]:
    graded = result.screening.photodamage
    if graded.grade is None:
        return []
    items = [
        code(codes.PHOTODAMAGE_GRADE, codes.GRADES[graded.grade]),
        *[
            number(codes.GRADE_PROBABILITIES[grade], 100 * prob, coding.PERCENT)
            for grade, prob in zip(codes.GRADES, graded.probabilities, strict=True)
        ],
        number(codes.SKIN_TILES, graded.tiles, codes.COUNT_UNIT),
    ]
    name = "Photodamage"
    return [groups.group(name, "photodamage", codes.SOLAR_DEGENERATION, items)]


def _without_tile(groups: _Groups, lesion: LesionScreening, result: TbpResult) -> Dataset:
    """A recommended lesion of which only measurements came."""
    items = [
        *[number(each.name, each.value, each.unit) for each in measurements(lesion, result)],
        *[code(each.name, each.value) for each in evaluations(lesion)],
        *[text(coding.COMMENT, line) for line in comments(lesion, result)],
        text(coding.ASSESSMENT_DETAILS, details(lesion, result)),
    ]
    name = coding.shorten(lesion.lesion_id, 64)
    part = f"lesion/{lesion.lesion_id}"
    return groups.group(name, part, coding.LESION, items, site=lesion.location)
