"""What a check of ``lentigo doctor`` is given and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from gateway.dashboard.model_settings import ModelSettings
from gateway.errors import RecordUnavailable
from gateway.home import RunningInstance, running_instance
from gateway.settings import (
    BrokerSettings,
    DashboardSettings,
    DeliverySettings,
    ListenerSettings,
    RetentionSettings,
    StoreSettings,
    TlsSettings,
)
from gateway.store.engine import MIGRATIONS, Clock, open_engine, reading, utc_now
from gateway.store.schema import revision_of

OK, WARN, FAIL = "OK", "WARN", "FAIL"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check saw."""

    part: str
    verdict: str
    """``OK``, ``WARN`` or ``FAIL``."""
    said: str
    remedy: str = ""
    """What to do; empty where nothing has to be done."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The installation under examination."""

    store: StoreSettings = field(default_factory=StoreSettings)
    listener: ListenerSettings = field(default_factory=ListenerSettings)
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    instance: RunningInstance | None = None
    """The ``lentigo up`` that runs on the home; None where services run by themselves, or none."""
    clock: Clock = utc_now

    @classmethod
    def of(cls, home: Path) -> Subject:
        """Return the installation of a home folder, with what its running instance says."""
        store, instance = StoreSettings(home=home), running_instance(home)
        if instance is not None and instance.database_url and not store.database_url:
            store = StoreSettings(home=home, database_url=instance.database_url)
        return cls(store=store, instance=instance)

    @property
    def broker_url(self) -> str:
        """Where Redis is; the settings' where both name one, since a note keeps no password."""
        if self.instance is None or "url" in self.broker.model_fields_set:
            return self.broker.url
        return self.instance.broker_url or self.broker.url

    @property
    def destination(self) -> str:
        """Where results go."""
        return self.instance.destination if self.instance else self.delivery.destination

    @property
    def has_record(self) -> bool:
        """Whether there may be a record; SQLite would make an empty file at the first look."""
        url = make_url(self.store.record_url)
        return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()

    @contextmanager
    def opened(self) -> Iterator[Engine]:
        """Open the record."""
        engine = open_engine(self.store.record_url)
        try:
            yield engine
        finally:
            engine.dispose()

    @contextmanager
    def current_record(self) -> Iterator[Engine | None]:
        """Open the record; None where its own check has a complaint, which is enough of one."""
        if not self.has_record:
            yield None
            return
        with self.opened() as engine:
            try:
                with reading(engine) as connection:
                    is_current = revision_of(connection) == newest_revision()
            except RecordUnavailable:
                is_current = False
            yield engine if is_current else None


def newest_revision() -> str | None:
    """Return the schema that this version wants."""
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


Check = Callable[[Subject], Iterator[Finding]]


def judged(part: str, problem: str, fine: str, remedy: str, *, bad: str = FAIL) -> Finding:
    """Return ``fine`` as a finding, or the problem with its remedy where there is one."""
    if not problem:
        return Finding(part=part, verdict=OK, said=fine)
    return Finding(part=part, verdict=bad, said=problem, remedy=remedy)
