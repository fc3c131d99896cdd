"""Alerts fire when they should, and only then; each leads to what to do about it."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.observability import (
    PROMETHEUS_FILE,
    ROOT,
    RULE_FILES,
    alerts,
    metrics_in,
    rules,
    tool,
)

CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
HEALTHY = Path(__file__).parent / "rules/healthy.yaml"
RUNBOOK = ROOT / "docs/alerts.md"


def promtool(*arguments):
    done = subprocess.run(
        [tool("promtool"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_files():
    promtool("check", "config", PROMETHEUS_FILE)  # and the rules it names


@pytest.mark.parametrize("cases", CASES, ids=lambda it: it.stem)
def test_rules_do_what_the_cases_say(cases):
    promtool("test", "rules", cases)


def test_every_alert_has_a_case_in_which_it_fires():
    fires = {
        alert
        for file in CASES
        for case in yaml.safe_load(file.read_text())["tests"]
        for it in case["promql_expr_test"]
        if it["exp_samples"]
        for alert in re.findall(r'alertname="(\w+)"', it["expr"])
    }

    assert fires == {it["alert"] for it in alerts()}


def test_every_alert_is_silent_on_an_ordinary_day():
    """Silent about its own metrics, that is: the day has them all."""
    healthy = yaml.safe_load(HEALTHY.read_text())
    assert {(HEALTHY.parent / it).resolve() for it in healthy["rule_files"]} == {
        *RULE_FILES
    }
    (day,) = healthy["tests"]
    series = {it["series"].partition("{")[0] for it in day["input_series"]}
    recorded = {it["record"] for it in rules() if "record" in it}
    asked = {metric for rule in rules() for metric in metrics_in(rule["expr"])}

    assert asked - recorded <= series
    (silent,) = [it for it in day["promql_expr_test"] if not it["exp_samples"]]
    assert silent["expr"] == 'count_over_time(ALERTS{alertstate="firing"}[2h])'


def test_every_alert_says_how_bad_what_and_what_to_do():
    for alert in alerts():
        name, notes = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert set(notes) == {"summary", "description", "runbook_url"}, name
        there = "{{ $externalLabels.docs }}/alerts.md#" + name.lower()
        assert notes["runbook_url"] == there


def test_every_alert_has_its_section_in_the_runbook_and_the_other_way_round():
    headings = re.findall(r"^### (Tollhouse\w+)$", RUNBOOK.read_text(), re.MULTILINE)

    assert sorted(headings) == sorted(it["alert"] for it in alerts())


def test_every_section_says_what_it_means_what_to_look_at_and_what_to_do():
    for section in re.split(r"^### ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("\n")
        looks = re.findall(r"^\d\. ", text.partition("\n## ")[0], re.MULTILINE)
        assert looks == ["1. ", "2. ", "3. "], name
        assert "**Do**:" in text, name
