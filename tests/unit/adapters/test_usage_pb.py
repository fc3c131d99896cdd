"""Usage records on the wire: what the relay writes and the aggregator accepts."""

import pytest
from msgspec.structs import replace

from tollhouse.adapters.usage_pb import (
    from_pb_record,
    from_pb_row,
    to_pb_record,
    to_pb_row,
)
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Debit, Measure, Scope
from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import Facts, TokenUsage, UsageKind
from tollhouse.core.windows import MS_PER_HOUR, Posting, UsageRow
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb

HOUR = 490_000
MADE_MS = HOUR * MS_PER_HOUR + 5
ID = exchange_id(MADE_MS, bytes(range(10)))

FACTS = Facts(
    tenant="acme",
    key_id="abcdefghijkl",
    plan="demo",
    operation="completions",
    requested_model="tiny",
    served_model="tiny-chat",
    cluster="tiny-chat-canary",
    provider="triton",
    weights=(1, 0, 5),
    reserved_units=300,
    input_estimate=40,
    output_estimate=50,
    debits=(Debit(Scope.KEY, Measure.UNITS, 1000),),
)


def entry(**changes: str | None) -> dict[bytes, bytes]:
    """An outbox entry; None takes a field away."""
    fields: dict[str, str | None] = {
        "id": ID,
        "kind": "2",
        "in": "30",
        "out": "20",
        "cached": "10",
        "reasoning": "5",
        "in_src": "1",
        "out_src": "2",
        "started_ms": str(MADE_MS + 1),
        "first_ms": str(MADE_MS + 250),
        "ended_ms": str(MADE_MS + 1999),
        "flags": "DC",
        "facts": FACTS.encode().decode(),
        **changes,
    }
    return {
        name.encode(): value.encode()
        for name, value in fields.items()
        if value is not None
    }


def record(**changes: str | None) -> usage_pb.UsageRecord:
    return to_pb_record(entry(**changes))


def test_an_outbox_entry_keeps_every_fact():
    expected = usage_pb.UsageRecord(
        record_id=ID,
        tenant="acme",
        key_id="abcdefghijkl",
        plan="demo",
        operation_name="text_completion",
        requested_model="tiny",
        served_model="tiny-chat",
        provider_name="triton",
        cluster="tiny-chat-canary",
        kind=usage_pb.USAGE_KIND_PARTIAL,
        usage=usage_pb.TokenUsage(
            input_tokens=30,
            output_tokens=20,
            cached_input_tokens=10,
            reasoning_tokens=5,
        ),
        input_count_source=usage_pb.TOKEN_COUNT_SOURCE_BACKEND,
        output_count_source=usage_pb.TOKEN_COUNT_SOURCE_METER,
        reserved_units=300,
        estimated_input_tokens=40,
        estimated_output_tokens=50,
        end_reason="DC",
    )
    expected.started_at.FromMilliseconds(MADE_MS + 1)
    expected.first_token_at.FromMilliseconds(MADE_MS + 250)
    expected.ended_at.FromMilliseconds(MADE_MS + 1999)

    assert expected == record()


def test_without_a_first_token_there_is_no_time_of_it():
    assert not record(first_ms="0").HasField("first_token_at")


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": None},
        {"ended_ms": None},
        {"facts": "{}"},
        {"in": "many"},
        {"in": str(2**70)},
        {"kind": ""},
    ],
)
def test_half_an_entry_is_no_record(changes: dict[str, str | None]):
    with pytest.raises(ProtocolError, match=r"outbox entry|facts"):
        record(**changes)


def test_a_record_is_counted_in_the_hour_of_its_end():
    ended = (HOUR + 1) * MS_PER_HOUR

    assert from_pb_record(record(ended_ms=str(ended))) == Posting(
        record_id=ID,
        created_hour=HOUR,
        kind=UsageKind.PARTIAL,
        tenant="acme",
        model="tiny-chat",
        hour=HOUR + 1,
        usage=TokenUsage(30, 20, 10, 5),
    )


def test_an_adjustment_may_be_negative():
    adjustment = record(
        **{"id": f"{ID}#adj", "corrects": ID, "kind": "4", "in": "-30", "out": "0"}
    )

    posting = from_pb_record(adjustment)

    assert UsageKind.ADJUSTMENT is posting.kind
    assert HOUR == posting.created_hour
    assert -30 == posting.usage.input_tokens


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "0"}, "kind 0 is not known"),
        ({"kind": "5"}, "kind 5 is not known"),
        ({"in": "-1"}, "out of range"),
        ({"out": str(2**41)}, "out of range"),
        ({"id": "abc"}, "not made of a version 7 UUID"),
        ({"id": ID.upper()}, "not made of a version 7 UUID"),
        ({"id": f"{ID}#adj"}, "not made of a version 7 UUID"),
        ({"id": ID, "kind": "4", "corrects": ID}, "ends with #adj"),
        ({"id": f"{ID}#adj", "kind": "4"}, "corrects_record_id"),
        ({"ended_ms": "0"}, "ended_at"),
        ({"ended_ms": str(MADE_MS + 8 * 24 * MS_PER_HOUR)}, "ended_at"),
    ],
)
def test_what_can_never_be_counted_has_a_reason(
    changes: dict[str, str | None], reason: str
):
    with pytest.raises(ValueError, match=reason):
        from_pb_record(record(**changes))


@pytest.mark.parametrize("name", ["", "a|b", "{b1}", "Acme", "a" * 65, "-a", "a\n"])
def test_names_that_would_move_a_key_are_refused(name: str):
    """A bar would end the name inside a key, a brace move it to another slot."""
    broken = record()
    broken.tenant = name
    with pytest.raises(ValueError, match="tenant"):
        from_pb_record(broken)


@pytest.mark.parametrize(
    ("trace", "kept"),
    [
        ("", ""),
        (f"00-{'a' * 32}-{'b' * 16}-00", ""),
        (f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01"),
        ("somebody's", ""),
    ],
)
def test_where_an_exchange_stands_goes_along(trace: str, kept: str):
    """What is counted keeps it only where somebody will look at the trace."""
    facts = replace(FACTS, trace=trace)
    told = record(facts=facts.encode().decode())

    assert trace == told.traceparent
    assert kept == from_pb_record(told).trace


def test_rows_come_back_as_they_went():
    row = UsageRow("acme", "tiny-chat", HOUR, TokenUsage(4, 3, 2, 1), 7, 8, 9)

    assert row == from_pb_row(to_pb_row(row))
