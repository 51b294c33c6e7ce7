"""Settings of the workers: the model server and the work itself."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


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


class WorkerSettings(BaseSettings):
    """How work is done."""

    model_config = _config("LENTIGO_WORKER_")

    concurrency: int = Field(default=2, ge=1)
    """Work items that one worker process group runs at a time."""
    lease_s: float = Field(default=30.0, gt=0)
    """How long a work item is held without a heartbeat; a dead worker's is free after that."""
    max_backoff_s: float = Field(default=20.0, gt=0)
    """Longest pause between two attempts at routing or analysing."""
    demonstration_models: bool = False
    """Whether models whose evidence is simulated or absent may answer; their reports say so."""
    max_defects: int = Field(default=3, ge=1)
    """Attempts after which an unexpected failure cancels the work item."""

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two extensions of a lease."""
        return self.lease_s / 3
