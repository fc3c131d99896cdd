"""Workloads: what a trace may say, and what synthetic requests are like."""

import random
import statistics

import pytest

from tollhouse.core.catalog import Weights
from tollhouse.core.workload import Arrival, Synthetic, mean_units, parse_trace

WEIGHTS = Weights(input=1, output=5)


def draw(seed=0, units=2_000_000, minutes=10.0, **shape):
    return Synthetic(**shape).draw(
        random.Random(seed), units=units, minutes=minutes, weights=WEIGHTS
    )


def test_trace_is_sorted_and_has_defaults():
    """Lines come in any order; what is left out has a default."""
    arrivals = parse_trace(
        [
            b'{"at": 2, "input": 10, "output": 100}\n',
            b"\n",
            b"""{"at": 1.5, "input": 1, "output": 0, "max_tokens": 5, "seconds": 3,
            "tenant": "other", "model": "llama-3/8b"}""",
        ],
        "t.jsonl",
    )

    assert [1.5, 2.0] == [it.at for it in arrivals]
    assert ("other", "llama-3/8b", 5, 3.0) == (
        *(arrivals[0].tenant, arrivals[0].model),
        *(arrivals[0].max_tokens, arrivals[0].duration),
    )
    assert (None, 1.54) == (arrivals[1].max_tokens, arrivals[1].duration)
    assert 510 == arrivals[1].units(WEIGHTS)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "t.jsonl:2: Input data was truncated"),
        (b"[]", "t.jsonl:2: Expected `object`, got `array`"),
        (b'{"at": 0, "input": 1}', "t.jsonl:2: Object missing required field `output`"),
        (
            b'{"at": 0, "input": 1, "output": 1, "outputs": 2}',
            "unknown field `outputs`",
        ),
        (b'{"at": -1, "input": 1, "output": 1}', "`float` >= 0.0 - at `$.at`"),
        (b'{"at": 0, "input": 1.5, "output": 1}', "got `float` - at `$.input`"),
        (b'{"at": 0, "input": 1, "output": 2, "max_tokens": 1}', "above `max_tokens`"),
        (b'{"at": 0, "input": 1, "output": 1, "tenant": "A"}', "at `$.tenant`"),
        (b'{"at": 0, "input": 1, "output": 1, "model": "{x}"}', "at `$.model`"),
        (b'{"at": 0, "input": 1, "output": 1, "model": "\xff"}', "t.jsonl:2: "),
    ],
)
def test_a_fault_is_named_with_its_line(line, fault):
    """File and line, and what is wrong there."""
    with pytest.raises(ValueError, match=r"^t\.jsonl:2: ") as caught:
        parse_trace([b'{"at": 0, "input": 1, "output": 1}', line], "t.jsonl")

    assert fault in str(caught.value)


def test_all_faults_are_told_up_to_ten():
    """An operator edits once, and is not flooded."""
    with pytest.raises(ValueError, match="a:1") as caught:
        parse_trace([b"x"] * 12, "a")
    lines = str(caught.value).splitlines()

    assert (11, "a: 2 more lines are not right") == (len(lines), lines[-1])


def test_an_empty_trace_is_refused():
    """There is nothing to divide by."""
    with pytest.raises(ValueError, match=r"^a: has no request$"):
        parse_trace([b"\n"], "a")


def test_output_comes_at_a_steady_pace():
    """Nothing before the first token, all at the end, never more."""
    arrival = Arrival(at=0, input=1, output=1000, seconds=10.0)

    assert 0 == arrival.output_after(0.04)
    assert 497 == arrival.output_after(5.0)
    assert 1000 == arrival.output_after(10.0)
    assert 1000 == arrival.output_after(11.0)


def test_the_same_seed_draws_the_same():
    """And another one something else."""
    assert draw(seed=1) == draw(seed=1)
    assert draw(seed=1) != draw(seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn(seed):
    """As much as asked for, over the whole time, with a heavy tail and honest caps."""
    arrivals = draw(seed=seed, units=10_000_000)
    outputs = sorted(it.output for it in arrivals)
    median = statistics.median(outputs)
    largest = max(it.units(WEIGHTS) for it in arrivals)
    total = mean_units(arrivals, WEIGHTS) * len(arrivals)

    assert 10_000_000 <= total < 10_000_000 + largest
    assert [it.at for it in arrivals] == sorted(it.at for it in arrivals)
    assert 0 <= arrivals[0].at < 5
    assert 595 < arrivals[-1].at <= 600
    assert 85 < median < 115
    assert 4 < outputs[len(outputs) * 9 // 10] / median < 7
    assert outputs[-1] > 50 * median
    assert all(it.output <= (it.max_tokens or 8192) for it in arrivals)
    uncapped = sum(it.max_tokens is None for it in arrivals) / len(arrivals)
    assert 0.35 < uncapped < 0.45


def test_crowds_come_together():
    """All clients of a crowd within its seconds; the load stays what it was."""
    arrivals = draw(clients=200, crowds=0.1, crowd_seconds=1.0)
    most = max(
        sum(first.at <= it.at <= first.at + 1.0 for it in arrivals)
        for first in arrivals
    )
    quiet = draw(clients=1, crowds=0.1)

    assert 200 <= most < 230
    assert len(quiet) == len(arrivals)


def test_more_in_crowds_than_there_is():
    """Then all come in crowds, and no more than were drawn."""
    arrivals = draw(units=20_000, clients=1000, crowds=5.0)

    assert 20_000 <= mean_units(arrivals, WEIGHTS) * len(arrivals) < 80_000
