"""What the doors of an installation share: its spool with the watermark, and who has a quota."""

from __future__ import annotations

from sqlalchemy import Engine

from gateway.retention.quota import QuotaDesk, parse_quotas
from gateway.retention.watermarks import reserve_bytes
from gateway.settings import ListenerSettings, RetentionSettings, StoreSettings
from gateway.spool import Spool


def open_spool(
    store: StoreSettings,
    listener: ListenerSettings | None = None,
    retention: RetentionSettings | None = None,
) -> Spool:
    """Return the spool of an installation, which refuses above the high watermark."""
    reserve = reserve_bytes(
        listener or ListenerSettings(), retention or RetentionSettings(), store.home
    )
    return Spool(store.spool_folder, reserve_bytes=reserve)


def quota_desk(engine: Engine, retention: RetentionSettings | None = None) -> QuotaDesk:
    """Return what says whether a source may still store something.

    Raises
    ------
    SettingsError
        ``LENTIGO_RETENTION_QUOTA`` cannot be read.
    """
    return QuotaDesk(engine, parse_quotas((retention or RetentionSettings()).quota))
