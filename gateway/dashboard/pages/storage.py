"""The disk: how full, how long it lasts, what a purge would remove."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.site import Services, Use, page
from gateway.retention.purge import Purge
from gateway.retention.watermarks import bytes_per_day, forecast_at, reserve_bytes
from gateway.settings import ListenerSettings, RetentionSettings
from gateway.store.retention.legal_holds import LegalHolds
from gateway.store.retention.purging import Candidate

MAX_LISTED = 200
_KEEP_S = 300.0
"""How long the pace and the purge of a large record stand; both change by the hour."""

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


@dataclass(frozen=True, kw_only=True)
class _Past:
    """What costs a look at the whole record."""

    bytes_per_day: float
    purge: dict[str, Any]


def storage_of(use: Services) -> dict[str, Any]:
    """Return what there is to say of the disk; changes nothing.

    While the pace and the purge of a large record are counted for the first time, ``counted_at``
    and what depends on it are None.
    """
    listener, retention = ListenerSettings(), RetentionSettings()
    kept = use.shelf.look("storage", lambda: _past(use, retention), keep_s=_KEEP_S)
    past = kept.value if kept is not None else None
    pace = past.bytes_per_day if past is not None else 0.0
    found = forecast_at(pace, use.home, listener, retention)
    return {
        "disk": {
            "total_bytes": found.disk.total_bytes,
            "free_bytes": found.disk.free_bytes,
            "used_percent": round(found.disk.used_percent, 2),
            "reserve_bytes": reserve_bytes(listener, retention, use.home),
            "low_watermark_percent": retention.low_watermark_percent,
            "high_watermark_percent": retention.high_watermark_percent,
            "bytes_per_day": round(pace) if past is not None else None,
            "days_until_refusal": found.days_until_refusal,
            "is_above_low": found.is_above_low,
            "is_refusing": found.is_refusing,
        },
        "days": {
            name.removesuffix("_days"): getattr(retention, name)
            for name in RetentionSettings.model_fields
            if name.endswith("_days")
        },
        "counted_at": kept.read_at if kept is not None else None,
        "is_pending": kept is None or not kept.is_fresh,
        "purge": past.purge if past is not None else None,
        "holds": [asdict(each) for each in LegalHolds(use.engine).active()],
    }


def _past(use: Services, retention: RetentionSettings) -> _Past:
    return _Past(
        bytes_per_day=bytes_per_day(use.engine),
        purge=_purge(Purge(use.engine, use.store, retention).plan()),
    )


def _purge(candidates: list[Candidate]) -> dict[str, Any]:
    """Return what a purge would remove, in sums and the first of it."""
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for each in candidates:
        files[each.kind] += each.files
        sizes[each.kind] += each.size_bytes
    return {
        "kinds": [
            {"kind": kind, "files": files[kind], "size_bytes": sizes[kind]} for kind in files
        ],
        "files": sum(files.values()),
        "size_bytes": sum(sizes.values()),
        "candidates": [
            {
                "kind": each.kind,
                "study": each.study_id,
                "files": each.files,
                "size_bytes": each.size_bytes,
            }
            for each in candidates[:MAX_LISTED]
        ],
        "is_cut": len(candidates) > MAX_LISTED,
    }


@router.get("/storage")
def show_storage(request: Request, use: Use) -> HTMLResponse:
    """Show the disk, its forecast, and what would be purged."""
    return page(request, "storage.html", storage_of(use))
