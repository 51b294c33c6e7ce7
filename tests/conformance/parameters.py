"""Tables of parameters: every setting with its default and its bounds."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from gateway.settings import ALL_SETTINGS
from tests.conformance.markdown import table
from tests.conformance.services import ROOT
from workers.settings import TritonSettings, WorkerSettings

SETTINGS: tuple[type[BaseSettings], ...] = (*ALL_SETTINGS, TritonSettings, WorkerSettings)


def _default(field: FieldInfo) -> str:
    value: Any = field.default if field.default_factory is None else None
    if field.default_factory is not None:
        return "none" if field.default_factory is dict else "the user's data folder, `lentigo`"
    if value is None or value == "":
        return "none"
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        return f"`{value.relative_to(ROOT)}` of the source tree"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str | Path | SecretStr) else f"{value:.12g}"


def _bounds(field: FieldInfo) -> str:
    signs = {annotated_types.Ge: ">=", annotated_types.Gt: ">", annotated_types.Le: "<=",
             annotated_types.Lt: "<"}  # fmt: skip
    found = []
    for limit in field.metadata:
        sign = signs.get(type(limit))
        if sign:
            bound = getattr(limit, {">=": "ge", ">": "gt", "<=": "le", "<": "lt"}[sign])
            found.append(f"{sign} {bound:.12g}")
        elif isinstance(limit, annotated_types.MaxLen):
            found.append(f"at most {limit.max_length} characters")
        elif getattr(limit, "pattern", None):
            found.append(str(limit.pattern).strip("^$()").replace("|", ", "))
    return "; ".join(found)


def parameters() -> str:
    """Return every environment variable, by concern."""
    parts = []
    for cls in SETTINGS:
        prefix = str(cls.model_config.get("env_prefix", ""))
        rows = [
            (f"`{prefix}{name}`".upper(), field.description or "", _default(field), _bounds(field))
            for name, field in cls.model_fields.items()
        ]
        title = inspect.cleandoc(cls.__doc__ or cls.__name__).splitlines()[0]
        head = ("Parameter", "Meaning", "Default", "Bounds")
        parts.append(f"*{title}*\n\n{table(head, rows)}")
    return "\n\n".join(parts)
