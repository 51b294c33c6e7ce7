"""Secrets come from the environment or from files, and show up nowhere else.

Every secret setting ``LENTIGO_X`` may be given as ``LENTIGO_X_FILE``: the path of a file that holds
it, as Docker, Kubernetes and systemd (LoadCredential=) hand them out. A setting is secret when its
type is ``SecretStr``, or when it is declared with ``repr=False`` (a URL that may hold a password).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from gateway.errors import SettingsError

_SUFFIX = "_FILE"
_MAX_BYTES = 64 * 1024

READABLE_SECRETS = "readable-secrets"
"""Name of the weakness that a secret's file may be read by every user."""


def secret_fields(cls: type[BaseSettings]) -> tuple[str, ...]:
    """Return the fields of a settings class that hold secrets.

    One that has a field of its own for its file (``password_file`` beside ``password``) is left
    to that.
    """
    return tuple(
        name
        for name, field in cls.model_fields.items()
        if _is_secret(field) and f"{name}_file" not in cls.model_fields
    )


def _is_secret(field: FieldInfo) -> bool:
    return "SecretStr" in str(field.annotation) or not field.repr


def variable_of(cls: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a field."""
    return f"{cls.model_config.get('env_prefix', '')}{name}".upper()


def read_secret(path: Path, variable: str) -> str:
    """Return what a secret's file holds, without the line break at its end.

    Raises
    ------
    SettingsError
        It cannot be read, is empty, or others on this host may read it. The message names the
        variable and the remedy, never the content.
    """
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read(_MAX_BYTES + 1)
    except OSError as exc:
        raise SettingsError(f"{variable}: {path} cannot be read ({exc.strerror})") from exc
    if mode & stat.S_IROTH and not is_out_of_reach(path) and not _is_accepted():
        raise SettingsError(
            f"{variable}: every user of this host may read {path}; chmod 600 it (or 640), or set "
            f"LENTIGO_SECURITY_ACCEPT={READABLE_SECRETS} where nobody else is, as in a container"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{variable}: {path} is no text") from exc
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or len(content) > _MAX_BYTES or "\0" in text or "\n" in text:
        raise SettingsError(f"{variable}: {path} must hold one line with the secret")
    return text


def _is_accepted() -> bool:
    # Asked for here, where settings are still being read.
    accepted = os.environ.get("LENTIGO_SECURITY_ACCEPT", "")
    return READABLE_SECRETS in {name.strip() for name in accepted.split(",")}


def is_out_of_reach(path: Path) -> bool:
    """Whether a folder above keeps other users from a file, whatever its own mode says.

    Docker mounts secrets with mode 0444; what counts is who gets there.
    """
    return any(not folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


class SecretFileSource(PydanticBaseSettingsSource):
    """Reads ``LENTIGO_X_FILE`` for the secret fields of a settings class."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return (value, name, False) of one field; None where no file is named.

        Raises
        ------
        SettingsError
            Both the variable and its file are given, or the file cannot be used.
        """
        variable = variable_of(self.settings_cls, field_name)
        given = os.environ.get(variable + _SUFFIX, "")
        if not given:
            return None, field_name, False
        if os.environ.get(variable):
            raise SettingsError(f"{variable} and {variable}{_SUFFIX} are both given; keep one")
        return read_secret(Path(given), variable + _SUFFIX), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that are named by files."""
        found = {}
        for name in secret_fields(self.settings_cls):
            value, _, _ = self.get_field_value(self.settings_cls.model_fields[name], name)
            if value is not None:
                found[name] = value
        return found


class SecretSettings(BaseSettings):
    """Settings whose secrets may stand in files."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments first, then the environment, then the files that it names."""
        return init_settings, env_settings, SecretFileSource(settings_cls)


def secret_variables(classes: tuple[type[BaseSettings], ...]) -> frozenset[str]:
    """Return every variable that may hold a secret; those of files, which hold a path, are none."""
    return frozenset(
        variable_of(cls, name)
        for cls in classes
        for name, field in cls.model_fields.items()
        if _is_secret(field)
    )


def file_variables(classes: tuple[type[BaseSettings], ...]) -> frozenset[str]:
    """Return every ``LENTIGO_X_FILE``."""
    return frozenset(
        variable_of(cls, name) + _SUFFIX for cls in classes for name in secret_fields(cls)
    )
