"""`tollhouse reconcile` with the engine's truth log and Envoy's ledger."""

import json
import time
from pathlib import Path

import pytest
import redis

from tests.integration.reconcile.conftest import Reconcile, Rig, settlement
from tollhouse.adapters.redis.billing_keys import BILLING_SHARDS, of_shard
from tollhouse.core.exchange import Settlement
from tollhouse.core.ids import created_ms, exchange_id

HOUR_MS = 3_600_000
FIRST_AT = time.time() - 40 * 3600
"""When the ledger of the tests begins."""


class Files:
    """A truth log, and a ledger of an older file and the one that is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ledger").mkdir()
        self.truth = folder / "truth.jsonl"
        self.old = folder / "ledger" / "ledger.jsonl.1"
        self.ledger = folder / "ledger" / "ledger.jsonl"
        self.truth.touch()
        self.ledger.touch()
        first = exchange_id(int(FIRST_AT * 1000), b"0123456789")
        self.line(first, FIRST_AT, admitted=None, facts=None, to=self.old)

    def generated(
        self, id_: str, input_tokens: int, output_tokens: int, at: float | None = None
    ) -> None:
        line = {
            "id": id_,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "outcome": "completed",
            "at": time.time() - 3600 if at is None else at,
        }
        with self.truth.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def settled(
        self,
        it: Settlement,
        *,
        code: int = 200,
        flags: str = "DF",
        to: Path | None = None,
    ) -> None:
        usage = it.usage
        counts = (
            f"{usage.input_tokens},{usage.output_tokens},"
            f"{usage.cached_input_tokens},{usage.reasoning_tokens}"
        )
        self.line(
            it.exchange_id,
            it.started_ms / 1000,
            admitted=True,
            facts=it.facts.encode().decode(),
            meter=f"sse,9,7,9,{counts},{it.first_ms},{it.ended_ms},{flags},0",
            code=code,
            upstream_host="127.0.0.1:1",
            to=to,
        )

    def line(self, id_: str, started_at: float, *, to: Path | None = None, **more):
        line = {
            "type": "DownstreamEnd",
            "exchange": id_,
            "tenant": "acme",
            "started_at": f"{started_at:.3f}",
            "duration_ms": 400,
            "code": 200,
            **more,
        }
        with (to or self.ledger).open("a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def options(self) -> tuple[str, ...]:
        return (
            *("--engine-log", str(self.truth)),
            *("--ledger", str(self.old), str(self.ledger)),
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_exchanges_that_agree_are_no_difference(
    rig: Rig, files: Files, reconcile: Reconcile
):
    """FINAL to the token, over two files; PARTIAL at most what was generated."""
    whole, cut = settlement(), settlement(output=5)
    files.settled(whole, to=files.old)
    files.settled(cut, flags="")
    files.generated(f"{whole.exchange_id}#0", 10, 4)
    files.generated(f"{whole.exchange_id}#1", 10, 3)
    files.generated(cut.exchange_id, 10, 8)
    files.generated("a-probe", 1, 1)
    await rig.settle(whole, cut)

    answer = reconcile(*files.options)

    assert {"exchanges": 2, "differences": []} == answer.document["engine"]
    assert 0 == answer.status


async def test_each_way_to_differ_is_named(files: Files, reconcile: Reconcile):
    more, less, cut, unserved, failed = (settlement() for _ in range(5))
    files.generated(more.exchange_id, 10, 6, at=FIRST_AT)
    files.settled(more)
    files.generated(less.exchange_id, 10, 8)
    files.settled(less)
    files.generated(cut.exchange_id, 10, 6)
    files.settled(cut, flags="")
    files.settled(unserved)
    files.generated(failed.exchange_id, 10, 6)
    files.settled(failed, code=500)

    answer = reconcile(*files.options)

    expected = {
        (more.exchange_id, "billed more"),
        (less.exchange_id, "billed less"),
        (cut.exchange_id, "billed more"),
        (unserved.exchange_id, "not served"),
    }
    found = answer.document["engine"]["differences"]
    assert expected == {(it["exchange"], it["finding"]) for it in found}
    assert 1 == answer.status
    assert not answer.document["balanced"]


async def test_what_was_served_needs_a_line_or_a_record(
    rig: Rig, files: Files, reconcile: Reconcile, db: redis.Redis
):
    """Envoy died with it and it was reaped: no line, and a record on its way."""
    reaped, waiting, lost, early, just_now = (settlement() for _ in range(5))
    await rig.settle(reaped)
    await rig.carry()
    await rig.settle(waiting)
    files.generated(reaped.exchange_id, 10, 7)
    files.generated(waiting.exchange_id, 10, 7)
    files.generated(lost.exchange_id, 10, 7)
    files.generated(early.exchange_id, 10, 7, at=FIRST_AT - 1)
    files.generated(just_now.exchange_id, 10, 7, at=time.time())

    answer = reconcile(*files.options)

    (it,) = answer.document["engine"]["differences"]
    assert ("not billed", lost.exchange_id) == (it["finding"], it["exchange"])
    assert (0, 7) == (it["billed_output_tokens"], it["generated_output_tokens"])
    # Whose ids are forgotten, nobody can tell any more.
    for number in range(BILLING_SHARDS):
        db.set(of_shard(number, "closed"), created_ms(lost.exchange_id) // HOUR_MS)
    assert [] == reconcile(*files.options).document["engine"]["differences"]


async def test_torn_lines_and_foreign_text_name_no_exchange(
    files: Files, reconcile: Reconcile
):
    good = settlement()
    with files.truth.open("a") as file:
        file.write('{"id": "01\n[1]\n\n')
    with files.ledger.open("a") as file:
        file.write('{"type": "Downst')  # a killed Envoy; the next one appends
    files.settled(good)
    files.generated(good.exchange_id, 10, 7)

    answer = reconcile(*files.options)

    assert {"exchanges": 1, "differences": []} == answer.document["engine"]


async def test_differences_are_shown_to_a_person(files: Files, tollhouse, redis_url):
    less = settlement()
    files.settled(less)
    files.generated(less.exchange_id, 10, 8)

    answer = tollhouse(
        "reconcile", "--redis-url", redis_url, "--wait", "0", *files.options
    )

    head, row, _, summary = answer.stdout.splitlines()
    assert ["FINDING", "EXCHANGE"] == head.split()[:2]
    assert ["billed", "less", less.exchange_id, "acme"] == row.split()[:4]
    assert summary.endswith("engine: 1 exchanges; 1 differences")


@pytest.mark.parametrize("missing", ["truth", "old"])
def test_a_file_that_is_not_there_is_unusable(
    files: Files, tollhouse, redis_url, missing
):
    getattr(files, missing).unlink()

    answer = tollhouse("reconcile", "--redis-url", redis_url, *files.options)

    assert (2, "") == (answer.returncode, answer.stdout)
    assert "No such file" in answer.stderr


async def test_the_files_of_a_state_directory_are_found(
    rig: Rig, files: Files, tollhouse, redis_url: str, billing_folder: Path
):
    """All of it as `tollhouse up` lays it out: Redis, ledger, truth, billing ledger."""
    state = files.folder
    (state / "run").symlink_to(Path(redis_url.removeprefix("unix://")).parent)
    one = settlement()
    files.settled(one, to=files.old)
    files.generated(one.exchange_id, 10, 7)
    await rig.settle(one)
    await rig.carry()
    await rig.seal()
    await rig.ship()

    answer = tollhouse("reconcile", "--state-dir", str(state), "--wait", "0")

    assert (0, "") == (answer.returncode, answer.stderr)
    assert "provider: 3 totals asked" in answer.stdout
    assert answer.stdout.endswith("engine: 1 exchanges; balanced\n")
