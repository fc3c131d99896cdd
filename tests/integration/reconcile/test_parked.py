"""`tollhouse billing parked`: what an operator decides is done once and kept."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from tests.integration.reconcile.conftest import (
    HOUR,
    Answer,
    Reconcile,
    Rig,
    Run,
    settlement,
)
from tollhouse.adapters.redis import billing_keys, shards
from tollhouse.adapters.redis.chunks import SENT_SECONDS
from tollhouse.cli import keyring
from tollhouse.core import chunk
from tollhouse.core.chunk import (
    TRUSTED_SECONDS,
    Attempt,
    State,
    Step,
    Verdict,
    Window,
    next_step,
    verified,
)
from tollhouse.core.windows import BILLED, TokenType

OUTPUT = Window("acme", "tiny-chat", TokenType.OUTPUT, HOUR)
ID = f"{OUTPUT.name}|1"

History = Callable[[], list[dict[str, Any]]]


class Moody:
    """A provider that does as its mood is."""

    name = "ledger"
    most_at_once = 1
    mood = chunk.Answer(Verdict.POISON, "meter_event_customer_not_found")

    async def ship(self, attempts: Sequence[Attempt]) -> list[chunk.Answer]:
        return [self.mood for _ in attempts]

    async def total(self, customer, event_name, start, end):
        raise AssertionError(customer, event_name, start, end)


@pytest.fixture
async def parked(rig: Rig) -> Rig:
    """All three chunks of a row are parked; certainly not with the provider."""
    rig = Rig(rig.gateway, rig.billing, Moody())
    await rig.settle(settlement())
    await rig.carry()
    await rig.seal()
    await rig.ship()
    return rig


@pytest.fixture
def billing(tollhouse: Run, redis_url: str) -> Run:
    def run(*arguments: str) -> Answer:
        return tollhouse("billing", *arguments, "--billing-redis-url", redis_url)

    return run


@pytest.fixture
def records(tollhouse: Run, redis_url: str) -> Run:
    def run(*arguments: str) -> Answer:
        return tollhouse(
            "billing", "parked", "records", *arguments, "--redis-url", redis_url
        )

    return run


@pytest.fixture
def history(tollhouse: Run, redis_url: str) -> History:
    def run() -> list[dict[str, Any]]:
        answer = tollhouse(
            "billing", "parked", "history", "--json", "--redis-url", redis_url
        )
        decisions: list[dict[str, Any]] = json.loads(answer.stdout)["decisions"]
        return decisions

    return run


async def progress(rig: Rig, id_: str = ID) -> chunk.Progress:
    (stored,) = await rig.chunks.read([id_.encode()])
    return stored.progress


def test_nothing_parked(billing: Run, records: Run, history: History, redis_url: str):
    assert (0, "nothing is parked\n") == output(billing("parked", "list"))
    assert (0, "no record is refused\n") == output(records())
    assert [] == history()


def output(answer: Answer) -> tuple[int, str]:
    return answer.returncode, answer.stdout


def test_the_list_says_what_why_and_since_when(parked: Rig, billing: Run):
    answer = billing("parked", "list", "--json")

    chunks = json.loads(answer.stdout)["chunks"]
    assert {it.value for it in BILLED} == {it["token_type"] for it in chunks}
    (one,) = (it for it in chunks if it["id"] == ID)
    assert ("acme", 7, "acme") == (one["tenant"], one["tokens"], one["customer"])
    assert ("meter_event_customer_not_found", None, 1) == (
        one["reason"],
        one["in_doubt_since"],
        one["attempts"],
    )
    assert (
        []
        == json.loads(billing("parked", "list", "--json", "--tenant", "zeta").stdout)[
            "chunks"
        ]
    )
    table = billing("parked", "list").stdout.splitlines()
    assert ["CHUNK", "TOKENS", "CUSTOMER", "REASON"] == table[0].split()[:4]
    assert 4 == len(table)


async def test_retry_sends_the_same_bytes_again(
    parked: Rig, billing: Run, history: History, reconcile: Reconcile
):
    before = (await parked.chunks.read([ID.encode()]))[0].chunk

    answer = billing("parked", "retry", ID, "--why", "meter is back")

    assert (0, f"{ID}: will be sent again\n") == output(answer)
    (stored,) = await parked.chunks.read([ID.encode()])
    assert (before, State.OPEN) == (stored.chunk, stored.progress.state)
    (decision,) = history()
    assert ("retry", ID, "acme", 7, "meter is back", keyring.who()) == (
        decision["action"],
        decision["what"],
        decision["tenant"],
        decision["tokens"],
        decision["why"],
        decision["who"],
    )
    assert "meter_event_customer_not_found" == decision["was_parked_for"]
    assert 0 == reconcile().status
    assert isinstance(parked.provider, Moody)
    parked.provider.mood = chunk.Answer(Verdict.ACCEPTED)
    await parked.ship()
    assert State.SENT is (await progress(parked)).state


async def test_reseal_freezes_anew_with_the_customer_of_now(
    parked: Rig, billing: Run, reconcile: Reconcile
):
    (first,) = await parked.chunks.read([ID.encode()])

    answer = billing(
        *("parked", "retry", first.chunk.identifier, "--reseal"),
        *("--why", "wrong customer", "--who", "eve"),
    )

    assert (0, f"{ID}: will be sealed anew\n") == output(answer)
    assert 0 == reconcile().status
    parked.customers = {"acme": "cus_right"}
    await parked.seal()
    assert 0 == reconcile().status
    (again,) = await parked.chunks.read([f"{OUTPUT.name}|2".encode()])
    assert (7, "cus_right") == (again.chunk.value, again.chunk.account.customer)
    assert again.chunk.identifier != first.chunk.identifier
    assert again.chunk.timestamp != first.chunk.timestamp
    assert State.DISCARDED is (await progress(parked)).state


async def test_a_chunk_in_doubt_is_not_sealed_anew(
    parked: Rig, billing: Run, history: History, db: redis.Redis
):
    """The provider may have it: it could be billed twice."""
    db.hset(billing_keys.chunk(OUTPUT, 1), mapping={"doubt_at": 5, "doubted": 1})

    answer = billing("parked", "retry", ID, "--reseal", "--why", "try")

    assert (1, "") == output(answer)
    assert "is in doubt" in answer.stderr
    assert "retry it without --reseal" in answer.stderr
    assert [] == history()
    assert State.PARKED is (await progress(parked)).state


@pytest.mark.parametrize("hours", [1, 25])
async def test_a_retry_does_not_take_a_second_duplicate_for_a_delivery(
    parked: Rig, billing: Run, db: redis.Redis, hours: int
):
    """The provider has the identifier and does not count it: it is asked again first.

    Once the identifier is forgotten there, and the minute shows nothing, it is sent.
    """
    now = int(time.time())
    key = billing_keys.chunk(OUTPUT, 1)
    began = now - hours * 3600
    db.hset(
        key,
        mapping={
            **dict.fromkeys(("doubt_at", "begun_at", "verify_at"), began),
            "doubted": 1,
            "reason": "x",
        },
    )

    billing("parked", "retry", ID, "--why", "look again")

    (stored,) = await parked.chunks.read([ID.encode()])
    assert Step.VERIFY is next_step(stored.chunk, stored.progress, now)
    after = verified(stored.chunk, stored.progress, others=0, total=0, now=now)
    is_forgotten = hours > TRUSTED_SECONDS // 3600
    assert is_forgotten is (next_step(stored.chunk, after, now) is Step.SEND)


async def test_discard_gives_it_up_for_good(
    parked: Rig, billing: Run, reconcile: Reconcile, db: redis.Redis
):
    db.hset(billing_keys.chunk(OUTPUT, 1), mapping={"doubt_at": 5, "doubted": 1})

    answer = billing("parked", "discard", ID, "--why", "test traffic")

    assert 0 == answer.returncode
    assert "is discarded; it was in doubt: the provider may have it" in answer.stdout
    found = reconcile()
    assert (0, 7) == (found.status, found.document["summary"]["discarded"])


@pytest.mark.parametrize(
    ("value", "tokens", "options", "rest"),
    [
        (7, 7, (), 0),
        (7, 4, (), 3),
        (7, 0, (), 7),
        (7, 9, ("--beyond",), -2),
        (-7, -3, (), -4),
        (-7, 0, (), -7),
    ],
)
async def test_settle_counts_what_the_provider_has(
    parked: Rig,
    billing: Run,
    history: History,
    reconcile: Reconcile,
    db: redis.Redis,
    *,
    value: int,
    tokens: int,
    options: tuple[str, ...],
    rest: int,
):
    """And the rest is sealed anew; also of a chunk in doubt, which is the point."""
    key, window = billing_keys.chunk(OUTPUT, 1), billing_keys.window(OUTPUT)
    db.hset(key, mapping={"doubt_at": 5, "doubted": 1, "verify_at": 6, "value": value})
    db.hset(window, mapping={"total": value, "sealed": value, "parked": value})

    answer = billing(
        *("parked", "settle", ID, "--tokens", str(tokens), *options, "--why", "looked")
    )

    again = f"; {rest} will be sealed anew" if rest else ""
    assert (0, f"{ID}: is settled at {tokens} tokens{again}\n") == output(answer)
    (stored,) = await parked.chunks.read([ID.encode()])
    after = stored.progress
    assert (State.SENT, "settled", 0, 0, 0) == (
        *(after.state, after.reason),
        *(after.doubt_at, after.doubted, after.verify_at),
    )
    assert tokens == stored.chunk.value
    assert SENT_SECONDS - 60 < db.ttl(key) <= SENT_SECONDS
    books = [int(it or 0) for it in db.hmget(window, ["sealed", "accepted", "parked"])]
    assert [tokens, tokens, 0] == books
    (decision,) = history()
    assert ("settle", value, tokens, "looked", "meter_event_customer_not_found") == (
        *(decision["action"], decision["tokens"], decision["settled_tokens"]),
        *(decision["why"], decision["was_parked_for"]),
    )
    # What was settled and what the provider wrote are not of this test's making.
    differs = {finding for finding, of in reconcile().findings if of == "output"}
    assert not differs & {"chunks", "parked", "accepted", "unqueued", "stuck"}
    await parked.seal()
    sealed = await parked.chunks.read([f"{OUTPUT.name}|2".encode()])
    assert [rest] * bool(rest) == [it.chunk.value for it in sealed]


@pytest.mark.parametrize(("value", "tokens"), [(7, 8), (7, -1), (-7, 1), (-7, -8)])
async def test_settle_beyond_the_chunk_is_asked_about(
    parked: Rig,
    billing: Run,
    history: History,
    db: redis.Redis,
    *,
    value: int,
    tokens: int,
):
    """A slip of the keyboard would bill, or credit, the difference."""
    db.hset(billing_keys.chunk(OUTPUT, 1), "value", value)

    answer = billing("parked", "settle", ID, "--tokens", str(tokens), "--why", "w")

    assert (1, "") == output(answer)
    assert f"a correction of {value - tokens}" in answer.stderr
    assert [] == history()
    assert State.PARKED is (await progress(parked)).state


async def test_settle_is_for_what_is_parked_and_once(
    parked: Rig, billing: Run, history: History
):
    settle = ("parked", "settle", ID, "--tokens", "7", "--why", "w")
    assert 0 == billing(*settle).returncode

    again = billing(*settle)
    other = billing("parked", "settle", "no chunk", "--tokens", "7", "--why", "w")

    assert (1, f"error: {ID}: is not parked (any more)\n") == (
        *(again.returncode, again.stderr),
    )
    assert (1, "error: no chunk: no such chunk is kept\n") == (
        *(other.returncode, other.stderr),
    )
    assert 1 == len(history())


@pytest.mark.parametrize(
    "name", ["no chunk", "acme|x|output|1|1", "th1_00_x", "a|b|c|d|e", "th1_99_x"]
)
def test_what_is_no_parked_chunk_changes_nothing(
    parked: Rig, billing: Run, history: History, name
):
    answer = billing("parked", "discard", name, "--why", "w")

    assert (1, f"error: {name}: no such chunk is kept\n") == (
        answer.returncode,
        answer.stderr,
    )
    assert [] == history()


def test_one_of_several_does_not_stand_in_the_others_way(parked: Rig, billing: Run):
    input_ = ID.replace("output", "uncached_input")

    answer = billing("parked", "discard", ID, ID, input_, "--why", "w", "--json")

    results = json.loads(answer.stdout)["results"]
    assert (1, [True, False, True]) == (
        answer.returncode,
        [it["done"] for it in results],
    )
    assert f"{ID}: is not parked (any more)" in answer.stderr


def test_a_reason_is_asked_for(billing: Run):
    answer = billing("parked", "discard", ID)

    assert 2 == answer.returncode
    assert "--why" in answer.stderr


def test_what_is_too_old_for_stripe_is_said(parked: Rig, billing: Run, db: redis.Redis):
    old = int(time.time()) - 35 * 86_400
    db.hset(billing_keys.chunk(OUTPUT, 1), "timestamp", old)

    answer = billing("parked", "retry", ID, "--why", "w")

    assert "it will be parked again" in answer.stdout


# --- refused records --------------------------------------------------------------


@pytest.fixture
async def refused(rig: Rig) -> str:
    """The id of a record that the aggregator refused."""
    one = settlement()
    await rig.settle(one)
    await rig.carry(refused="made too long ago")
    return one.exchange_id


def test_refused_records_show_counts_and_no_text(
    refused: str, records: Run, db: redis.Redis
):
    (one,) = json.loads(records("--json").stdout)["records"]

    expected = {
        "id": refused,
        "tenant": "acme",
        "model": "tiny-chat",
        "kind": "final",
        "input_tokens": 10,
        "cached_input_tokens": 4,
        "output_tokens": 7,
        "reasoning_tokens": 2,
        "exchanges": 1,
        "reason": "made too long ago",
    }
    assert expected == {name: one[name] for name in expected}
    assert {*expected, "hour"} == one.keys()
    table = records().stdout.splitlines()
    assert [refused, "acme", "tiny-chat"] == table[1].split()[:3]


def test_a_record_that_can_not_be_read_is_listed(records: Run, db: redis.Redis):
    db.xadd(shards.refused(3), {"id": "odd", "reason": "no facts"})

    (one,) = json.loads(records("--json").stdout)["records"]

    assert ("odd", None, 0) == (one["id"], one["tenant"], one["output_tokens"])
    assert "odd" in records().stdout


async def test_retry_puts_it_back_as_it_was(
    rig: Rig, refused: str, records: Run, history: History, reconcile: Reconcile
):
    answer = records("retry", refused, "--why", "repaired")

    assert (0, f"{refused}: is in its outbox again\n") == output(answer)
    assert 0 == reconcile().status
    await rig.carry()
    found = reconcile()
    assert (0, 17) == (found.status, found.document["summary"]["tokens"])
    assert 0 == found.document["summary"]["refused"]
    (decision,) = history()
    assert ("retry", refused, 17, "made too long ago") == (
        decision["action"],
        decision["what"],
        decision["tokens"],
        decision["was_parked_for"],
    )


def test_discard_keeps_it_in_the_history(
    refused: str, records: Run, history: History, reconcile: Reconcile
):
    answer = records("discard", refused, "--why", "by hand", "--who", "eve")

    assert (0, f"{refused}: is dropped\n") == output(answer)
    assert (0, "no record is refused\n") == output(records())
    assert [("discard", "eve")] == [(it["action"], it["who"]) for it in history()]
    assert 0 == reconcile().status
    assert 1 == records("discard", refused, "--why", "again").returncode


async def test_two_operators_decide_once(
    rig: Rig, refused: str, db: redis.Redis, records: Run, history: History
):
    """Whoever comes second finds nothing: the record is in the outbox once."""
    records("retry", refused, "--why", "one")
    records("retry", refused, "--why", "two")

    assert 1 == db.xlen(shards.outbox(shards.shard("acme")))
    assert ["one"] == [it["why"] for it in history()]
