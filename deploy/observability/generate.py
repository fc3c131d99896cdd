"""Write Grafana's dashboards: `python deploy/observability/generate.py [--check]`.

dashboards/*.yaml say what a dashboard is about: rows of panels, and for each its title,
what it tells, its queries and its unit. Here is what all have in common, so that one
panel looks like another. The result, grafana/dashboards/*.json, is committed: it can be
imported as it is, into any Grafana from 11 on.

A panel: `title`, `text` (what it tells, when to worry), `queries` (one in PromQL, or
{legend: query} for several), and if needed `legend` (of a single query), `kind`
(timeseries, stat, table), `unit` (Grafana's), `width` of 24, `limits` ({color: from
which value on}; below them all it is green, or red if green is one), `colors` ({name in
the legend: color}), `stacked`, `max`, `alert` (whose section of docs/alerts.md it links
to).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "dashboards"
RESULTS = HERE / "grafana" / "dashboards"

Json = dict[str, Any]

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_SIZES = {"stat": (4, 4), "timeseries": (8, 8), "table": (12, 9)}
_SCHEMA = 39  # Grafana 11.0's; later ones read it


def dashboard(name: str, source: Json) -> Json:
    """Render one."""
    return {
        "id": None,
        "uid": f"tollhouse-{name}",
        "title": f"Tollhouse: {source['title']}",
        "description": source["text"],
        "tags": ["tollhouse"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "Tollhouse",
                "tags": ["tollhouse"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            },
            {"type": "link", "title": "Runbook", "url": "${docs}/alerts.md"},
        ],
        "annotations": {"list": [_alerts()]},
        "templating": {"list": [*_variables(source.get("variables", {}))]},
        "panels": [*_panels(source["rows"])],
    }


def _alerts() -> Json:
    """When alerts fired, as marks on every graph."""
    return {
        "name": "Alerts",
        "datasource": _DATASOURCE,
        "enable": True,
        "expr": 'ALERTS{alertname=~"Tollhouse.*",alertstate="firing"}',
        "iconColor": "red",
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


def _variables(queries: dict[str, str]) -> Iterator[Json]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    for name, query in queries.items():
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,  # with the time range
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
    docs = "https://docs.example/tollhouse"
    yield {
        "name": "docs",
        "label": "Where docs/ is to be read",
        "type": "textbox",
        "hide": 2,
        "query": docs,
        "current": {"text": docs, "value": docs},
    }


def _panels(rows: list[Json]) -> Iterator[Json]:
    number, top = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row["title"],
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        top, left, height = top + 1, 0, 0
        for panel in row["panels"]:
            kind = panel.get("kind", "timeseries")
            width, tall = _SIZES[kind]
            width = panel.get("width", width)
            if left + width > _WIDTH:
                top, left, height = top + height, 0, 0
            number += 1
            place = {"x": left, "y": top, "w": width, "h": tall}
            yield {"id": number, "gridPos": place, **_panel(kind, panel)}
            left, height = left + width, max(height, tall)
        top += height


def _panel(kind: str, panel: Json) -> Json:
    queries = panel["queries"]
    if isinstance(queries, str):
        queries = {panel.get("legend", panel["title"]): queries}
    rendered: Json = {
        "type": kind,
        "title": panel["title"],
        "description": panel["text"],
        "datasource": _DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": " ".join(query.split()),
                "legendFormat": legend,
                "instant": kind == "table",
                "range": kind != "table",
                **({"format": "table"} if kind == "table" else {}),
            }
            for index, (legend, query) in enumerate(queries.items())
        ],
        "fieldConfig": _fields(kind, panel),
        "options": _OPTIONS.get(kind, {}),
    }
    if kind == "table":
        hidden = {"Time": True}
        names = {"Value": panel["title"]}
        order = {"displayName": panel["title"], "desc": True}
        rendered["options"] = {"sortBy": [order]}
        options = {"excludeByName": hidden, "renameByName": names}
        rendered["transformations"] = [{"id": "organize", "options": options}]
    if "alert" in panel:
        url = f"${{docs}}/alerts.md#{panel['alert'].lower()}"
        rendered["links"] = [{"title": panel["alert"], "url": url, "targetBlank": True}]
    return rendered


def _fields(kind: str, panel: Json) -> Json:
    limits = panel.get("limits", {})
    base = "red" if "green" in limits else "green"
    steps = [
        {"color": color, "value": value}
        for color, value in ((base, None), *limits.items())
    ]
    defaults: Json = {
        "unit": panel.get("unit", "short"),
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if kind == "stat" else "palette-classic"},
    }
    if "max" in panel:
        defaults["max"] = panel["max"]
    if kind == "timeseries":
        stacked = panel.get("stacked", False)
        defaults["custom"] = {
            "fillOpacity": 40 if stacked else 10,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": True,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if limits else "off"},
        }
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {"id": "color", "value": {"mode": "fixed", "fixedColor": color}}
            ],
        }
        for name, color in panel.get("colors", {}).items()
    ]
    return {"defaults": defaults, "overrides": overrides}


_OPTIONS: dict[str, Json] = {
    "stat": {
        "colorMode": "background",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
    },
    "timeseries": {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}


def rendered() -> Iterator[tuple[Path, str]]:
    """Yield each dashboard's file and what has to be in it."""
    for source in sorted(SOURCES.glob("*.yaml")):
        content = dashboard(source.stem, yaml.safe_load(source.read_text()))
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        yield RESULTS / f"{source.stem}.json", text


def main() -> int:
    """Write them; with --check only say which differ."""
    is_check = sys.argv[1:] == ["--check"]
    differing = [
        (file, text)
        for file, text in rendered()
        if not file.exists() or file.read_text() != text
    ]
    for file, text in differing:
        if is_check:
            print(f"{file.relative_to(HERE.parents[1])} is not what generate.py writes")
        else:
            file.write_text(text)
    return int(is_check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
