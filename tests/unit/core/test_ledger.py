"""What a ledger line means for its exchange."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests import examples
from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.ledger import admission_line, judge, parse
from tollhouse.core.limits import Debit, Measure, Scope
from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

STARTED = 1_700_000_000_123
ID = exchange_id(STARTED + 2, b"0123456789")
FACTS = examples.facts(
    input_estimate=40,
    output_estimate=12,
    debits=(Debit(Scope.KEY, Measure.UNITS, 1000),),
)
NOTHING = TokenUsage()
COUNTED = TokenUsage(
    input_tokens=11, output_tokens=22, cached_input_tokens=3, reasoning_tokens=4
)
BACKEND, METER, ESTIMATE = (
    CountSource.BACKEND,
    CountSource.METER,
    CountSource.ESTIMATE,
)
METERED = "sse,9,7,1,11,22,3,4,1700000000200,1700000000900,DF,0"


def line(**changes):
    values = {
        "type": "DownstreamEnd",
        "exchange": ID,
        "tenant": "acme",
        "key_id": "k",
        "admitted": True,
        "facts": FACTS.encode().decode(),
        "meter": METERED,
        "started_at": "1700000000.123",
        "duration_ms": 1000,
        "code": 200,
        "flags": "-",
        "details": "via_upstream",
        "upstream_cluster": "c",
        "upstream_host": "127.0.0.1:8000",
        "request_id": "r",
        "trace_id": None,
    }
    return json.dumps(values | changes).encode()


def judged(**changes):
    return judge(parse(line(**changes)))


def counts(**changes):
    entry = judged(**changes)
    assert isinstance(entry, Settlement)
    return entry.kind, entry.usage, entry.input_source, entry.output_source


class TestEnd:
    def test_settles_what_was_admitted(self):
        """The end line carries all a record needs."""
        assert (
            Settlement(
                exchange_id=ID,
                facts=FACTS,
                kind=UsageKind.FINAL,
                usage=COUNTED,
                input_source=BACKEND,
                output_source=BACKEND,
                started_ms=STARTED,
                first_ms=1_700_000_000_200,
                ended_ms=STARTED + 1000,
                flags="",
            )
            == judged()
        )

    def test_releases_what_was_not(self):
        """Without `admitted` the reply was lost: all is given back, no record."""
        assert Release(ID, "acme") == judged(admitted=None, facts=None)

    def test_never_ends_before_the_exchange_began(self):
        """A stepped clock must not bill an hour before the id's."""
        entry = judged(started_at="1600000000.000")

        assert STARTED + 2 == entry.ended_ms

    def test_keeps_the_flags(self):
        """Why a stream was cut is part of the record."""
        assert "DC" == judged(flags="DC", meter=METERED.replace("F", "")).flags


