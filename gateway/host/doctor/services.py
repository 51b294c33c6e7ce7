"""The services: Redis, Triton and its models, listener, page, sweeper, workers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
import requests
from kombu.utils.url import parse_url

from gateway.dashboard.model_desk import SHADOW_SUFFIX, manifest_of
from gateway.delivery.echo import echo
from gateway.delivery.routes import Destination
from gateway.host.doctor.finding import FAIL, WARN, Finding, Subject, judged
from gateway.host.health import alive_mark, listener_problem, mark_problem, page_problem
from gateway.host.services import answers, http_ok

_ANSWER_S = 5.0
_SEE_LOG = "see its log in the home's logs folder; `lentigo up` restarts it"
_MANY_MESSAGES = 10_000
_CLOCK_WARN_S = 2.0


def check_running(subject: Subject) -> Iterator[Finding]:
    """The listener and the page answer; sweeper and workers have left their mark."""
    instance = subject.instance
    if instance is None:
        yield from _single_services(subject)
        return
    page = (
        http_ok(f"http://127.0.0.1:{instance.http_port}/healthz")
        if subject.dashboard.tls_certificate is None
        else answers("127.0.0.1", instance.http_port)  # its certificate is for a name
    )
    yield judged("admin page", "" if page else "does not answer", "answers", _SEE_LOG)
    if subject.listener.tls_certificate is None or subject.listener.tls_port is not None:
        listener = Destination(
            ae_title=instance.ae_title, host="127.0.0.1", port=instance.dicom_port
        )
        problem = echo(listener, calling_ae_title="DOCTOR")
        yield judged("listener", problem, "answers C-ECHO", _SEE_LOG)
    else:
        there = answers("127.0.0.1", instance.dicom_port)
        yield judged("listener", "" if there else "does not answer", "answers (TLS)", _SEE_LOG)
    for service in ("sweeper", "workers-quick", "workers-long"):
        yield _mark(subject, service)


def _single_services(subject: Subject) -> Iterator[Finding]:
    """Look for services of this host that run by themselves (systemd, containers)."""
    names = ("sweeper", "workers-all", "workers-quick", "workers-long")
    marked = [name for name in names if alive_mark(subject.store.mark_folder, name).exists()]
    listener, page = listener_problem(subject.listener), page_problem(subject.dashboard)
    if listener and page and not marked:
        yield Finding(
            part="services",
            verdict=WARN,
            said=f"nothing runs on {subject.store.home}",
            remedy="start it with `lentigo up`, or its units (docs/deployment.md)",
        )
        return
    elsewhere = "start it, unless it runs on another host"
    yield judged("listener", listener, "answers", elsewhere, bad=WARN)
    yield judged("admin page", page, "answers", elsewhere, bad=WARN)
    for name in marked:
        yield _mark(subject, name)


def _mark(subject: Subject, service: str) -> Finding:
    problem = mark_problem(alive_mark(subject.store.mark_folder, service), service)
    return judged(service, problem, "turns", _SEE_LOG)


# -- Redis ------------------------------------------------------------------------------------


def check_broker(subject: Subject) -> Iterator[Finding]:
    """Redis answers, its clock is ours, and its queues are not endless."""
    try:
        with _client(subject.broker_url) as client:
            client.ping()
            seconds, micros = client.time()
            off_s = subject.clock().timestamp() - (seconds + micros / 1e6)
            waiting = sum(_lengths(client))
    except (redis.RedisError, OSError, ValueError) as exc:
        is_idle = subject.instance is None and "url" not in subject.broker.model_fields_set
        yield Finding(
            part="Redis",
            verdict=WARN if is_idle else FAIL,
            said=f"does not answer ({type(exc).__name__})",
            remedy="start it, check LENTIGO_BROKER_URL; the record keeps the work meanwhile",
        )
        return
    yield judged(
        "Redis",
        f"{waiting} hints wait in its queues" if waiting > _MANY_MESSAGES else "",
        f"answers; {waiting} hints wait in its queues",
        "are the workers up? hints may be thrown away at any time (FLUSHDB): the sweeper renews "
        "them",
        bad=WARN,
    )
    if abs(off_s) > _CLOCK_WARN_S:
        yield Finding(
            part="clock",
            verdict=WARN,
            said=f"{abs(off_s):.1f} s {'ahead of' if off_s > 0 else 'behind'} that of Redis",
            remedy="let both hosts follow one time server (chrony, timesyncd)",
        )


def _client(url: str) -> redis.Redis:
    if "socket" in url.partition("://")[0]:
        path = f"/{parse_url(url)['virtual_host'].lstrip('/')}"
        return redis.Redis(unix_socket_path=path, socket_timeout=_ANSWER_S)
    return redis.Redis.from_url(url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S)


def _lengths(client: redis.Redis) -> Iterator[int]:
    for key in client.scan_iter(match="lentigo.*", count=1000):
        if client.type(key) == b"list":
            found: Any = client.llen(key)
            yield int(found)


# -- Triton -----------------------------------------------------------------------------------


def check_triton(subject: Subject) -> Iterator[Finding]:
    """Triton is ready, and each model answers with the weights that the repository names."""
    url = subject.models.triton_http_url or (
        subject.instance.triton_http_url if subject.instance else ""
    )
    if not url:
        yield from _triton_port()
        return
    try:
        with requests.Session() as client:
            client.trust_env = False  # no proxy stands between a hospital and its model server
            ready = client.get(f"{url}/v2/health/ready", timeout=_ANSWER_S)
            yield judged(
                "Triton",
                "" if ready.ok else f"is not ready ({ready.status_code})",
                "ready",
                "see triton.log in the home's logs folder",
            )
            answer = client.post(f"{url}/v2/repository/index", json={}, timeout=_ANSWER_S)
            known = {each.get("name", ""): each for each in answer.json()}
            for folder in _folders(subject.models.repository):
                yield _model(client, url, folder, known.get(folder.name))
    except (requests.RequestException, ValueError) as exc:
        yield Finding(
            part="Triton",
            verdict=FAIL,
            said=f"does not answer ({type(exc).__name__})",
            remedy="see triton.log in the home's logs folder; work waits for it",
        )


def _triton_port() -> Iterator[Finding]:
    host, _, port = os.environ.get("LENTIGO_TRITON_URL", "").rpartition(":")
    if not host or not port.isdigit():
        return  # nothing runs, which is said already
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            pass
    except OSError as exc:
        yield Finding(
            part="Triton",
            verdict=FAIL,
            said=f"does not answer ({exc.strerror or type(exc).__name__})",
            remedy="start it, check LENTIGO_TRITON_URL; work waits for it",
        )
        return
    yield Finding(
        part="Triton",
        verdict=WARN,
        said="takes connections; its models cannot be asked",
        remedy="set LENTIGO_MODELS_TRITON_HTTP_URL, e.g. http://triton:8000",
    )


def _folders(repository: Path) -> list[Path]:
    if not repository.is_dir():
        return []
    return sorted(
        each
        for each in repository.iterdir()
        if (each / "manifest.json").is_file() and not each.name.endswith(SHADOW_SUFFIX)
    )


def _model(
    client: requests.Session, url: str, folder: Path, known: dict[str, Any] | None
) -> Finding:
    part = f"model {folder.name}"
    found = known or {}
    reason = str(found.get("reason", ""))
    if found.get("state") != "READY" and reason in ("", "unloaded"):
        return Finding(
            part=part,
            verdict=WARN,
            said="not loaded: its work waits",
            remedy="name it in `lentigo up --models`, or have Triton load it",
        )
    if found.get("state") != "READY":
        return Finding(
            part=part,
            verdict=FAIL,
            said=f"does not load: {reason[:200]}",
            remedy="see triton.log; page Models, roll back",
        )
    answer = client.get(f"{url}/v2/models/{folder.name}/config", timeout=_ANSWER_S)
    parameters = answer.json().get("parameters", {}) if answer.ok else {}
    served = str(parameters.get("digest", {}).get("string_value", ""))
    manifest = manifest_of(folder)
    wanted, version = str(manifest.get("digest", "")), manifest.get("version", "?")
    return judged(
        part,
        ""
        if served == wanted
        else f"answers with weights {served[:12] or 'unknown'}, the "
        f"repository names {wanted[:12] or 'none'} (version {version})",
        f"ready, version {version}, weights {served[:12]} as the manifest says",
        "have Triton load the model again: page Models, or restart it",
    )
