"""Dashboards and alert rules: kept true to one another, to the docs, and to Prometheus' grammar."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.tools import require

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GRAFANA = REPOSITORY / "grafana"
ALERTS = (GRAFANA / "alerts.yml").read_text()
NAMES = re.findall(r"- alert: (\w+)", ALERTS)
DASHBOARDS = sorted(GRAFANA.glob("*.json"))


@pytest.fixture(scope="module")
def promtool() -> str:
    require("promtool", found=shutil.which("promtool") is not None)
    return "promtool"


def run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


def panels(path: Path) -> Iterator[dict[str, Any]]:
    for panel in json.loads(path.read_text())["panels"]:
        yield from panel.get("panels", [])
        if panel["type"] != "row":
            yield panel


def test_the_dashboards_are_what_the_code_makes_of_them() -> None:
    run(sys.executable, "-B", str(GRAFANA / "build.py"), "--check")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_says_what_to_do_and_asks_the_chosen_data_source(path: Path) -> None:
    found = list(panels(path))
    assert len(found) > 15
    for panel in found:
        assert len(panel["description"]) > 60, panel["title"]
        assert panel["datasource"]["uid"] == "$datasource", panel["title"]
        references = [target.get("refId", "A") for target in panel["targets"]]
        assert 0 < len(references) == len(set(references)), panel["title"]
    titles = [panel["title"] for panel in found if panel["type"] != "stat"]
    assert len(titles) == len(set(titles))


def test_panels_name_only_alerts_that_exist() -> None:
    for path in DASHBOARDS:
        assert set(re.findall(r"\bSluiced[A-Z]\w+", path.read_text())) <= set(NAMES)


def test_every_metric_is_on_the_dashboard_of_a_pipeline() -> None:
    page = (Path(__file__).parent / "metrics.prom").read_text()
    metrics = re.findall(r"^# TYPE (\w+)", page, re.M)
    assert len(metrics) > 25
    shown = (GRAFANA / "sluiced-pipeline.json").read_text()
    assert [name for name in metrics if not re.search(rf"\b{name}(_bucket)?\b", shown)] == []


def test_every_query_of_a_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    queries = [t["expr"] for path in DASHBOARDS for p in panels(path) for t in p["targets"]]
    values = {"$__rate_interval": "5m", "$pipeline": "pages", "$instance": ".*"}
    for name, value in values.items():
        queries = [query.replace(name, value) for query in queries]
    assert not [query for query in queries if "$" in query]
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    run(promtool, "check", "rules", str(path))


def test_the_alert_rules_are_sound_and_fire_when_they_should(promtool: str) -> None:
    run(promtool, "check", "rules", str(GRAFANA / "alerts.yml"))
    run(promtool, "test", "rules", str(GRAFANA / "alerts_test.yml"))


def test_every_alert_is_tried_both_firing_and_silent() -> None:
    tests = (GRAFANA / "alerts_test.yml").read_text()
    silent = set(re.findall(r"alertname: (\w+), eval_time: \w+, exp_alerts: \[\]", tests))
    firing = set(re.findall(r"- alertname: (\w+)\n", tests))
    assert silent == firing == set(NAMES)


def test_every_alert_leads_to_its_own_heading_in_the_docs() -> None:
    urls = re.findall(r"runbook_url: (\S+)", ALERTS)
    assert urls == [f"docs/operations.md#{name.lower()}" for name in NAMES]
    docs = (REPOSITORY / "docs/operations.md").read_text()
    assert re.findall(r"^### (Sluiced\w+)$", docs, re.M) == NAMES
