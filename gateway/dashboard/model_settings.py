"""Settings of the page of models."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ModelSettings(BaseSettings):
    """Where the admin page finds the models."""

    model_config = SettingsConfigDict(
        env_prefix="LENTIGO_MODELS_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    repository: Path = Path(__file__).resolve().parents[2] / "triton_repo"
    """Triton's model repository."""
    triton_http_url: str = Field(default="", pattern="^(https?://.+)?$")
    """HTTP endpoint of Triton, e.g. ``http://triton:8000``; that of ``lentigo up`` when empty."""
