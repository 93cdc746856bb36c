"""Loads `host/grafana/celerybox.json` and `host/prometheus/alerts.yml`, and prints the metrics that they name."""

import json
import pathlib
import re

import yaml

host = pathlib.Path(__file__).resolve().parents[2] / "host"
dashboard = json.loads((host / "grafana/celerybox.json").read_text())
alerts = yaml.safe_load((host / "prometheus/alerts.yml").read_text())

METRIC = re.compile(r"\b(?:celery|celerybox|process)_[a-z_]+\b")


def names(expressions):
    return sorted({name for text in expressions for name in METRIC.findall(text)})


panels = dashboard["panels"]
assert dashboard["title"] and dashboard["uid"] and dashboard["schemaVersion"] >= 36
assert len({panel["id"] for panel in panels}) == len(panels)
drawn = [panel for panel in panels if panel["type"] != "row"]
for panel in drawn:
    assert panel["title"] and panel["targets"] and panel["gridPos"]["w"] <= 24, panel
queries = [target["expr"] for panel in drawn for target in panel["targets"]]
queries += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]

rules = [rule for group in alerts["groups"] for rule in group["rules"]]
for rule in rules:
    assert rule["alert"] and rule["annotations"]["summary"] and rule["labels"]["severity"], rule

print(json.dumps({"dashboard": names(queries), "alerts": names(rule["expr"] for rule in rules)}))
