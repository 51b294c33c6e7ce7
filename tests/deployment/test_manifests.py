"""Compose files and Kubernetes manifests: against their schemas, and against what Lentigo reads."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from sqlalchemy import Engine, text

from gateway.__main__ import SERVICES
from gateway.host import health
from gateway.settings import known_variables, reject_unknown_environment
from gateway.store.engine import migrate, open_engine, reading, utc_now
from gateway.store.work.hints import HintBoard
from tests.deployment.images import DOCKER, ROOT, read
from tests.records import Record, TestClock
from workers.bootstrap import offered_analyses
from workers.settings import TritonSettings, WorkerSettings

KUBERNETES = "1.33"
OVERLAYS = {
    "cpu": ("cpu",),
    "gpu": ("cpu", "gpu"),
    "clinic": ("cpu", "clinic"),
    "clinic on a gpu": ("cpu", "gpu", "clinic"),
}


def compose(*names: str) -> dict[str, Any]:
    """Lay Compose files over each other: mappings are merged, lists grow, the rest is replaced."""
    found: dict[str, Any] = {}
    for name in names:
        found = merged(found, yaml.safe_load((DOCKER / f"compose.{name}.yaml").read_text()))
    return found


def merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: merged(below[key], above[key])
            if key in below and key in above
            else above.get(key, below.get(key))
            for key in below | above
        }
    if isinstance(below, list) and isinstance(above, list):
        return below + [each for each in above if each not in below]
    return above


@functools.cache
def manifests() -> tuple[tuple[str, dict[str, Any]], ...]:
    """Every document with the file that it stands in; read once, and left as it is."""
    return tuple(
        (path.name, document)
        for path in sorted((DOCKER / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    )


def pods() -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for _, each in manifests()
        if each["kind"] == "Deployment"
    }


def refuse_unknown(environment: Mapping[str, object]) -> None:
    """What our own settings refuse, and what workers alone read."""
    reject_unknown_environment({name: str(value) for name, value in environment.items()})
    own = known_variables((TritonSettings, WorkerSettings))
    for name in environment:
        if name.startswith(("LENTIGO_WORKER_", "LENTIGO_TRITON_")):
            assert name in own, name


@pytest.mark.parametrize("names", OVERLAYS.values(), ids=OVERLAYS)
def test_compose_files_follow_the_specification(names: tuple[str, ...]) -> None:
    # Found, not imported: the package is a command, and brings the specification's schema.
    files = metadata.files("check-jsonschema") or ()
    (schema,) = (each.read_text() for each in files if each.name == "compose-spec.json")
    validator = jsonschema.Draft7Validator(json.loads(schema))
    faults = [
        f"{list(each.path)}: {each.message}" for each in validator.iter_errors(compose(*names))
    ]
    assert faults == []


@pytest.mark.parametrize("names", OVERLAYS.values(), ids=OVERLAYS)
def test_compose_services_are_ours_closed_and_consistent(names: tuple[str, ...]) -> None:
    found = compose(*names)
    for name, service in found["services"].items():
        image, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d+\.\d+", tag), service["image"]
        assert set(service.get("networks", ())) <= set(found["networks"])
        assert set(service.get("secrets", ())) <= set(found["secrets"])
        assert set(service.get("depends_on", ())) <= set(found["services"])
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            is_path = source.startswith(".")
            assert (DOCKER / source).exists() if is_path else source in found["volumes"]
        environment = service.get("environment", {})
        for variable, value in environment.items():
            assert not re.search(r"(?i)(password|secret|token|_url)$", variable) or (
                variable == "LENTIGO_TRITON_URL"
            )
            if str(value).startswith("/run/secrets/"):
                assert Path(value).name in service["secrets"], (name, variable)
        if image.startswith("lentigo-"):
            refuse_unknown(environment)
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
            assert int(service["user"].partition(":")[0]) > 0
        if image == "lentigo-gateway":
            assert service["command"][0] in SERVICES
            check = service.get("healthcheck", {}).get("test", [None] * 4)
            assert check[3] is None or check[3] in health._CHECKS
            assert check[3] is not None or service["command"][0] in {"listen", "migrate"}
    inside = {name for name, each in found["services"].items() if each["networks"] == ["inside"]}
    assert {"postgres", "redis", "triton"} <= inside
    assert found["networks"]["inside"] == {"internal": True}


def test_built_images_are_the_files_that_are_there() -> None:
    for service in compose("cpu", "gpu", "clinic")["services"].values():
        if "build" in service:
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            arguments = {step.words[0].partition("=")[0] for step in read("triton").of("ARG")}
            assert set(service["build"].get("args", {})) <= arguments


def test_every_service_of_a_host_is_in_every_deployment() -> None:
    """What `lentigo up` starts must not be forgotten elsewhere."""
    source = (ROOT / "gateway" / "host" / "supervisor.py").read_text()
    started = set(re.findall(r'"-m", "gateway", "(\w+)"', source))
    assert started >= {"listen", "sweep", "dashboard"}
    composed = {
        each["command"][0]
        for each in compose("cpu")["services"].values()
        if each["image"].startswith("lentigo-gateway")
    }
    assert started <= composed
    assert started <= {
        container["args"][0]
        for pod in pods().values()
        for container in pod["containers"]
        if container["image"].startswith("lentigo-gateway")
    }


def test_manifests_follow_the_schemas_of_kubernetes() -> None:
    kinds = set()
    for name, document in manifests():
        kinds.add(document["kind"])
        if document["apiVersion"].startswith("keda.sh/"):
            continue  # a custom resource: see the test of its query
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lentigo", name
    assert kinds >= {"Deployment", "PodDisruptionBudget", "NetworkPolicy", "ScaledObject"}


def test_pods_are_nobody_and_know_their_settings() -> None:
    (settings,) = (each["data"] for _, each in manifests() if each["kind"] == "ConfigMap")
    refuse_unknown(settings)
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["enableServiceLinks"] is False
        volumes = {each["name"] for each in pod["volumes"]}
        for container in pod["containers"] + pod.get("initContainers", []):
            assert re.search(r":\d+\.\d+", container["image"])
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert {each["name"] for each in container["volumeMounts"]} <= volumes
            refuse_unknown({each["name"]: "" for each in container.get("env", ())})
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                command = container.get(probe, {}).get("exec", {}).get("command")
                assert command is None or command[2] in health._CHECKS, name
        (main,) = pod["containers"]
        assert "livenessProbe" in main


def test_every_selector_finds_its_pods() -> None:
    labels = {name: {"app.kubernetes.io/name": name} for name in pods()}
    for _, each in manifests():
        if each["kind"] in {"Service", "PodDisruptionBudget", "Deployment"}:
            selector = each["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert wanted in labels.values(), each["metadata"]["name"]
        if each["kind"] == "ScaledObject":
            assert each["spec"]["scaleTargetRef"]["name"] in labels
    budgets = {e["metadata"]["name"] for _, e in manifests() if e["kind"] == "PodDisruptionBudget"}
    assert set(labels) - budgets == {"admin-page", "triton"}  # one pod each: a budget would pin it


def test_lanes_of_the_scaling_are_those_of_the_analyses() -> None:
    long = sorted(each.name for each in offered_analyses() if each.limits.is_long)
    for query in queries().values():
        assert re.findall(r"'(\w+_\w+)'", query) == long


def queries() -> dict[str, str]:
    """The SQL of each ScaledObject, by the Deployment that it scales."""
    return {
        each["metadata"]["name"]: trigger["metadata"]["query"]
        for _, each in manifests()
        if each["kind"] == "ScaledObject"
        for trigger in each["spec"]["triggers"]
        if trigger["type"] == "postgresql"
    }


def test_workers_are_scaled_by_the_age_of_the_oldest_work(postgresql_url: str) -> None:
    def ages(engine: Engine) -> dict[str, int]:
        with reading(engine) as connection:
            return {
                name: int(connection.execute(text(query)).scalar_one())
                for name, query in queries().items()
            }

    migrate(postgresql_url)
    engine = open_engine(postgresql_url)
    try:
        assert ages(engine) == {"workers-quick": 0, "workers-long": 0}
        clock = TestClock()
        clock.now = utc_now() - timedelta(seconds=1000)
        record = Record(engine, clock)
        record.receive()
        record.close()  # closed and not routed: quick workers route
        found = ages(engine)
        assert 900 < found["workers-quick"] < 1100
        assert found["workers-long"] == 0
        (slide,) = record.schedule("slide_classification")
        (photograph,) = record.schedule("diagnosis")
        found = ages(engine)
        assert 900 < found["workers-long"] < 1100
        clock.now = utc_now()
        record.claim(slide, lease_s=60)
        assert ages(engine)["workers-long"] == 0  # somebody holds it
        clock.now = utc_now() - timedelta(seconds=200)
        record.claim(photograph, lease_s=100)
        due = {hint.id for hint in HintBoard(engine).due_hints(0.0) if hint.kind != "route"}
        assert due == {photograph}  # the lease has run out: the query and the sweeper agree
    finally:
        engine.dispose()


def test_secrets_are_made_once_and_for_their_owners(tmp_path: Path) -> None:
    done = subprocess.run(
        [DOCKER / "make-secrets", tmp_path / "secrets"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        assert "as root" in done.stderr
        return
    files = {each.name: each for each in (tmp_path / "secrets").iterdir()}
    secrets = compose("cpu", "clinic")["secrets"]
    named = {Path(each["file"]).name: name for name, each in secrets.items()}
    # Certificates are the clinic's own.
    assert set(files) == {name for name in named if not name.endswith(".pem")}
    for path in files.values():
        assert path.stat().st_mode & 0o777 == 0o400
    password = files["postgres_password"].read_text().strip()
    assert len(password) >= 32
    assert password in files["database_url"].read_text()
    again = subprocess.run([DOCKER / "make-secrets", tmp_path / "secrets"], capture_output=True)
    assert again.returncode == 1
    assert files["postgres_password"].read_text().strip() == password
