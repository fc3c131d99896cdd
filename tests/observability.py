"""What deploy/observability asks of metrics, and Prometheus to ask with."""

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy/observability"
PROMETHEUS_FILE = FOLDER / "prometheus/prometheus.yaml"
RULE_FILES = sorted((FOLDER / "prometheus/rules").glob("*.yaml"))
DASHBOARD_FILES = sorted((FOLDER / "grafana/dashboards").glob("*.json"))

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_NAME = re.compile(r"\b(?:tollhouse|gen_ai|envoy|nv)[_:][\w:]+")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")


def tool(name: str) -> Path:
    """Path of `prometheus` or `promtool`."""
    path = (
        Path(os.environ.get("TOLLHOUSE_TOOLS", ROOT / ".tools")) / "prometheus" / name
    )
    assert path.exists(), f"{path} is missing: run scripts/setup.sh --tests"
    return path


@functools.cache
def rules() -> list[Mapping[str, Any]]:
    """Every rule of every file."""
    files = (yaml.safe_load(file.read_text()) for file in RULE_FILES)
    return [rule for file in files for it in file["groups"] for rule in it["rules"]]


def alerts() -> list[Mapping[str, Any]]:
    """Every rule that is an alert."""
    return [rule for rule in rules() if "alert" in rule]


@dataclass(frozen=True, slots=True)
class Query:
    """One of a panel, with its variables in it."""

    where: str
    expr: str


def panels() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each panel of each dashboard, with where it is."""
    for file in DASHBOARD_FILES:
        for panel in json.loads(file.read_text())["panels"]:
            yield f"{file.stem}: {panel['title']}", panel


@functools.cache
def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(where, target["expr"])
        for where, panel in panels()
        for target in panel.get("targets", ())
    ]


def metrics_in(expr: str) -> set[str]:
    """Return the metrics that an expression asks for, recorded ones included."""
    bare = _GROUPING.sub("", re.sub(r"\{[^}]*\}", "", expr))
    return set(_NAME.findall(bare))


def matchers_in(expr: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield metric, label and the values that selectors name, variables left out."""
    for metric, inside in _SELECTOR.findall(expr):
        for label, values in _MATCHER.findall(inside):
            words = values.split("|")
            yield metric, label, [it for it in words if re.fullmatch(r"\w+", it)]


def grouped_by(expr: str) -> set[str]:
    """Return the labels that an expression groups by."""
    lists = _GROUPING.findall(expr)
    return {it.strip() for labels in lists for it in labels.split(",") if it.strip()}
