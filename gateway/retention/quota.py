"""Shares of the disk: a source that has used up its own is answered A700, the others are served."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from gateway.errors import GatewayError, QuotaExceeded, SettingsError
from gateway.listener.acceptance import Peer
from gateway.listener.ports import AssociationInfo
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Instance

log = logging.getLogger(__name__)

_REFRESH_S = 30.0
_ALARM_EVERY_S = 600.0
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What the sources that match may use together."""

    text: str
    """As it was written, without the size."""
    peer: Peer
    limit_bytes: int

    @classmethod
    def parse(cls, text: str) -> Quota:
        """Read ``AET@HOST=SIZE``; SIZE in bytes, or with kB, MB, GB or TB (powers of 1000).

        Raises
        ------
        SettingsError
            It cannot be read.

        Examples
        --------
        >>> Quota.parse("CAMERA@192.0.2.0/24=1.5GB").limit_bytes
        1500000000
        """
        source, _, size = text.rpartition("=")
        found = _SIZE.fullmatch(size.strip())
        if not source.strip() or found is None:
            raise SettingsError(
                f"quota {text!r}: written AET@NETWORK=SIZE, e.g. CAMERA@192.0.2.0/24=50GB"
            )
        limit = int(float(found[1]) * _UNITS[found[2].lower()])
        return cls(text=source.strip(), peer=Peer.parse(source), limit_bytes=limit)

    def covers(self, ae_title: str, address: str) -> bool:
        """Return whether a source counts; host names are not asked for, networks are."""
        return self.peer.admits(ae_title, address, lambda _: ())


def parse_quotas(text: str) -> tuple[Quota, ...]:
    """Read a comma-separated list.

    Raises
    ------
    SettingsError
        An entry cannot be read, or names a host where an address is needed.
    """
    quotas = tuple(Quota.parse(entry) for entry in text.split(",") if entry.strip())
    for quota in quotas:
        if quota.peer.network is None:
            raise SettingsError(f"quota {quota.text!r}: name an address or a network, no host")
    return quotas


class QuotaDesk:
    """Says whether a source may still store something.

    What the record holds is asked for every half a minute; what came since is added up here.
    """

    def __init__(self, engine: Engine, quotas: Sequence[Quota], clock: Clock = utc_now) -> None:
        self._engine = engine
        self._quotas = tuple(quotas)
        self._clock = clock
        self._lock = threading.Lock()
        self._used = [0] * len(self._quotas)
        self._asked_at = float("-inf")
        self._alarmed_at: dict[str, float] = {}

    def admit(self, association: AssociationInfo, size_bytes: int) -> None:
        """Count an instance that is about to be kept.

        Raises
        ------
        QuotaExceeded
            The source has used up its share; nothing was counted.
        RecordUnavailable
            The database does not answer.
        """
        if not self._quotas:
            return
        ae_title, address = association.calling_ae_title, association.peer_address
        exceeded = ""
        with self._lock:
            self._refresh()
            mine = [
                index for index, quota in enumerate(self._quotas) if quota.covers(ae_title, address)
            ]
            for index in mine:
                if self._used[index] + size_bytes > self._quotas[index].limit_bytes:
                    exceeded = self._quotas[index].text
            if not exceeded:
                for index in mine:
                    self._used[index] += size_bytes
        if exceeded:
            self._alarm(exceeded, association)
            raise QuotaExceeded("the disk quota of this source is used up")

    def _refresh(self) -> None:
        if time.monotonic() - self._asked_at < _REFRESH_S:
            return
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    Instance.calling_ae_title,
                    Instance.peer_address,
                    func.sum(Instance.size_bytes),
                )
                .where(Instance.purged_at.is_(None))
                .group_by(Instance.calling_ae_title, Instance.peer_address)
            ).all()
        self._used = [
            sum(int(row[2]) for row in rows if quota.covers(row[0], row[1]))
            for quota in self._quotas
        ]
        self._asked_at = time.monotonic()

    def _alarm(self, quota: str, association: AssociationInfo) -> None:
        """Leave an alarm in the record, at most one in ten minutes for each quota."""
        now = time.monotonic()
        with self._lock:
            if now - self._alarmed_at.get(quota, float("-inf")) < _ALARM_EVERY_S:
                return
            self._alarmed_at[quota] = now
        log.error("a disk quota is used up", extra={"action": "quota.exceeded", "quota": quota})
        try:
            with writing(self._engine) as connection:
                states.note(
                    connection,
                    self._clock(),
                    "quota.exceeded",
                    level="alarm",
                    quota=quota,
                    calling_ae_title=association.calling_ae_title,
                    peer_address=association.peer_address,
                )
        except GatewayError as exc:  # the refusal stands; the log line above has said why
            log.warning(
                "an alarm could not be recorded: %s", exc, extra={"action": "alarm.unrecorded"}
            )
