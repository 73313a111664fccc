"""Dashboards, alert rules and the documents use exactly the metrics that are exported."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from chargehand.orchestrator.telemetry import meters, metrics
from chargehand.orchestrator.telemetry.exposition import ProcessMeter, render

ROOT = Path(__file__).parents[3]
BY_NAME = {metric.name: metric for metric in metrics.ALL}
SUFFIXES = ("_bucket", "_sum", "_count")


def rules():
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard():
    return json.loads((ROOT / "deploy/grafana/dashboards/chargehand.json").read_text())


def expressions():
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    for panel in dashboard()["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", ())]
    return found


def selectors(expression):
    """Every `name{labels}` of a PromQL expression, and the labels by which it is grouped."""
    promql_parser.parse(expression)
    for name, labels in re.findall(r"\b(chargehand[a-z0-9_:]+)(\{[^}]*\})?", expression):
        yield name, re.findall(r"(\w+)\s*[=!]", labels)


@pytest.mark.parametrize(("where", "expression"), expressions(), ids=lambda text: text[:40])
def test_every_name_and_label_in_dashboards_and_rules_is_exported(where, expression):
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    known_labels = {"le"}
    for name, labels in selectors(expression):
        if name in recorded:
            known_labels.add("model")
            continue
        base = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
        metric = BY_NAME.get(name) or BY_NAME.get(base)
        assert metric is not None, f"{where}: no metric {name}"
        assert (metric.kind == "histogram") == (name not in BY_NAME), f"{where}: {name}"
        assert set(labels) <= set(metric.labels), f"{where}: {name}"
        known_labels |= set(metric.labels)
    grouped = {
        label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(",")
    }
    assert grouped <= known_labels, where


def test_every_exported_metric_is_on_the_dashboard_or_in_a_rule():
    text = "\n".join(expression for _, expression in expressions())
    assert [name for name in BY_NAME if not re.search(rf"\b{name}(_bucket|_count|_sum)?\b", text)] == []


def test_every_exported_metric_is_documented_with_its_labels():
    rows = re.findall(r"^\| `(chargehand_\w+)` \| (\w+) \| ([^|]*) \| (\w+) \|", operations(), re.MULTILINE)
    documented = {(name, kind, tuple(re.findall(r"\w+", labels)), source) for name, kind, labels, source in rows}
    assert documented == {(one.name, one.kind, one.labels, one.source) for one in metrics.ALL}


def operations():
    return (ROOT / "docs/operations.md").read_text()


def test_every_panel_shows_something_and_has_a_place_of_its_own():
    panels = dashboard()["panels"]
    assert all(panel.get("targets") for panel in panels if panel["type"] != "row")
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_alert_says_how_bad_it_is_and_what_it_is():
    alerts = [rule for rule in rules() if "alert" in rule]
    assert all(rule["labels"]["severity"] in {"page", "ticket"} and rule["annotations"]["summary"] for rule in alerts)
    assert len({rule["alert"] for rule in alerts}) == len(alerts)


def test_a_process_exports_its_metrics_under_these_names():
    meter = ProcessMeter()
    with meters.heard_by(meter):
        for metric in metrics.ALL:
            labels = dict.fromkeys(metric.labels, "x")
            if metric.kind == "counter":
                meters.count(metric, 2, **labels)
            elif metric.kind == "histogram":
                meters.observe(metric, 0.5, **labels)
    found = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type, frozenset(sample.labels) - {"le"})
        for family in text_string_to_metric_families(render(meter=meter).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    expected = {(one.name, one.kind, frozenset(one.labels)) for one in metrics.ALL if one.source == "process"}
    assert found == expected


def test_nothing_is_heard_once_its_sink_is_gone():
    meter = ProcessMeter()
    with meters.heard_by(meter):
        assert meters.is_heard()
    meters.count(metrics.MESSAGES_LOST)
    assert "chargehand_messages_lost_total 0.0" in render(meter=meter).decode()
