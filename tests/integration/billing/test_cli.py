"""`tollhouse usage` as a user types it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.command import Done, tollhouse
from tests.integration.billing.conftest import Aggregator
from tests.integration.billing.records import HOUR_MS, Record
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc


def usage(*arguments: str, state_dir: Path | None = None) -> Done:
    where = ("--state-dir", state_dir) if state_dir else ()
    return tollhouse("usage", *where, *arguments)


@pytest.fixture
def state_dir(tmp_path: Path, aggregator: Aggregator) -> Path:
    """A state directory as `tollhouse up` makes it, its path too long for sockets."""
    path = tmp_path / ("long" * 30)
    path.mkdir()
    (path / "run").symlink_to(aggregator.socket_path.parent)
    return path


@pytest.fixture
async def records(ingest: "usage_grpc.UsageIngestServiceAsyncStub") -> list[Record]:
    now = datetime.now(UTC)
    now_ms = int(now.timestamp() * 1000)
    records = [
        Record.make(input=1200, output=34, cached=200, reasoning=4),
        Record.make(kind=2, input=100, output=5),
        Record.make(tenant="zeta", kind=3, input=7, output=0),
        Record.make(made_ms=now_ms - 5 * HOUR_MS, input=1, output=1),
    ]
    batch = usage_pb.UsageBatch(records=[record.to_pb() for record in records])
    await ingest.ReportUsage(usage_pb.ReportUsageRequest(batch=batch))
    return records


def test_json_rows(state_dir: Path, records: list[Record]):
    hour = datetime.fromtimestamp(records[0].ended_ms // HOUR_MS * 3600, UTC)

    answer = usage("--json", "--since", "2h", "--tenant", "acme", state_dir=state_dir)

    expected = {
        "tenant": "acme",
        "model": "tiny-chat",
        "hour": hour.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "input_tokens": 1300,
        "cached_input_tokens": 200,
        "output_tokens": 39,
        "reasoning_tokens": 4,
        "exchanges": {"final": 1, "partial": 1, "abandoned": 0},
    }
    assert [expected] == json.loads(answer.stdout)
    assert 0 == answer.returncode


def test_a_table_for_people(state_dir: Path, records: list[Record]):
    answer = usage(state_dir=state_dir)
    lines = answer.stdout.splitlines()

    assert ["tenant", "model", "hour", "(UTC)", "input"] == lines[0].split()[:5]
    assert 4 == len(lines)
    assert {len(lines[0])} == {len(line) for line in lines}
    assert any("1,300" in line for line in lines)


@pytest.mark.parametrize(
    ("flag", "text"), [("--json", "[]\n"), ("--tenant=x", "no usage\n")]
)
def test_nothing_used(state_dir: Path, flag: str, text: str):
    answer = usage(flag, state_dir=state_dir)

    assert (0, text) == (answer.returncode, answer.stdout)


def test_without_a_gateway_one_clear_line(tmp_path: Path):
    answer = usage(state_dir=tmp_path / "none")

    assert 1 == answer.returncode
    assert "" == answer.stdout
    assert answer.stderr.startswith("error: no gateway runs with the state directory")
    assert 1 == answer.stderr.count("\n")


def test_a_dead_aggregator_is_named(state_dir: Path, aggregator: Aggregator):
    aggregator.kill()
    answer = usage(state_dir=state_dir)

    assert 1 == answer.returncode
    assert "can't be reached" in answer.stderr
    assert 1 == answer.stderr.count("\n")


def test_a_target_goes_before_the_state_directory(
    aggregator: Aggregator, records: list[Record]
):
    answer = usage("--json", "--target", aggregator.target)

    assert 3 == len(json.loads(answer.stdout))


def test_a_time_that_is_none_is_bad_usage(state_dir: Path):
    answer = usage("--since", "soon", state_dir=state_dir)

    assert 2 == answer.returncode
    assert "'soon' is no time" in answer.stderr
