"""Alert rules fire when they must and only then; the dashboard asks for metrics that there are."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.observation import counting, metrics
from gateway.observation.gauge_table import GAUGES
from tests.servers import require

ROOT = Path(__file__).resolve().parents[4]
RULES = ROOT / "docker" / "prometheus" / "alerts.yaml"
TESTS = RULES.with_name("alerts.test.yaml")
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "lentigo.json"


def promtool(*arguments: str) -> str:
    require("promtool")
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def served() -> set[str]:
    """Return every series name that a scrape can hold."""
    names = {each.name for each in (*GAUGES, metrics.UP, metrics.ERRORS, metrics.BUILD)}
    for family in counting.FAMILIES:
        names |= (
            {f"{family.name}_{end}" for end in ("bucket", "sum", "count")}
            if family.is_histogram
            else {family.name}
        )
    return names


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_each_alert_fires_and_none_in_a_clinic_that_is_well() -> None:
    promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))
    tried = {test["name"] for test in yaml.safe_load(TESTS.read_text())["tests"]}
    assert {alert["alert"] for alert in alerts()} < tried


def test_a_rule_that_never_fires_fails_its_test(tmp_path: Path) -> None:
    require("promtool")
    (tmp_path / "alerts.yaml").write_text(RULES.read_text().replace("== 0", "== 7"))
    (tmp_path / "alerts.test.yaml").write_text(TESTS.read_text())
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "alerts.test.yaml")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0


def test_each_alert_says_what_to_do_there_and_on_the_page() -> None:
    page = (ROOT / "docs" / "observing.md").read_text(encoding="utf-8")
    for alert in alerts():
        assert alert["annotations"]["description"].endswith("."), alert["alert"]
        assert alert["alert"] in page


@pytest.mark.parametrize("query", [*queries(), *(alert["expr"] for alert in alerts())])
def test_what_is_asked_for_is_served(query: str) -> None:
    assert set(re.findall(r"\blentigo_\w+", query)) <= served()


def test_the_queries_of_the_dashboard_can_be_read_by_prometheus(tmp_path: Path) -> None:
    rules = [{"record": f"panel:query:{n}", "expr": query} for n, query in enumerate(queries())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_the_dashboard_is_one_that_grafana_can_load() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"] == "lentigo"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) > 20
    places = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["targets"]
    assert len(places) == len(ids), "no two panels lie on each other"
    source = ROOT / "docker/grafana/provisioning/datasources/prometheus.yaml"
    (found,) = yaml.safe_load(source.read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {found["uid"]}


def test_the_configuration_can_be_read_by_prometheus(tmp_path: Path) -> None:
    text = (RULES.parent / "prometheus.yaml").read_text()
    token = tmp_path / "token"
    token.write_text("x")
    text = text.replace("/etc/prometheus/alerts.yaml", str(RULES))
    (tmp_path / "prometheus.yaml").write_text(
        text.replace("/run/secrets/prometheus_token", str(token))
    )
    promtool("check", "config", str(tmp_path / "prometheus.yaml"))
