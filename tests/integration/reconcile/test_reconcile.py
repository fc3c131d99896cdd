"""`tollhouse reconcile` over real books: balanced, and each equation broken once."""

import json
import time

import pytest
import redis

from tests.integration.reconcile.conftest import (
    HOUR,
    Reconcile,
    Rig,
    Run,
    settlement,
)
from tests.metric_receiver import metric_receiver
from tollhouse.adapters.redis import billing_keys, shards
from tollhouse.core.chunk import Window
from tollhouse.core.reconciliation import Finding
from tollhouse.core.windows import TokenType

OUTPUT = Window("acme", "tiny-chat", TokenType.OUTPUT, HOUR)
WINDOW = billing_keys.window(OUTPUT)
CHUNK = billing_keys.chunk(OUTPUT, 1)
SETTLED = shards.settled(shards.shard("acme"), "acme", HOUR)
BILLING = billing_keys.shard("acme")
BILLED = ("uncached_input", "cached_input", "output")


def of_billing(name: str) -> str:
    return billing_keys.of_shard(BILLING, name)


@pytest.fixture
async def everywhere(rig: Rig) -> Rig:
    """Tokens in every place there is: shipped, open, unsealed, refused, outbox."""
    await rig.settle(settlement(), settlement("zeta", model="m/2"))
    await rig.carry()
    await rig.seal()
    await rig.ship()
    await rig.settle(settlement(output=3))
    await rig.carry()
    await rig.seal()
    await rig.settle(settlement(output=5))
    await rig.carry(refused="of another age")
    await rig.settle(settlement(output=11))
    await rig.carry()
    await rig.settle(settlement(output=13))
    return rig


def test_tokens_in_every_place_balance(everywhere: Rig, reconcile: Reconcile):
    answer = reconcile()

    assert (0, []) == (answer.status, answer.document["differences"])
    assert answer.document["balanced"]
    expected = {
        "rows": 2,
        "exchanges": 5,
        "outbox": 10 + 13,
        "refused": 10 + 5,
        "unsealed": 10 + 11,
        "under_way": 10 + 3,
        "accepted": 17 + 17,
        "parked": 0,
        "not_covered": 0,
    }
    assert expected == {it: answer.document["summary"][it] for it in expected}
    assert 6 == answer.document["provider"]["totals_asked"]


def test_nothing_at_all_balances(reconcile: Reconcile):
    answer = reconcile()

    assert (0, 0) == (answer.status, answer.document["summary"]["rows"])


async def test_adjustments_balance_wherever_they_are(rig: Rig, reconcile: Reconcile):
    """Signed differences, in the hour of the record that they correct."""
    first = settlement()
    await rig.settle(first)
    key = shards.exchange(shards.shard("acme"), first.exchange_id)
    counts = b"10 7 4 2 1 1 %d 0 %d" % (first.started_ms, first.ended_ms)
    await rig.gateway.call("SET", key, b"A 0 0\n" + counts + b"\n" + b"{}")
    late = settlement(output=5, input_tokens=4, cached=4)
    await rig.settle(
        type(first)(
            **{
                **{it: getattr(first, it) for it in first.__dataclass_fields__},
                "usage": late.usage,
            }
        )
    )

    assert 0 == reconcile().status
    await rig.carry()
    answer = reconcile()
    assert 0 == answer.status
    assert 1 == answer.document["summary"]["exchanges"]
    assert 4 + 5 == answer.document["summary"]["tokens"]


async def test_what_is_in_the_windows_and_the_outbox_counts_once(
    rig: Rig, reconcile: Reconcile, db: redis.Redis
):
    """A relay died before it forgot what the aggregator had acknowledged."""
    await rig.settle(settlement(), settlement())
    await rig.carry(forgets=False)

    answer = reconcile()
    assert (0, 0) == (answer.status, answer.document["summary"]["outbox"])
    db.hincrby(WINDOW, "total", -1)

    assert {("missing", "output")} == reconcile().findings


# --- each equation, broken by hand ----------------------------------------------


async def test_a_record_lost_on_the_way_is_found(rig: Rig, reconcile: Reconcile):
    await rig.settle(settlement())
    await rig.carry(applies=False)

    answer = reconcile()

    assert 1 == answer.status
    assert {"missing"} == {finding for finding, _ in answer.findings}
    (output,) = (it for it in answer.document["differences"] if it["of"] == "output")
    assert ("acme", "tiny-chat", 7, 0) == (
        output["tenant"],
        output["model"],
        output["expected"],
        output["found"],
    )


