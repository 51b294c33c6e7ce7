"""Which of a PACS' answers are worth fetching: photographs, not ours, not known, newest first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import Dataset

from workers.adapters.priors import Wanted
from workers.photographs import DERMOSCOPIC_PHOTOGRAPHY, SECONDARY_CAPTURE, VL_PHOTOGRAPHIC

# PS3.3 C.7.3.1.1.1: dermoscopy, external camera, other. Results, reports and slides are not read.
_MODALITIES = ("", "DMS", "XC", "OT", "GM")
_CLASSES = ("", DERMOSCOPIC_PHOTOGRAPHY, VL_PHOTOGRAPHIC, SECONDARY_CAPTURE)
_SKIN = ("DMS", "XC")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One instance that a PACS lists."""

    study_date: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    """Empty where the PACS does not say."""
    modality: str
    tracking_uid: str
    """Empty where the image has none or the PACS does not say."""

    @classmethod
    def read(cls, study: Dataset, series: Dataset, image: Dataset) -> Candidate:
        """Read the answers of the three levels."""
        return cls(
            study_date=str(study.get("StudyDate") or ""),
            study_instance_uid=str(study.get("StudyInstanceUID") or ""),
            series_instance_uid=str(series.get("SeriesInstanceUID") or ""),
            sop_instance_uid=str(image.get("SOPInstanceUID") or ""),
            sop_class_uid=str(image.get("SOPClassUID") or ""),
            modality=str(series.get("Modality") or ""),
            tracking_uid=str(image.get("TrackingUID") or ""),
        )


def choose_studies(answers: Iterable[Dataset], wanted: Wanted, limit: int) -> list[Dataset]:
    """Return the newest studies of the very patient, without the study itself.

    A PACS may match patient identifiers loosely, or return more than was asked for.
    """
    fitting = [
        study
        for study in answers
        if str(study.get("StudyInstanceUID") or "") not in ("", wanted.study_instance_uid)
        and str(study.get("PatientID") or "").strip() == wanted.patient_id.strip()
        and not _is_later(str(study.get("StudyDate") or ""), wanted.before)
    ]
    fitting.sort(
        key=lambda study: (
            str(study.get("StudyDate") or ""),
            str(study.get("StudyTime") or ""),
            str(study.StudyInstanceUID),
        ),
        reverse=True,
    )
    return fitting[:limit]


def _is_later(date: str, before: str) -> bool:
    return bool(date) and bool(before) and date > before


def is_worth_a_look(modality: str) -> bool:
    """Whether a series of this modality may hold photographs of the skin."""
    return modality.strip().upper() in _MODALITIES


def choose(
    candidates: Iterable[Candidate], wanted: Wanted, limit: int
) -> dict[tuple[str, str], list[str]]:
    """Return what to fetch, by (study, series), at most ``limit`` instances.

    Images that are known to show the wanted lesions come first, then the newest.
    """
    fitting = [each for each in candidates if _fits(each, wanted)]
    fitting.sort(key=lambda each: each.study_date, reverse=True)
    fitting.sort(key=lambda each: each.tracking_uid not in wanted.tracking_uids)
    chosen: dict[tuple[str, str], list[str]] = {}
    for each in fitting[:limit]:
        place = (each.study_instance_uid, each.series_instance_uid)
        chosen.setdefault(place, []).append(each.sop_instance_uid)
    return chosen


def _fits(candidate: Candidate, wanted: Wanted) -> bool:
    if not candidate.sop_instance_uid or candidate.sop_instance_uid in wanted.known:
        return False
    if candidate.sop_class_uid not in _CLASSES:
        return False
    if candidate.sop_class_uid == SECONDARY_CAPTURE and candidate.modality not in _SKIN:
        return False
    if candidate.tracking_uid:
        return not wanted.only_tracked or candidate.tracking_uid in wanted.tracking_uids
    return True
