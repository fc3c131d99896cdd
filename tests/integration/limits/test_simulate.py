"""`tollhouse limits simulate`: the figures, and that they are the scripts' own."""

import asyncio
import io
import json
import random
import sys

import pytest
import redis

from tollhouse.cli.__main__ import main
from tollhouse.cli.simulation import Reserving, simulate
from tollhouse.core.buckets import GRAINS, correct, drain
from tollhouse.core.catalog import Weights
from tollhouse.core.setting import Setting, simulated_model
from tollhouse.core.workload import Synthetic

WEIGHTS = Weights(input=1, output=5)


@pytest.fixture
def run(capsys):
    """Run the command; status, standard output and standard error."""

    def simulate(*options: str) -> tuple[int, str, str]:
        status = main(["limits", "simulate", *options])
        return status, *capsys.readouterr()

    return simulate


@pytest.fixture
def figures(run):
    """Run the command; its JSON, and the policies in it by name."""

    def simulate(*options: str):
        status, out, err = run(*options, "--json")
        assert (0, "") == (status, err)
        shown = json.loads(out)
        return shown, {it["policy"]: it for it in shown["policies"]}

    return simulate


@pytest.mark.parametrize("seed", range(3))
def test_learned_keeps_its_promises(figures, seed):
    """On the default workload, whichever is drawn."""
    _, policies = figures(
        *("--synthetic", "--seed", str(seed), "--policy", "learned"),
    )
    learned = policies["learned"]

    assert ["learned"] == list(policies)
    assert learned["utilisation"] >= 0.90
    assert learned["overshoot"] <= 0.01
    assert learned["false_refusals"] <= 0.02


def test_learned_at_the_smallest_limit_promised(figures):
    """500 requests a minute, which is where single ones begin to matter."""
    shown, policies = figures(
        *("--synthetic", "--limit", "760000", "--policy", "learned"),
    )
    learned = policies["learned"]

    assert 490 < shown["limit"] / shown["mean_units"] < 530
    assert learned["utilisation"] >= 0.90
    assert learned["overshoot"] <= 0.01
    assert learned["false_refusals"] <= 0.02


def test_policies_beside_each_other(figures):
    """What each is known for; the same draw gives the same figures."""
    options = (
        *("--synthetic", "--minutes", "2", "--limit", "200000"),
        *("--load", "2", "--clients", "200"),
    )
    shown, policies = figures(*options)

    assert (shown, policies) == figures(*options)
    assert ["charge-after", "reserve-max", "learned"] == list(policies)
    assert {"policy", "admitted", "utilisation", "overshoot", "false_refusals"} == (
        policies["learned"].keys()
    )
    assert (200_000, 33_333, 1) == (shown["limit"], shown["burst"], shown["limits"])
    assert 110 < shown["seconds"] <= 120
    assert policies["charge-after"]["overshoot"] > 0.05
    assert 0.0 == policies["reserve-max"]["overshoot"]
    assert policies["reserve-max"]["utilisation"] < policies["learned"]["utilisation"]


@pytest.mark.parametrize("policy", Reserving)
def test_charges_are_those_of_the_scripts(redis_url, policy):
    """What is counted here is what is in Redis' bucket, all along."""
    arrivals = Synthetic().draw(
        random.Random(1), units=200_000, minutes=1, weights=WEIGHTS
    )
    setting = Setting(arrivals, 150_000, 10.0, simulated_model(WEIGHTS, 8192))
    seen: dict[int, int] = {}

    with redis.Redis.from_url(redis_url, decode_responses=True) as client:

        def look(_came):
            for key in client.keys("*:bucket:*:units"):
                used, at_ms = map(int, client.get(key).split())
                seen[at_ms - 1_800_000_000_000] = used

        result = asyncio.run(simulate(redis_url, setting, policy, look))
    (charges,) = result.charges
    expected: dict[int, int] = {}
    used = before_ms = 0
    for at_ms, units in charges:
        used = correct(drain(used, 150_000, at_ms - before_ms), units * GRAINS)
        expected[at_ms] = used
        before_ms = at_ms

    assert len(seen) >= 2
    assert seen == {at_ms: expected[at_ms] for at_ms in seen}
    assert 0 < result.figures.admitted < result.figures.offered


def test_twenty_at_once(figures, tmp_path):
    """Answers were short elsewhere: that is enough to admit what really fits.

    A limit of 1,000 tokens a minute, a full bucket; caps of 200, answers of 32.
    """
    request = {"input": 10, "output": 32, "max_tokens": 200, "seconds": 1.0}
    lines = [request | {"at": 6 * at, "tenant": "elsewhere"} for at in range(50)]
    lines += [request | {"at": 400, "tenant": "acme"}] * 20
    limits = ("--limit", "1000", "--burst-seconds", "60", "--weights", "1:1")
    _, policies = figures("--trace", write(tmp_path, lines), *limits)

    assert policies["learned"]["admitted"] >= 50 + 18
    assert policies["reserve-max"]["admitted"] < 50 + 8