class TestKind:
    def test_without_the_meters_end_it_is_partial(self):
        """Client left, upstream reset, time limit, meter error."""
        assert (UsageKind.PARTIAL, COUNTED, BACKEND, BACKEND) == counts(
            meter=METERED.replace("DF", "")
        )

    def test_counts_events_where_no_usage_came(self):
        """Events are a count from below; the input stays estimated."""
        usage = TokenUsage(input_tokens=40, output_tokens=12)

        assert (UsageKind.PARTIAL, usage, ESTIMATE, METER) == counts(
            meter="sse,14,7:5,0,-,-,-,-,1,2,,0"
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"meter": None},
            {"meter": None, "code": 0, "flags": "DC"},
            {"meter": "enc,0,0,0,-,-,-,-,0,0,X,0"},
            {"meter": "json,0,0,0,-,-,-,-,0,0,,0"},
        ],
    )
    def test_before_the_first_token_only_the_input_counts(self, changes):
        """A host was tried, so the prompt was read."""
        usage = TokenUsage(input_tokens=40)

        assert (UsageKind.PARTIAL, usage, ESTIMATE, METER) == counts(**changes)

    @pytest.mark.parametrize(
        "changes",
        [
            {"code": 503, "upstream_host": None, "flags": "UH", "meter": None},
            {"code": 503, "flags": "UF", "meter": None},
            {"code": 503, "flags": "URX,UF", "meter": None},
            {"code": 0, "upstream_host": None, "flags": "DC", "meter": None},
        ],
    )
    def test_without_a_host_nothing_counts(self, changes):
        """No byte reached a backend: zero, and it is a value."""
        assert (UsageKind.FINAL, NOTHING, BACKEND, BACKEND) == counts(**changes)

    @pytest.mark.parametrize("code", [400, 404, 429, 500, 502, 503, 504])
    def test_an_error_is_not_sold(self, code):
        """The backend refused or failed: zero."""
        assert (UsageKind.FINAL, NOTHING, BACKEND, BACKEND) == counts(
            code=code, meter=None
        )

    def test_a_part_is_never_more_than_its_whole(self):
        """Cached and reasoning tokens are subsets; a backend may get that wrong."""
        usage = TokenUsage(
            input_tokens=11,
            output_tokens=22,
            cached_input_tokens=11,
            reasoning_tokens=22,
        )

        assert (UsageKind.FINAL, usage, BACKEND, BACKEND) == counts(
            meter="json,0,0,1,11,22,12,900,0,0,F,0"
        )

    @pytest.mark.parametrize("told", ["{},22,0,-", "11,{},0,-", "11,22,{},-"])
    @pytest.mark.parametrize("digits", [9, 19, 5000])
    def test_a_count_that_cannot_be_is_not_believed(self, told, digits):
        """A broken backend must not end the script that writes the record."""
        usage = TokenUsage(input_tokens=40, output_tokens=7)

        assert (UsageKind.FINAL, usage, ESTIMATE, METER) == counts(
            meter=f"sse,9,7,1,{told.format('9' * digits)},0,0,DF,0"
        )

    @pytest.mark.parametrize(
        ("meter", "expected"),
        [
            ("sse,9,7,1,11,-,3,-,1,2,,0", (11, 7, 3, BACKEND, METER)),
            ("sse,9,7,1,-,22,-,-,1,2,,0", (40, 22, 0, ESTIMATE, BACKEND)),
            ("json,0,0,1,11,-,-,-,0,0,F,0", (11, 0, 0, BACKEND, BACKEND)),
            ("grpc,9,7,1,11,-,-,-,1,2,F,80", (11, 20, 0, BACKEND, ESTIMATE)),
        ],
        ids=["messages, cut off", "output alone", "embeddings", "text alone"],
    )
    def test_takes_each_count_from_whoever_knows_it(self, meter, expected):
        """A backend may tell the input and not the output, or the other way round."""
        _, usage, *sources = counts(meter=meter)

        told = (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)
        assert expected == (*told, *sources)

    @pytest.mark.parametrize(
        ("facts", "tokens"),
        [
            ({"text_bytes": 90, "framing": 10}, 34),
            ({"text_bytes": 0, "framing": 0}, 25),
            ({"text_bytes": 90, "framing": 40}, 25),
            ({"text_bytes": 1, "framing": 0, "input_estimate": 10**8}, 99_999_999),
        ],
        ids=["as in the prompt", "no prompt", "framing alone", "never too many"],
    )
    def test_estimates_the_tokens_of_text_without_counts(self, facts, tokens):
        """A Triton model that counts nothing is billed by the length of its text."""
        facts = msgspec.structs.replace(FACTS, **facts)
        usage = TokenUsage(facts.input_estimate, tokens)

        assert (UsageKind.FINAL, usage, ESTIMATE, ESTIMATE) == counts(
            facts=facts.encode().decode(), meter="grpc,9,7,0,-,-,-,-,1,2,F,100"
        )

    @pytest.mark.parametrize(
        "meter",
        [
            "sse,1,0,0,-,-,-,-,0,0,B,0",
            "json,0,0,1,11,0,-,-,0,0,B,0",
            "grpc,0,0,0,-,-,-,-,0,0,B,0",
        ],
    )
    def test_an_error_in_the_body_is_not_sold_either(self, meter):
        """Who fails with status 200 before any output failed all the same."""
        assert (UsageKind.FINAL, NOTHING, BACKEND, BACKEND) == counts(meter=meter)

    def test_output_before_an_error_is(self):
        """What the client got it pays; the rest is not final."""
        assert (UsageKind.PARTIAL, COUNTED, BACKEND, BACKEND) == counts(
            meter=METERED.replace("F", "B")
        )

    def test_a_zero_of_the_backend_is_a_value(self):
        """An explicit zero is not a missing usage."""
        assert (UsageKind.FINAL, NOTHING, BACKEND, BACKEND) == counts(
            meter="json,0,0,1,0,0,-,-,0,0,F,0"
        )


class TestPeriodic:
    def test_beats_while_it_runs(self):
        """The lease is extended and the counts are checkpointed."""
        assert Beat(
            exchange_id=ID,
            facts=FACTS,
            usage=COUNTED,
            input_source=BACKEND,
            output_source=BACKEND,
            started_ms=STARTED,
            first_ms=1_700_000_000_200,
            at_ms=STARTED + 1000,
        ) == judged(type="DownstreamPeriodic")

    def test_says_nothing_before_admission(self):
        """A held admission has nothing to beat for."""
        entry = judged(type="DownstreamPeriodic", admitted=None, facts=None, meter=None)

        assert entry is None


