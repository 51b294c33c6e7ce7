"""The disk: how full, how long it lasts, what a purge would remove."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.site import Services, Use, page
from gateway.retention.purge import Purge
from gateway.retention.watermarks import forecast, reserve_bytes
from gateway.settings import ListenerSettings, RetentionSettings
from gateway.store.legal_holds import LegalHolds

MAX_LISTED = 200

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


def storage_of(use: Services) -> dict[str, Any]:
    """Return what there is to say of the disk; changes nothing."""
    listener, retention = ListenerSettings(), RetentionSettings()
    found = forecast(use.engine, use.home, listener, retention)
    candidates = Purge(use.engine, use.store, retention).plan()
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for each in candidates:
        files[each.kind] += each.files
        sizes[each.kind] += each.size_bytes
    return {
        "disk": {
            "total_bytes": found.disk.total_bytes,
            "free_bytes": found.disk.free_bytes,
            "used_percent": round(found.disk.used_percent, 2),
            "reserve_bytes": reserve_bytes(listener, retention, use.home),
            "low_watermark_percent": retention.low_watermark_percent,
            "high_watermark_percent": retention.high_watermark_percent,
            "bytes_per_day": round(found.bytes_per_day),
            "days_until_refusal": found.days_until_refusal,
            "is_above_low": found.is_above_low,
            "is_refusing": found.is_refusing,
        },
        "days": {
            name.removesuffix("_days"): getattr(retention, name)
            for name in RetentionSettings.model_fields
            if name.endswith("_days")
        },
        "purge": {
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
        },
        "holds": [asdict(each) for each in LegalHolds(use.engine).active()],
    }


@router.get("/storage")
def show_storage(request: Request, use: Use) -> HTMLResponse:
    """Show the disk, its forecast, and what would be purged."""
    return page(request, "storage.html", storage_of(use))
