"""Redis hangs under load: plans that degrade go on at their limit, the books stay true.

Through the real Envoy, with two workers that each admit their part meanwhile.
"""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass

import httpx
import pytest

from tests.attempts import attempt
from tests.e2e.main import books
from tests.e2e.main.conftest import ENGINE
from tests.e2e.running_stack import running_stack, short_folder, write_config

AWAY_SECONDS = 8.0
OPEN_SECONDS = 2.0
"""From then on all breakers are open."""
PER_SECOND = 10
BURST_SECONDS = 3
PLANS = {
    "demo": {"burst_seconds": 10},
    "degrading": {
        "key": {"requests_per_minute": 60 * PER_SECOND, "units_per_day": 10**9},
        "tenant_model": {"concurrent": 100},
        "burst_seconds": BURST_SECONDS,
        "redis_down": "degrade",
    },
    "denying": {"key": {"requests_per_minute": 10**6}, "redis_down": "deny"},
}
MOST_P99_SECONDS = 0.25
"""The goal is 60 ms on a machine of its own."""


@dataclass
class Seen:
    """One request as its client saw it; times on the monotonic clock."""

    asked_at: float
    told_at: float
    status: int
    exchange: str | None


@pytest.fixture(scope="module")
def stack():
    """A stack of its own: its Redis is stopped for a while."""
    with short_folder() as folder:
        config = write_config(folder / "away.yaml", plans=PLANS, engine=ENGINE)
        with running_stack(folder, "--workers", "2", config=config) as running:
            for plan in ("degrading", "denying"):
                running.run("tenants", "create", plan, "--plan", plan)
            yield running


@pytest.fixture(scope="module")
def rounds():
    """What was seen whenever Redis was away: once, if the machine does its part."""
    return []


@pytest.fixture
def seen(stack, rounds, request):
    """What each plan's clients saw, and when Redis was away; of this attempt."""
    number = attempt(request.node)
    if number == len(rounds):
        keys = {
            plan: stack.run("keys", "create", "--tenant", plan).strip()
            for plan in ("degrading", "denying")
        }
        rounds.append(asyncio.run(_seen(stack, keys)))
    return rounds[number]


async def _seen(stack, keys):
    done = asyncio.Event()
    clients = {
        plan: [asyncio.create_task(_client(stack, key, done)) for _ in range(number)]
        for (plan, key), number in zip(keys.items(), (6, 2), strict=True)
    }
    await asyncio.sleep(3.0)  # the burst is used up, the limit holds
    redis = stack.pids["redis"]
    os.kill(redis, signal.SIGSTOP)
    began = time.monotonic()
    try:
        await asyncio.sleep(AWAY_SECONDS)
    finally:
        ended = time.monotonic()
        os.kill(redis, signal.SIGCONT)
    await asyncio.sleep(5.0)
    done.set()
    seen = {
        plan: [one for task in tasks for one in await task]
        for plan, tasks in clients.items()
    }
    assert redis == stack.pids["redis"], "nobody may take it for dead so soon"
    return seen, began, ended


async def _client(stack, api_key, done):
    body = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": "Who keeps the toll?"}],
        "max_tokens": 4,
        "stream": True,
    }
    seen = []
    async with httpx.AsyncClient(
        base_url=stack.base_url,
        headers={"authorization": f"Bearer {api_key}"},
        timeout=httpx.Timeout(30.0),
    ) as client:
        while not done.is_set():
            asked_at = time.monotonic()
            async with client.stream(
                "POST", "/chat/completions", json=body
            ) as response:
                told_at = time.monotonic()
                exchange = response.headers.get("x-tollhouse-exchange")
                seen.append(Seen(asked_at, told_at, response.status_code, exchange))
                await response.aread()
            await asyncio.sleep(0.03)
    return seen


def ask_once(stack, api_key):
    httpx.post(
        stack.base_url + "/chat/completions",
        json={
            "model": "tiny-chat",
            "messages": [{"role": "user", "content": "Who keeps the toll?"}],
            "max_tokens": 1,
        },
        headers={"authorization": f"Bearer {api_key}"},
        timeout=30,
    )


@pytest.mark.timed
def test_degrading_plans_are_admitted_at_their_limit(seen):
    """Neither an open door nor a closed one, and never an error."""
    each, began, ended = seen
    answers = [it for it in each["degrading"] if began < it.told_at < ended]
    admitted = sum(it.status == httpx.codes.OK for it in answers)

    assert {200, 429} == {it.status for it in each["degrading"]}
    assert admitted <= 1.1 * (PER_SECOND * AWAY_SECONDS + PER_SECOND * BURST_SECONDS)
    assert admitted >= 0.6 * PER_SECOND * AWAY_SECONDS


@pytest.mark.timed
def test_admission_is_quick_once_redis_is_left_alone(seen, capsys):
    each, began, ended = seen
    took = sorted(
        it.told_at - it.asked_at
        for it in each["degrading"]
        if began + OPEN_SECONDS < it.asked_at < ended
    )
    p50, p99 = (took[int(len(took) * part)] for part in (0.5, 0.99))
    with capsys.disabled():
        print(f"\naway: p50 {p50 * 1000:.1f}, p99 {p99 * 1000:.1f} ms of {len(took)}")  # noqa: T201

    assert p99 < MOST_P99_SECONDS


@pytest.mark.timed
def test_denying_plans_are_refused(seen):
    """At once, too; and admitted again when Redis is back."""
    each, began, ended = seen
    away = [it for it in each["denying"] if began + 0.5 < it.asked_at < ended - 0.5]
    opened = [it for it in away if it.asked_at > began + OPEN_SECONDS]
    waits = [it.told_at - it.asked_at for it in opened]

    assert {503} == {it.status for it in away}
    assert sorted(waits)[int(len(waits) * 0.9)] < MOST_P99_SECONDS
    assert {200} == {it.status for it in each["denying"] if it.asked_at > ended + 3.0}


def test_all_that_was_admitted_is_settled_once(stack, seen, rounds):
    """Usage rows, ledger and what the engine did agree, to the token."""
    books.rest(stack)
    truth = books.truth(stack.state_dir)
    for plan in ("degrading", "denying"):
        answers = [it for each, *_ in rounds for it in each[plan]]
        billed = books.settlements(stack.state_dir, plan)
        rows = books.usage(stack, plan)
        admitted = {it.exchange for it in answers if it.status == httpx.codes.OK}
        assert admitted == billed.keys()
        mine = [truth[id_] for id_ in billed]
        assert Counter(final=len(billed)) == Counter(
            {kind: rows[kind] for kind in ("final", "partial", "abandoned")}
        )
        assert (
            sum(it.input_tokens for it in mine),
            sum(it.output_tokens for it in mine),
        ) == (rows["input_tokens"], rows["output_tokens"])


def test_the_rung_is_told_when_it_changes_only(stack, seen, rounds):
    """Not once per request; and that all is well again, to whoever asks then."""
    keys = [
        stack.run("keys", "create", "--tenant", plan).strip()
        for plan in ("degrading", "denying")
    ]

    def told():
        return Counter(
            entry["event"]
            for log in (stack.state_dir / "logs").glob("extproc-*.log")
            for entry in map(json.loads, log.read_text().splitlines())
            if entry["event"].startswith("limits.")
        )

    def is_restored():
        for key in keys:
            ask_once(stack, key)
        counts = told()
        return counts["limits.degraded"] == counts["limits.restored"]

    books.within(30, is_restored)
    assert 2 <= told()["limits.restored"] <= 12 * len(rounds)
