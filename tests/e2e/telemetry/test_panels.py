"""Each panel of each dashboard has something to show, and no alert fires.

A real Prometheus, with the repository's configuration and rules, scrapes a running
stack: its collector, Envoy and Triton. Only addresses and paces are others.
"""

import contextlib
import json
import math
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.e2e.running_stack import (
    TOLLHOUSE,
    RunningStack,
    short_folder,
    wait_until,
)
from tests.observability import (
    PROMETHEUS_FILE,
    RULE_FILES,
    grouped_by,
    matchers_in,
    metrics_in,
    queries,
    rules,
    tool,
)

START_SECONDS = 60.0
COME_SECONDS = 60.0
VARIABLES = {
    "$__rate_interval": "30s",
    "$__range": "1m",
    "$model": ".*",
    "$tenant": ".*",
}
OF_EVERY_TARGET = {"job", "instance"}
SERIES = re.compile(r"^(\w+)\{?([^}\n]*)", re.MULTILINE)
LABEL = re.compile(r'(\w+)="')
# What a busy machine may be too slow for is no fault of the stack.
SLOWNESS = {
    "TollhouseFirstTokenFastBurn",
    "TollhouseFirstTokenSlowBurn",
    "TollhouseScriptsSlow",
}


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that scrapes the stack."""

    api: httpx.Client

    def get(self, path: str, **parameters: str) -> Any:
        content = self.api.get(path, params=parameters).json()
        assert content["status"] == "success", content
        return content["data"]

    def values(self, expr: str) -> list[float]:
        """Values of an expression now; not a number is none."""
        found = self.get("query", query=expr)["result"]
        values = (float(it["value"][1]) for it in found)
        return [it for it in values if not math.isnan(it)]


def option_of(process: psutil.Process, name: str) -> str:
    (value,) = [
        it.partition("=")[2] for it in process.cmdline() if it.startswith(f"{name}=")
    ]
    return value


def targets(stack: RunningStack) -> Mapping[str, str]:
    """Where the jobs of prometheus.yaml are in this stack."""
    ready = json.loads(stack.ready_file.read_text())
    triton = psutil.Process(stack.pids["triton"])
    return {
        "collector": ready["telemetry_url"].partition("//")[2],
        "envoy": stack.admin_url.partition("//")[2],
        "triton": f"127.0.0.1:{option_of(triton, '--metrics-port')}",
    }


@contextlib.contextmanager
def running_prometheus(folder: Path, places: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run it with the repository's file, the paces of a test and these targets."""
    config = yaml.safe_load(PROMETHEUS_FILE.read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(it) for it in RULE_FILES]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [places[job["job_name"]]]}]
    file, log = folder / "prometheus.yaml", folder / "prometheus.log"
    file.write_text(yaml.safe_dump(config))
    command = [
        str(tool("prometheus")),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def port() -> int:
        ports = (
            it.laddr.port
            for it in psutil.Process(process.pid).net_connections()
            if it.status == psutil.CONN_LISTEN
        )
        return next(ports, 0)

    try:
        wait_until(lambda: port() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        with httpx.Client(base_url=f"http://127.0.0.1:{port()}/api/v1") as api:
            wait_until(lambda: api.get("query?query=1").is_success, START_SECONDS)
            yield Prometheus(api)
    finally:
        process.kill()
        process.wait()


def reconcile(stack: RunningStack) -> None:
    """Compare the books, and tell the stack's collector.

    Not with the engine's log, which knows no exchange of Triton's own clients.
    """
    told = psutil.Process(stack.pids["collector"]).environ()["TOLLHOUSE_LISTEN"]
    done = subprocess.run(
        [
            *(*TOLLHOUSE, "reconcile"),
            *("--redis-url", stack.redis_url, "--redis-user", "operator"),
            *("--redis-password-file", str(stack.state_dir / "redis-users/operator")),
        ],
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{told}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def ask_again(stack: RunningStack) -> None:
    """Answers, one that nobody waits for, and one refusal."""
    body = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": "Who keeps the toll?"}],
        "max_tokens": 12,
        "stream": True,
    }
    headers = {"authorization": f"Bearer {stack.api_key}"}
    with httpx.Client(base_url=stack.base_url, headers=headers, timeout=60) as client:
        for _ in range(3):
            assert client.post("/chat/completions", json=body).is_success
        left = body | {"max_tokens": 2000}
        with client.stream("POST", "/chat/completions", json=left) as answer:
            next(answer.iter_lines())
        strange = {"authorization": f"Bearer {stack.api_key[:-1]}~"}
        refused = client.post("/chat/completions", json=body, headers=strange)
        assert refused.status_code == 401


@pytest.fixture(scope="module")
def prometheus(asked) -> Iterator[Prometheus]:
    """One that has seen the stack before and after more of the same was asked."""
    with (
        short_folder() as folder,
        running_prometheus(folder, targets(asked.stack)) as running,
    ):
        wait_until(lambda: is_scraping(running), COME_SECONDS)
        ask_again(asked.stack)
        reconcile(asked.stack)
        yield running


def is_scraping(prometheus: Prometheus) -> bool:
    """Whether it has each target's page, and on it what was asked before."""
    jobs = yaml.safe_load(PROMETHEUS_FILE.read_text())["scrape_configs"]
    up = prometheus.values("up == 1")
    return (
        len(up) == len(jobs) and len(prometheus.values("tollhouse_exchanges_total")) > 1
    )


def filled(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr
    return expr


def test_no_panel_is_empty(prometheus, asked):
    empty = set(queries())

    def are_filled() -> bool:
        """Ask on: a rate needs scrapes between which something happened."""
        empty.difference_update(
            [it for it in empty if prometheus.values(filled(it.expr))]
        )
        if empty:
            ask_again(asked.stack)
        return not empty

    wait_until(are_filled, COME_SECONDS)

    assert [f"{it.where}\n{filled(it.expr)}" for it in empty] == []


def test_envoy_and_triton_have_what_is_asked_for(asked):
    """By name and label; of a counter that is not there `or vector(0)` says nothing."""
    places = targets(asked.stack)
    pages = (
        f"http://{places['envoy']}/stats/prometheus",
        f"http://{places['triton']}/metrics",
    )
    labels = defaultdict[str, set[str]](lambda: set(OF_EVERY_TARGET))
    for page in pages:
        for name, inside in SERIES.findall(httpx.get(page).text):
            labels[name] |= set(LABEL.findall(inside))
    expressions = [it["expr"] for it in rules()] + [it.expr for it in queries()]
    theirs = {it for expr in expressions for it in metrics_in(expr)}
    theirs = {it for it in theirs if it.startswith(("envoy_", "nv_"))}

    assert theirs
    assert theirs - labels.keys() == set()
    for expr in expressions:
        for metric, label, _ in matchers_in(expr):
            assert metric not in theirs or label in labels[metric], expr
        if metrics_in(expr) <= theirs:
            known = set[str]().union(*(labels[it] for it in metrics_in(expr)))
            assert not metrics_in(expr) or grouped_by(expr) <= known, expr


def test_no_alert_fires(prometheus):
    groups = prometheus.get("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(rules())
    assert {it["health"] for it in evaluated} == {"ok"}

    def waiting() -> set[str]:
        """Alerts whose condition holds; most would fire after minutes."""
        return {it["labels"]["alertname"] for it in prometheus.get("alerts")["alerts"]}

    found = set[str]()

    def are_none() -> bool:
        found.clear()
        found.update(waiting() - SLOWNESS)
        return not found

    wait_until(are_none, COME_SECONDS)
    assert found == set()