async def test_a_ledger_that_is_read_again_too_late_is_a_question(
    rig: Rig, reconcile: Reconcile, db: redis.Redis
):
    """The gateway settled it twice; the aggregator counted it once."""
    once = settlement()
    await rig.settle(once)
    db.delete(shards.exchange(shards.shard("acme"), once.exchange_id))
    await rig.settle(once)
    await rig.carry()

    answer = reconcile()

    assert 1 == answer.status
    assert {"replayed?"} == {finding for finding, _ in answer.findings}


def break_total(db: redis.Redis) -> None:
    db.hincrby(WINDOW, "total", 1)


def break_settled(db: redis.Redis) -> None:
    db.hincrby(SETTLED, "tiny-chat|output", -1)


def break_line(db: redis.Redis) -> None:
    db.delete(of_billing("unsealed"))


def break_time(db: redis.Redis) -> None:
    row = billing_keys.row_name("acme", HOUR, "tiny-chat")
    db.zadd(of_billing("unsealed"), {row: time.time() - 3700})


def break_list(db: redis.Redis) -> None:
    db.delete(of_billing("rows"))


def break_open(db: redis.Redis) -> None:
    db.zrem(of_billing("open"), f"{OUTPUT.name}|2")


def break_open_chunk(db: redis.Redis) -> None:
    db.delete(billing_keys.chunk(OUTPUT, 2))


def break_sealed(db: redis.Redis) -> None:
    db.hincrby(WINDOW, "sealed", 1)


def break_accepted(db: redis.Redis) -> None:
    db.hincrby(WINDOW, "accepted", 1)


def break_discarded(db: redis.Redis) -> None:
    db.hincrby(WINDOW, "discarded", 1)


def break_parked(db: redis.Redis) -> None:
    db.hincrby(WINDOW, "parked", 1)


def break_sent_chunk(db: redis.Redis) -> None:
    db.hset(CHUNK, "value", 8)


