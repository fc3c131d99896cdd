"""What is measured of ended exchanges, and that little of it can grow."""

import pytest

from tests import examples
from tests.measured import Measured
from tollhouse.adapters.exchange_metrics import ExchangeMetrics
from tollhouse.core.ending import Ending, Outcome, reaped
from tollhouse.core.exchange import abandoned
from tollhouse.core.ledger import Line
from tollhouse.core.usage import TokenUsage, UsageKind

AT_MS = 1_800_000_000_000
FACTS = examples.facts(
    requested_model="m-1", served_model="m-2", reserved_units=120, operation="messages"
)
SETTLED = examples.settlement(
    AT_MS, facts=FACTS, usage=TokenUsage(10, 5, 4, 2), first_ms=AT_MS + 200
)
GEN_AI = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "triton",
    "gen_ai.request.model": "m-1",
    "gen_ai.response.model": "m-2",
}


def ending(outcome=Outcome.COMPLETED, error="", settlement=SETTLED, tenant="acme"):
    line = Line("DownstreamEnd", "id", tenant, "1800000000.000", 1000, 200)
    return Ending("id", tenant, outcome, error, line, settlement)


@pytest.fixture
def measured():
    return Measured()


def test_a_whole_answer(measured):
    """1 s, the first of 5 tokens after 0.2 s; units by weight: 6 + 4 × 0 + 5 × 5."""
    ExchangeMetrics(measured.provider).ended(ending())

    of_tenant = {"tenant": "acme", "model": "m-2"}
    of_plan = {"model": "m-2", "plan": "demo"}
    assert {
        "gen_ai.server.request.duration": [(GEN_AI, 1.0)],
        "gen_ai.server.time_to_first_token": [(GEN_AI, 0.2)],
        "gen_ai.server.time_per_output_token": [(GEN_AI, 0.2)],
        "gen_ai.client.token.usage": [
            ({**GEN_AI, "gen_ai.token.type": "input"}, 10),
            ({**GEN_AI, "gen_ai.token.type": "output"}, 5),
        ],
        "tollhouse.tokens": [
            ({**of_tenant, "type": "input"}, 10),
            ({**of_tenant, "type": "cached_input"}, 4),
            ({**of_tenant, "type": "output"}, 5),
            ({**of_tenant, "type": "reasoning"}, 2),
        ],
        "tollhouse.exchanges": [({**of_tenant, "outcome": "completed"}, 1)],
        "tollhouse.settlements": [
            ({"model": "m-2", "kind": "final", "source": "ledger"}, 1)
        ],
        "tollhouse.units": [
            ({**of_plan, "state": "reserved"}, 120),
            ({**of_plan, "state": "settled"}, 31),
        ],
    } == measured.points()


def test_a_failure_is_named_and_has_no_tokens(measured):
    """Of one that produced nothing there is a duration, for the error rate."""
    nothing = examples.settlement(AT_MS, facts=FACTS)
    failed = ending(Outcome.FAILED, "503", nothing)
    ExchangeMetrics(measured.provider).ended(failed)

    points = measured.points()
    assert [({**GEN_AI, "error.type": "503"}, 1.0)] == points[
        "gen_ai.server.request.duration"
    ]
    assert "gen_ai.client.token.usage" not in points
    assert "tollhouse.tokens" not in points


def test_one_that_was_never_admitted_is_of_no_model(measured):
    ExchangeMetrics(measured.provider).ended(ending(Outcome.REFUSED, "429", None))

    refused = {"tenant": "acme", "model": "", "outcome": "refused"}
    assert {"tollhouse.exchanges": [(refused, 1)]} == measured.points()


def test_a_reaped_one_keeps_its_units_and_has_no_duration(measured):
    settlement = abandoned(SETTLED.exchange_id, FACTS, None)
    ExchangeMetrics(measured.provider).ended(reaped(settlement))

    points = measured.points()
    of_plan = {"model": "m-2", "plan": "demo"}
    assert [
        ({**of_plan, "state": "reserved"}, 120),
        ({**of_plan, "state": "abandoned"}, 120),
    ] == points["tollhouse.units"]
    assert [({"model": "m-2", "kind": "abandoned", "source": "reap"}, 1)] == points[
        "tollhouse.settlements"
    ]
    assert not [name for name in points if name.startswith("gen_ai.server")]


def test_the_prescribed_buckets(measured):
    """Of the conventions, so that others' dashboards fit."""
    ExchangeMetrics(measured.provider).ended(ending())

    bounds = {
        name: metric.data.data_points[0].explicit_bounds
        for name, metric in measured.metrics().items()
        if name.startswith("gen_ai")
    }
    ends = {name: (it[0], it[-1], len(it)) for name, it in bounds.items()}
    assert {
        "gen_ai.server.request.duration": (0.01, 81.92, 14),
        "gen_ai.server.time_to_first_token": (0.001, 10.0, 16),
        "gen_ai.server.time_per_output_token": (0.01, 2.5, 13),
        "gen_ai.client.token.usage": (1, 67_108_864, 14),
    } == ends


def test_tenants_make_a_bounded_number_of_series(measured):
    """The rest is `other`; nothing is lost of the sum."""
    metrics = ExchangeMetrics(measured.provider)
    for number in range(300):
        metrics.ended(ending(tenant=f"t{number}"))

    points = measured.points()
    counts = {names["tenant"]: it for names, it in points["tollhouse.exchanges"]}
    assert (101, 200, 300) == (len(counts), counts["other"], sum(counts.values()))
    assert not [
        name
        for name, its in points.items()
        for names, _ in its
        if name.startswith("gen_ai") and "tenant" in str(names)
    ]


def test_partial_answers_count_what_was_seen(measured):
    partial = examples.settlement(
        AT_MS, facts=FACTS, usage=TokenUsage(10, 3), kind=UsageKind.PARTIAL
    )
    left = ending(Outcome.LEFT, settlement=partial)
    ExchangeMetrics(measured.provider).ended(left)

    points = measured.points()
    kinds = [names["kind"] for names, _ in points["tollhouse.settlements"]]
    assert ["partial"] == kinds
    assert [(GEN_AI, 1.0)] == points["gen_ai.server.request.duration"]
