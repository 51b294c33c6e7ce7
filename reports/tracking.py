"""Which lesion a result speaks of: Tracking Identifier and Tracking Unique Identifier."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from reports.source import Source
from reports.uids import tracking_uid


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """A lesion's identity over images, reports and studies (PS3.16 TID 4108)."""

    identifier: str
    """For people, e.g. ``Lesion 1``."""
    uid: str
    """For machines."""


def assign_tracking(sources: list[Source], standing: Collection[str] = ()) -> list[Tracking]:
    """One identity for each image: the source's own where it has one, else a derived one.

    Two images of one lesion carry the same Tracking UID, but a report must not repeat it: OHIF
    merges the measurement groups that share one, and shows the first image only. One image keeps
    the source's identity and the others get derived ones, whose identifier still names the lesion.

    Parameters
    ----------
    standing
        SOP Instance UIDs of the images that keep the identity; of several images that may, and
        where none is named, the first one does.
    """
    keepers: dict[str, Source] = {}
    for source in sorted(sources, key=lambda each: each.sop_instance_uid not in standing):
        given = str(source.header.get("TrackingUID") or "")
        if given:
            keepers.setdefault(given, source)
    assigned = []
    for number, source in enumerate(sources, start=1):
        given = str(source.header.get("TrackingUID") or "")
        name = str(source.header.get("TrackingID") or f"Lesion {number}")
        if keepers.get(given) is source:
            assigned.append(Tracking(identifier=name, uid=given))
            continue
        suffix = f" (image {number})" if given else ""
        assigned.append(
            Tracking(identifier=name[: 64 - len(suffix)] + suffix, uid=_derived(source))
        )
    return assigned


def _derived(source: Source) -> str:
    header = source.header
    return tracking_uid(
        str(header.get("IssuerOfPatientID") or ""),
        str(header.get("PatientID") or ""),
        source.study_instance_uid,
        source.sop_instance_uid,
    )
