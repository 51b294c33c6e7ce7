"""Settings of the workers: the model server and the work itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.analysis import Analysis, Limits


def _config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix, frozen=True, extra="forbid", use_attribute_docstrings=True
    )


class TritonSettings(BaseSettings):
    """The model server."""

    model_config = _config("LENTIGO_TRITON_")

    url: str = "127.0.0.1:8001"
    """``HOST:PORT`` of Triton's gRPC endpoint."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for one answer."""

    @field_validator("url")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        value = value.removeprefix("grpc://")
        host, _, port = value.rpartition(":")
        if not host or "/" in value or not port.isdigit():
            raise ValueError("LENTIGO_TRITON_URL must be HOST:PORT of Triton's gRPC endpoint")
        return value


class LimitSettings(BaseModel):
    """Limits of one analysis that the site sets; what is left out stays as the analysis says."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    time_s: float | None = Field(default=None, gt=0)
    """Seconds after which an attempt is ended."""
    memory_bytes: int | None = Field(default=None, gt=0)
    """Private memory that an attempt may add."""
    concurrency: int | None = Field(default=None, ge=1)
    """Work items that run at a time, over all workers."""
    priority: int | None = Field(default=None, ge=0, le=9)
    """Queues of higher numbers are served first."""


class WorkerSettings(BaseSettings):
    """How work is done."""

    model_config = _config("LENTIGO_WORKER_")

    lane: Literal["all", "quick", "long"] = "all"
    """Which queues this worker group consumes: ``long`` those of analyses of minutes, ``quick``
    everything else, so that a slide never keeps a photograph waiting."""
    concurrency: int = Field(default=2, ge=1)
    """Work items that one worker group runs at a time."""
    long_concurrency: int = Field(default=1, ge=1)
    """The same for a group of the lane ``long``."""
    lease_s: float = Field(default=30.0, gt=0)
    """How long a work item is held without a heartbeat; a dead worker's is free after that."""
    max_backoff_s: float = Field(default=20.0, gt=0)
    """Longest pause between two attempts at routing or analysing."""
    demonstration_models: bool = False
    """Whether models whose evidence is simulated or absent may answer; their reports say so."""
    max_defects: int = Field(default=3, ge=1)
    """Unexpected failures of one step after which the work item is canceled; attempts that an
    outage has cost do not count."""
    limits: dict[str, LimitSettings] = Field(default_factory=dict)
    """Analysis -> limits that differ from its own, as JSON."""

    def limits_of(self, analysis: Analysis) -> Limits:
        """Return what an analysis may take here."""
        own = self.limits.get(analysis.name)
        changes = {} if own is None else own.model_dump(exclude_none=True)
        return replace(analysis.limits, **changes)

    def analyses_of_lane(self, analyses: Iterable[Analysis]) -> tuple[str, ...]:
        """Return the names of the analyses that this worker group runs."""
        is_long = self.lane == "long"
        return tuple(
            each.name for each in analyses if self.lane == "all" or each.limits.is_long == is_long
        )

    @property
    def processes(self) -> int:
        """Processes of this worker group."""
        return self.long_concurrency if self.lane == "long" else self.concurrency

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two extensions of a lease."""
        return self.lease_s / 3
