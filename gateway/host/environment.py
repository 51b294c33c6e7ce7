"""What the services of one host are told by their environment, and what they are not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic_settings import BaseSettings

from gateway.secret_files import secret_fields, secret_variables
from gateway.settings import ALL_SETTINGS


def as_environment(*given: BaseSettings) -> dict[str, str]:
    """Return the settings as variables, so that every service reads the same values."""
    found = {}
    for settings in given:
        prefix = settings.model_config.get("env_prefix", "")
        hidden = secret_fields(type(settings))
        for name, value in settings.model_dump().items():
            # Secrets are where every service finds them itself: in our environment or in files.
            if name not in hidden and value is not None:
                found[f"{prefix}{name}".upper()] = str(value)
    return found


def unless_in_file(variable: str, value: str) -> dict[str, str]:
    """Return a variable for the services, unless they read it from the file that we read."""
    return {variable: value} if value and not os.environ.get(f"{variable}_FILE") else {}


def without_password(url: str) -> str:
    """Return a URL as it may be noted down; one without a password as it is.

    Examples
    --------
    >>> without_password("postgresql+psycopg://lentigo:secret@db/lentigo")
    'postgresql+psycopg://lentigo@db/lentigo'
    """
    parts = urlsplit(url)
    if not parts.password:
        return url
    user, host = parts.username or "", parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}@{host}" if user else host).geturl()


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a program of others may be told."""
    hidden = secret_variables(ALL_SETTINGS)
    return {name: value for name, value in environment.items() if name not in hidden}