@pytest.mark.parametrize(
    ("break_", "expected"),
    [
        # One token in a window that nobody settled: as good as a record applied twice.
        (break_total, {("surplus", "output")}),
        (break_settled, {("surplus", "output")}),
        (break_line, {("unqueued", it) for it in BILLED}),
        (break_time, {("overdue", it) for it in BILLED}),
        (break_list, {("unlisted", "exchanges")}),
        (break_open, {("chunks", "output"), ("stuck", "output")}),
        (break_open_chunk, {("chunks", "output"), ("stuck", "output")}),
        (break_sealed, {("chunks", "output")}),
        (break_accepted, {("chunks", "output"), ("accepted", "output")}),
        (break_discarded, {("chunks", "output")}),
        (break_parked, {("parked", "output")}),
        (break_sent_chunk, {("accepted", "output"), ("provider less", "output")}),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
async def test_each_corruption_is_named(
    everywhere: Rig, reconcile: Reconcile, db: redis.Redis, break_, expected
):
    break_(db)

    answer = reconcile()

    assert 1 == answer.status
    found = {
        (it["finding"], it["of"])
        for it in answer.document["differences"]
        if it["tenant"] == "acme"
    }
    assert expected == found


async def test_a_line_that_vanished_from_the_billing_ledger_is_found(
    everywhere: Rig, reconcile: Reconcile, billing_folder
):
    (path,) = billing_folder.glob("usage-*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    gone = next(
        it
        for it in lines
        if json.loads(it)["data"]["tenant"] == "acme"
        and json.loads(it)["data"]["token_type"] == "output"
    )
    path.write_text("".join(it for it in lines if it != gone))

    answer = reconcile()

    assert (1, {("provider less", "output")}) == (answer.status, answer.findings)
    (it,) = answer.document["differences"]
    assert (7, 0) == (it["expected"], it["found"])


async def test_a_line_that_nobody_sent_is_found(
    everywhere: Rig, reconcile: Reconcile, billing_folder
):
    (path,) = billing_folder.glob("usage-*.jsonl")
    event = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(json.dumps({**event, "id": "th1_00_other"}) + "\n")

    answer = reconcile()

    assert 1 == answer.status
    assert {"provider more"} == {finding for finding, _ in answer.findings}


# --- scope -----------------------------------------------------------------------


async def test_a_tenant_and_a_time_narrow_what_is_compared(
    everywhere: Rig, reconcile: Reconcile, db: redis.Redis
):
    break_total(db)

    assert 1 == reconcile("--tenant", "acme").status
    assert 0 == reconcile("--tenant", "zeta").status
    assert 1 == reconcile("--since", "40h").status
    later = reconcile("--since", "20h")
    assert (0, 0) == (later.status, later.document["summary"]["rows"])


async def test_rows_older_than_the_settled_sums_are_not_covered(
    rig: Rig, reconcile: Reconcile, db: redis.Redis
):
    """Their sums are gone, and that is no difference; the rest is still compared."""
    old = HOUR - 41 * 24
    await rig.settle(settlement(hour=old))
    await rig.carry()
    await rig.seal()
    await rig.ship()
    db.delete(shards.settled(shards.shard("acme"), "acme", old))

    answer = reconcile("--since", "60d")

    assert (0, 1) == (answer.status, answer.document["summary"]["not_covered"])
    window = Window("acme", "tiny-chat", TokenType.OUTPUT, old)
    db.hincrby(billing_keys.window(window), "sealed", 1)
    assert ("chunks", "output") in reconcile("--since", "60d").findings
    assert 0 == reconcile().status


async def test_what_an_operator_dropped_still_balances(
    everywhere: Rig, reconcile: Reconcile, tollhouse: Run, redis_url: str
):
    where = ("--redis-url", redis_url)
    listed = tollhouse("billing", "parked", "records", "--json", *where)
    (record,) = json.loads(listed.stdout)["records"]
    dropped = tollhouse(
        *("billing", "parked", "records", "discard", record["id"]),
        *("--why", "by hand", *where),
    )

    answer = reconcile()

    assert 0 == dropped.returncode
    assert (0, 15) == (answer.status, answer.document["summary"]["dropped"])


# --- output ----------------------------------------------------------------------


async def test_a_person_reads_one_line_or_the_differences(
    everywhere: Rig, tollhouse: Run, redis_url: str, db: redis.Redis
):
    arguments = ("reconcile", "--redis-url", redis_url, "--wait", "0")
    balanced = tollhouse(*arguments)
    break_total(db)
    broken = tollhouse(*arguments)
    everything = tollhouse(*arguments, "--all")

    (line,) = balanced.stdout.splitlines()
    assert line.startswith("2 rows checked: 5 exchanges")
    assert line.endswith("provider not asked: ledger; balanced")
    head, row, empty, summary = broken.stdout.splitlines()
    assert head.split()[:2] == ["FINDING", "TENANT"]
    assert row.split()[:2] == ["surplus", "acme"]
    assert row.split()[-1] == "+1"
    assert ("", True) == (empty, summary.endswith("1 differences"))
    assert 6 + 1 + 1 + 4 == len(everything.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--redis-url", "unix:///nowhere.sock"), "Redis can't be reached"),
        (("--redis-url", "ftp://x"), "a Redis URL starts with"),
        (("--state-dir", "/nowhere"), "no gateway runs on /nowhere"),
        (("--tenant", "A"), "tenant"),
        (("--ledger", "x"), "name both"),
        (("--stripe-key-file", "x"), "is for --provider"),
        (("--billing-ledger", "/nowhere"), "is no directory"),
        (("--since", "soon"), "is no time"),
        (("--wait", "-1"), "--wait"),
    ],
)
def test_what_can_not_be_found_out_is_another_status(
    tollhouse: Run, redis_url: str, arguments, text
):
    where = (
        ()
        if arguments[0] in ("--redis-url", "--state-dir")
        else (
            "--redis-url",
            redis_url,
        )
    )

    answer = tollhouse("reconcile", *where, *arguments)

    assert 2 == answer.returncode
    assert text in answer.stderr


async def test_a_provider_that_can_not_be_asked_is_no_pass(
    everywhere: Rig, tollhouse: Run, redis_url: str
):
    answer = tollhouse("reconcile", "--redis-url", redis_url, "--provider")

    assert 2 == answer.returncode
    assert "chunks were sent to ledger" in answer.stderr


async def test_what_differs_is_exported_for_alerts(
    rig: Rig, reconcile: Reconcile, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    """Every finding has a value, so that it comes back to 0; of all tenants only."""
    await rig.settle(settlement(output=7))
    db.delete(shards.outbox(shards.shard("acme")))
    began = time.time()

    with metric_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        alone, answer = reconcile("--tenant", "acme"), reconcile()

    assert (1, 1) == (alone.status, answer.status)
    (sent,) = receiver.sent
    metrics = {it.name: it.gauge.data_points for it in sent.scope_metrics[0].metrics}
    found = {
        it.attributes[0].value.string_value: it.as_int
        for it in metrics["tollhouse.reconcile.difference"]
    }
    assert {"exchanges", *Finding} == found.keys()
    # One whole exchange: 10 in and 7 out, of these 2 of reasoning, a type of its own.
    assert {"exchanges": 1, "missing": 19} == {k: n for k, n in found.items() if n}
    (finished,) = metrics["tollhouse.reconcile.finished"]
    assert finished.as_double >= began