class TestText:
    @given(st.integers(min_value=1, max_value=len(line()) - 1))
    def test_finds_the_line_behind_a_fragment(self, cut):
        """A killed Envoy leaves half a line; the next one's first line counts."""
        assert parse(line()) == parse(line(code=500)[:cut] + line())

    @pytest.mark.parametrize("raw", [b"", b"{}", b"\x00" * 9, b"[]", line()[:-1]])
    def test_refuses_what_is_no_line(self, raw):
        """Rubbish is reported, never guessed at."""
        with pytest.raises(ProtocolError, match="not a ledger line"):
            parse(raw)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"exchange": "not-an-id"},
            {"started_at": "yesterday"},
            {"meter": "sse,1,2"},
            {"meter": "sse,1,1,1,x,22,-,-,0,0,F,0"},
        ],
    )
    def test_refuses_an_admitted_line_with_a_value_that_is_none(self, wrong):
        """One such line must not end the settler, which reads it again at its start."""
        with pytest.raises(ProtocolError, match="can't be read"):
            judged(**wrong)

    def test_refuses_an_admitted_line_without_facts(self):
        """Nothing could be billed from it: say so instead of billing nobody."""
        with pytest.raises(ProtocolError, match="facts"):
            judged(facts=None)


def test_what_a_worker_writes_is_a_first_beat():
    """Without counts: what is known is the estimate, and when it began."""
    entry = judge(parse(admission_line(ID, FACTS)))

    assert (
        Beat(
            exchange_id=ID,
            facts=FACTS,
            usage=TokenUsage(input_tokens=FACTS.input_estimate),
            input_source=ESTIMATE,
            output_source=METER,
            started_ms=STARTED + 2,
            first_ms=0,
            at_ms=STARTED + 2,
        )
        == entry
    )


def counts_of(facts, **changes):
    return counts(facts=facts.encode().decode(), **changes)


LEFT = {"flags": "DC", "meter": None}


def test_what_runs_on_is_paid_to_its_cap():
    """Triton goes on with it for a client that has left before the answer."""
    facts = examples.facts(
        operation="infer", runs_on=True, choices=2, output_cap=30, output_estimate=20
    )
    capless = structs.replace(facts, output_cap=None)

    kind, usage, _, source = counts_of(facts, code=0, **LEFT)
    assert (kind, usage.output_tokens, source) == (UsageKind.PARTIAL, 60, ESTIMATE)
    assert counts_of(capless, code=0, **LEFT)[1].output_tokens == 20
    assert counts_of(facts)[:2] == (UsageKind.FINAL, COUNTED)
    assert counts_of(facts, flags="UF", code=503)[1] == NOTHING


def test_what_runs_on_is_never_too_much_for_the_books():
    """The texts of a batch are many, and each has the cap."""
    facts = examples.facts(runs_on=True, choices=10**6, output_cap=1024)

    assert counts_of(facts, code=0, **LEFT)[1].output_tokens == 99_999_999


@pytest.mark.parametrize(
    ("meter", "flags", "told", "whole"),
    [
        ("grpc,1,1,1,3,1,-,-,0,0,,9", "DC", 3, "grpc,1,1,1,3,1,-,-,0,0,F,9"),
        ("grpc,1,1,1,3,1,-,-,0,0,,9", "-", 3, "grpc,2,1,1,3,1,-,-,0,0,B,9"),
        ("grpc,1,0,0,-,-,-,-,0,0,B,0", "DC", 0, "grpc,1,0,0,-,-,-,-,0,0,B,0"),
    ],
    ids=["left", "extproc died", "left after an error"],
)
def test_requests_of_a_cut_stream_without_an_answer_are_paid(meter, flags, told, whole):
    """By the estimate: one that was answered, or failed, is not all of them."""
    facts = examples.facts(operation="infer", choices=3, input_estimate=900)
    alone = structs.replace(facts, choices=1)

    kind, usage, source, _ = counts_of(facts, flags=flags, meter=meter)
    assert (kind, usage.input_tokens, source) == (UsageKind.PARTIAL, 900, ESTIMATE)
    assert counts_of(alone, flags=flags, meter=meter)[1].input_tokens == told
    assert counts_of(facts, meter=whole)[1].input_tokens == told
