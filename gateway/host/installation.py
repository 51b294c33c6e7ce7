"""What the base installation lacks and a host of everything needs."""

from __future__ import annotations

import importlib.util
import os

from gateway.errors import HostIncomplete

HOST_MODULES = ("cv2", "highdicom", "scipy", "torch", "tritonclient")
"""What ``lentigo[host]`` adds to the base installation, as far as whole commands need it."""
_REMEDY = "install lentigo[host] (`pip install 'lentigo[host]'`)"


def check_installation() -> None:
    """Look for what the workers and an embedded Triton load, before anything is started.

    Raises
    ------
    HostIncomplete
        Something is not installed; the message says what brings it.
    """
    is_triton_elsewhere = bool(os.environ.get("LENTIGO_TRITON_URL"))
    missing = [
        name
        for name in HOST_MODULES
        if importlib.util.find_spec(name) is None and not (name == "torch" and is_triton_elsewhere)
    ]
    if missing:
        raise HostIncomplete(
            f"this installation has no {', '.join(missing)}: {_REMEDY}. The base installation "
            "serves the gateway alone: `python -m gateway listen`, `sweep`, `dashboard`"
        )


def lacking(exc: ModuleNotFoundError) -> str:
    """Say what to install for a module that is not there; empty where none of ours brings it."""
    is_known = (exc.name or "").partition(".")[0] in HOST_MODULES
    return f"this installation has no {exc.name}: {_REMEDY}" if is_known else ""
