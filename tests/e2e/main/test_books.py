"""Under a mixed load, every book says the same: truth, ledger, limits, invoice rows."""

import asyncio
from collections import Counter

import pytest

from tests.attempts import attempt
from tests.e2e.main import books, load
from tests.e2e.main.conftest import ENGINE, ROOMY
from tollhouse.core.buckets import GRAINS
from tollhouse.core.ids import created_ms
from tollhouse.core.usage import UsageKind

TENANT = "books"
REQUESTS = 200
FIRST_TOKENS = 240
"""They take 7 s to drain from the units of ROOMY."""
AHEAD_SECONDS = 0.2


@pytest.fixture(scope="module")
def make_key_once(stack):
    """One tenant for all tests of this module."""
    stack.run("tenants", "create", TENANT, "--plan", "roomy")
    return stack.run("keys", "create", "--tenant", TENANT).strip()


@pytest.fixture(scope="module")
def seen(stack, make_key_once):
    """What 200 mixed requests at 16 at a time saw; a fifth of them left early.

    One before them uses so much that the limit's bucket is not empty until they come.
    """

    def loaded(requests, **options):
        return asyncio.run(
            load.mixed(
                stack.base_url,
                make_key_once,
                requests=requests,
                concurrent=16,
                seed=4,
                **options,
            )
        )

    result = loaded(1, lasting_tokens=FIRST_TOKENS) + loaded(REQUESTS)
    books.rest(stack)
    return result


def test_the_load_was_one(seen):
    """Nothing below means much if nothing ran."""
    ends = Counter(one.end for one in seen)

    assert {"complete", "aborted"} == ends.keys()
    assert ends["aborted"] >= REQUESTS // 10
    assert {one.stream for one in seen if one.end == "complete"} == {True, False}


def test_completed_exchanges_are_billed_exactly(stack, seen):
    """Record by record, what was billed is what the engine generated."""
    billed, truth = (
        books.settlements(stack.state_dir, TENANT),
        books.truth(stack.state_dir),
    )
    for one in seen:
        if one.end != "complete":
            continue
        record, generated = billed[one.exchange], truth[one.exchange]
        assert (UsageKind.FINAL, "completed") == (record.kind, generated.outcome)
        assert (generated.input_tokens, generated.output_tokens) == (
            record.usage.input_tokens,
            record.usage.output_tokens,
        )


def test_aborted_exchanges_are_billed_to_where_they_were_cut(stack, seen):
    """PARTIAL: what was forwarded."""
    billed, truth = (
        books.settlements(stack.state_dir, TENANT),
        books.truth(stack.state_dir, [one.exchange for one in seen]),
    )
    for one in seen:
        if one.end != "aborted":
            continue
        record, generated = billed[one.exchange], truth[one.exchange]
        output = record.usage.output_tokens
        if record.kind is UsageKind.FINAL:  # left while the last events were on the way
            assert "completed" == generated.outcome
            continue
        assert UsageKind.PARTIAL is record.kind
        assert generated.input_tokens == record.usage.input_tokens
        # What the client read was forwarded; what was forwarded was generated.
        assert one.contents <= output <= generated.output_tokens


@pytest.mark.timed
def test_the_engine_stops_soon_after_its_client_left(stack, make_key, request):
    """All leave, with a half of their answer still to come."""
    key = make_key("ahead", "roomy")
    tenant = f"ahead-{again}" if (again := attempt(request.node)) else "ahead"
    asyncio.run(
        load.mixed(
            *(stack.base_url, key),
            requests=60,
            concurrent=16,
            seed=5,
            aborted=1.0,
            max_tokens=lambda _: 120,
        )
    )
    books.rest(stack)
    billed = books.settlements(stack.state_dir, tenant)
    truth = books.truth(stack.state_dir, billed)
    most = AHEAD_SECONDS * 1000 / ENGINE["itl_ms"]
    ahead = [
        truth[id_].output_tokens - record.usage.output_tokens
        for id_, record in billed.items()
        if record.kind is UsageKind.PARTIAL
    ]
    assert len(ahead) >= 30
    # A machine that stands still for a moment holds up a few of them.
    assert sorted(ahead)[int(0.8 * len(ahead))] <= most


def test_the_usage_rows_are_the_sum_of_the_records(stack, seen):
    """What the aggregator adds up is what was settled: nothing lost or doubled."""
    billed = books.settlements(stack.state_dir, TENANT)
    rows = books.usage(stack, TENANT)

    assert {one.exchange for one in seen} == billed.keys()
    kinds = Counter(record.kind for record in billed.values())
    assert (
        sum(record.usage.input_tokens for record in billed.values()),
        sum(record.usage.output_tokens for record in billed.values()),
        kinds[UsageKind.FINAL],
        kinds[UsageKind.PARTIAL],
        0,
    ) == (
        rows["input_tokens"],
        rows["output_tokens"],
        rows["final"],
        rows["partial"],
        rows["abandoned"],
    )


def test_the_limits_are_as_if_only_usage_had_been_charged(stack, seen):
    """No reservation is left; refunds went where the reservation came from.

    What a worker admitted alone, Redis being too slow, is charged when it is settled,
    less what has drained since.
    """
    billed = books.settlements(stack.state_dir, TENANT)
    spent = sum(r.usage.units(r.facts.weights) for r in billed.values()) * GRAINS
    first = min(seen, key=lambda one: created_ms(one.exchange)).exchange
    used, at = books.units_bucket(stack, TENANT)
    rate, slack_ms = ROOMY["units_per_minute"], 250

    # The bucket drains from the first RESERVE on: after its id was made, and before
    # its answer began.
    assert used <= spent - rate * (at - billed[first].first_ms - slack_ms)
    if not books.was_judged_alone(stack):
        assert spent - rate * (at - created_ms(first) + slack_ms) <= used
    assert 0 == books.concurrent(stack, TENANT)