def test_a_trace_of_several_tenants_and_models(figures, tmp_path):
    """Each of them has the limit once; cuts both ways: nobody takes another's."""
    request = {"input": 0, "output": 100, "max_tokens": 100, "seconds": 0.5}
    lines = [
        {**request, "at": at, "tenant": tenant, "model": model}
        for at in (0, 30)
        for tenant, model in (("a", "m1"), ("a", "m2"), ("b", "m1"))
    ]
    lines.append({**request, "at": 30, "tenant": "b", "model": "m1"})
    shown, policies = figures(
        *("--trace", write(tmp_path, lines), "--limit", "1000"),
        *("--burst-seconds", "30", "--policy", "reserve-max"),
    )

    assert 3 == shown["limits"]
    assert {
        "policy": "reserve-max",
        "admitted": 6,
        "utilisation": 2.0,  # 500 of each, and 500 more from the burst
        "overshoot": 0.0,
        "false_refusals": 0.0,
    } == policies["reserve-max"]


def test_a_silent_trace_takes_no_time(figures, tmp_path):
    """Requests may be years apart, as where a clock was wrong."""
    request = {"input": 1, "output": 1}
    lines = [request | {"at": 0}, request | {"at": 1_800_000_000}]
    shown, policies = figures(
        *("--trace", write(tmp_path, lines), "--limit", "100000"),
        *("--policy", "learned", "--policy", "learned"),
    )

    assert 1_800_000_000 == shown["seconds"]
    assert 2 == policies["learned"]["admitted"]
    assert 1 == len(shown["policies"])


def test_table(run):
    """Workload and limit in one line, then a line per policy."""
    status, out, err = run(
        *("--synthetic", "--minutes", "0.5", "--limit", "50000"),
        *("--policy", "learned", "--policy", "charge-after"),
    )
    said, header, *lines = out.splitlines()

    assert (0, "") == (status, err)
    assert "50,000 units per minute" in said
    assert ["POLICY", "OFFERED", "ADMITTED", "UTILISATION", "OVERSHOOT"] == (
        header.split()[:5]
    )
    assert ["learned", "charge-after"] == [line.split()[0] for line in lines]
    assert {6} == {len(line.split()) for line in lines}


def test_a_run_shorter_than_the_burst_says_so(run, tmp_path):
    """One request is admitted from the burst: of no limit it uses a million percent."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at": 1, "input": 812, "output": 143}\n')
    status, out, err = run("--trace", str(trace), "--limit", "100000")

    assert 0 == status
    assert "POLICY" in out
    assert err.startswith("warning: all requests come within ")


def test_progress_is_for_terminals(monkeypatch, run):
    """It is drawn over and over in one line, to the end."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    run("--synthetic", "--minutes", "0.5", "--policy", "learned")
    first, *_, last = terminal.getvalue().lstrip("\r").split("\r")

    assert first.split()[0] == "learned"
    assert "100%\n" == last[-5:]


def test_plot(run, tmp_path):
    """A picture of what was simulated; the same one every time."""
    options = ("--synthetic", "--minutes", "0.5")
    one, other, small = (tmp_path / name for name in ("a.svg", "b.svg", "c.png"))
    for path in (one, other, small):
        assert 0 == run(*options, "--plot", str(path))[0]
    text = one.read_text()

    assert one.read_bytes() == other.read_bytes()
    for words in ("charge-after", "learned", "burst + limit", "false refusals"):
        assert words in text
    assert small.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ('{"at": 0}', ("--limit", "1"), ":1: Object missing required field `input`"),
        ("\n", ("--limit", "1"), ": has no request"),
        (None, ("--limit", "1"), ": No such file or directory"),
        ("{}", (), "--trace needs --limit"),
        (
            '{"at": 0, "input": 1, "output": 1}',
            ("--limit", "1", "--plot", "/nowhere/a.svg"),
            "--plot /nowhere/a.svg: No such file or directory",
        ),
    ],
)
def test_what_cannot_be_used(run, tmp_path, content, options, said):
    """One line for each fault, before anything runs where that is possible."""
    trace = tmp_path / "trace.jsonl"
    if content is not None:
        trace.write_text(content)
    status, out, err = run("--trace", str(trace), *options)

    assert (2, "") == (status, out)
    assert err.startswith("error: ")
    assert said in err


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--synthetic", "--trace", "a"),
        ("--synthetic", "--limit", "0"),
        ("--synthetic", "--load", "-1"),
        ("--synthetic", "--load", "x"),
        ("--synthetic", "--burst-seconds", "3601"),
        ("--synthetic", "--policy", "strict"),
        ("--synthetic", "--weights", "1:0"),
        ("--synthetic", "--plot", "a.pdf"),
    ],
)
def test_command_lines_that_mean_nothing(run, options):
    """They end with status 2."""
    with pytest.raises(SystemExit) as ended:
        run(*options)

    assert 2 == ended.value.code


def write(folder, lines):
    """A trace file."""
    path = folder / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)
