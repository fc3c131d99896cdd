"""Streams of requests through the whole stack, against the engine's own log."""

import asyncio
import contextlib
import json
import os
import signal

import grpc
import grpc.aio
import httpx
import pytest

from tests.e2e.main import books
from tests.e2e.triton.calls import (
    MODEL,
    Stream,
    add,
    ask,
    ask_long,
    is_final,
    refusal,
)
from tests.e2e.triton.conftest import ENGINE
from tests.e2e.triton.found import FREED_SECONDS, ended, settled, truth
from tollhouse.core.usage import CountSource, UsageKind

STREAMS = 64
ANSWER = 40
"""Tokens of an answer that is left at every tenth."""


@contextlib.asynccontextmanager
async def ends_refused():
    """Swallow what a call raises whose status is looked at by itself."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        yield


@pytest.mark.timed  # a worker that judges alone, for Redis is late, counts by itself
async def test_sixty_four_streams_of_several_requests_each(
    stack, channel, make_key, tenant
):
    """No deadlock, whether a client waits for each answer or not; counts are exact."""
    key = make_key(tenant, "places")

    def id_of(number, turn):
        return f"{tenant}/{number}/{turn}"

    async def talk(number):
        stream = Stream(channel, key)
        requests = [
            ask(f"Stream {number}, request {turn}.", 5 + turn, id_of(number, turn))
            for turn in range(3)
        ]
        if number % 2:
            for request in requests:
                await stream.send(request)
                await stream.answer()
        else:
            for request in requests:
                await stream.send(request)
        assert grpc.StatusCode.OK is await stream.finish()
        return await stream.exchange()

    async with asyncio.timeout(60):
        exchanges = await asyncio.gather(*map(talk, range(STREAMS)))

    records, generated = settled(stack, tenant, STREAMS), truth(stack)
    assert set(exchanges) == records.keys()
    for number, exchange in enumerate(exchanges):
        record = records[exchange]
        entries = [it for turn in range(3) for it in generated[id_of(number, turn)]]
        assert ["completed"] * 3 == [it["outcome"] for it in entries]
        assert (
            UsageKind.FINAL,
            sum(it["input_tokens"] for it in entries),
            sum(it["output_tokens"] for it in entries),
            3,
            CountSource.BACKEND,
        ) == (
            record.kind,
            record.usage.input_tokens,
            record.usage.output_tokens,
            record.facts.choices,
            record.output_source,
        )


@pytest.mark.timed  # a worker that judges alone, for Redis is late, counts by itself
async def test_one_stream_more_than_there_are_places(stack, channel, make_key, tenant):
    """It is told when to come again; the others notice nothing."""
    key = make_key(tenant, "places")
    streams = [Stream(channel, key) for _ in range(STREAMS)]
    for stream in streams:
        await stream.send(ask(cap=2))
    for stream in streams:
        await stream.answer()  # its place is held until the stream ends
    late = Stream(channel, key)
    async with ends_refused():
        await late.send(ask(cap=2))
        await late.read()
    code, message, seconds = await refusal(late.call)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is code
    assert "64 concurrent requests of your organisation" in message
    assert seconds > 0
    for stream in streams:
        assert grpc.StatusCode.OK is await stream.finish()
    assert STREAMS == len(settled(stack, tenant, STREAMS))


async def test_a_further_request_over_the_limit_ends_the_stream(
    stack, channel, make_key, tenant
):
    """Those before it are answered whole; what comes after it reaches nobody."""
    stream = Stream(channel, make_key(tenant, "tight"))
    for turn in range(5):
        await stream.send(ask(cap=6, id_=f"{tenant}/{turn}"))
    finals, answered = 0, set()
    async with ends_refused():
        while (response := await stream.read()) is not None:
            answered.add(response.id)
            finals += is_final(response)
    code, message, seconds = await refusal(stream.call)

    assert (3, {f"{tenant}/{turn}" for turn in range(3)}) == (finals, answered)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED is code
    assert "6 requests per minute of this API key" in message
    assert 0 < seconds <= 10
    generated = truth(stack)
    assert not generated[f"{tenant}/3"]
    assert not generated[f"{tenant}/4"]
    (record,) = settled(stack, tenant).values()
    logs = [*(stack.state_dir / "logs").glob("extproc*.log")]

    def told():
        lines = (json.loads(it) for log in logs for it in log.read_text().splitlines())
        wanted = ("exchange.ended", record.exchange_id)
        return [it for it in lines if (it["event"], it.get("exchange_id")) == wanted]

    books.within(30, told)
    assert ["rate_limited:key.requests"] == [it["refusal"] for it in told()]
    assert 3 == record.facts.choices
    assert record.usage.output_tokens == sum(
        it["output_tokens"] for turn in range(3) for it in generated[f"{tenant}/{turn}"]
    )


SECOND = {
    "another model": (ask(model="other"), grpc.StatusCode.NOT_FOUND),
    "the repository's": (ask(model="ensemble"), grpc.StatusCode.NOT_FOUND),
    "a lever": (
        add(ask(), "beam_width", "INT32", b"\4\0\0\0"),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "too much": (ask(cap=1_000_000), grpc.StatusCode.INVALID_ARGUMENT),
    "the same id": (ask(id_="first"), grpc.StatusCode.INVALID_ARGUMENT),
}


@pytest.mark.parametrize("which", SECOND)
async def test_every_message_is_judged(stack, channel, make_key, which):
    """Whatever the first one was."""
    request, expected = SECOND[which]
    tenant = f"judged-{which.replace(' ', '-').replace(chr(39), '')}"
    stream = Stream(channel, make_key(tenant))
    await stream.send(ask(cap=3, id_="first"))
    await stream.answer()
    await stream.send(request)
    async with ends_refused():
        assert None is await stream.read()
    code, _, seconds = await refusal(stream.call)

    assert (expected, -1) == (code, seconds)
    (record,) = settled(stack, tenant).values()
    assert 1 == record.facts.choices


async def test_a_compressed_message_is_refused(stack, channel, make_key, tenant):
    """As the first or a later one: nobody here could read it."""
    key = make_key(tenant)
    stream = Stream(channel, key, compression=grpc.Compression.Gzip)
    async with ends_refused():
        await stream.send(ask("x" * 2000))
        await stream.read()

    assert grpc.StatusCode.UNIMPLEMENTED is (await refusal(stream.call))[0]
    assert {} == books.settlements(stack.state_dir, tenant)


@pytest.mark.timed
async def test_a_client_that_leaves_frees_the_engine(stack, channel, make_key, tenant):
    """Between two tokens; also of the requests that wait behind."""
    stream = Stream(channel, make_key(tenant))
    for turn in range(2):
        await stream.send(ask_long(400, f"{tenant}/{turn}"))
    for _ in range(6):
        await stream.read()
    stream.leave()
    books.within(30, lambda: len(truth(stack)[f"{tenant}/1"]) == 1)
    generated = truth(stack)

    for turn in range(2):
        (entry,) = generated[f"{tenant}/{turn}"]
        assert "cancelled" == entry["outcome"]
        assert entry["at"] - stream.left_at <= FREED_SECONDS


@pytest.mark.timed
async def test_a_client_that_leaves_is_billed_to_where_it_read(
    stack, channel, make_key, tenant
):
    """At every tenth of an answer: one record, within two events."""
    key, left = make_key(tenant), {}
    for tenth in range(1, 11):
        stream = Stream(channel, key)
        await stream.send(ask_long(ANSWER, f"{tenant}/{tenth}"))
        for _ in range(tenth * ANSWER // 10):
            await stream.read()
        left[await stream.exchange()] = tenth
        stream.leave()
    records, generated = settled(stack, tenant, len(left)), truth(stack)

    assert left.keys() == records.keys()
    for exchange, tenth in left.items():
        record, read = records[exchange], tenth * ANSWER // 10
        (entry,) = generated[f"{tenant}/{tenth}"]
        assert read <= record.usage.output_tokens <= read + 2
        assert record.usage.output_tokens <= entry["output_tokens"]
        assert entry["input_tokens"] == record.usage.input_tokens
        assert UsageKind.PARTIAL is record.kind or tenth == 10
    books.rest(stack)
    usage = books.usage(stack, tenant)
    assert len(left) == usage["final"] + usage["partial"]


async def test_who_leaves_the_queue_pays_for_the_prompt_by_estimate(
    stack, channel, make_key, tenant
):
    """Nobody has counted it yet; over HTTP Triton goes on to the first token.

    The engine has no place left: the stream before them has taken all.
    """
    key = make_key(tenant)
    full, waiting = Stream(channel, key), Stream(channel, key)
    for number in range(ENGINE["max_num_seqs"]):
        await full.send(ask_long(1900, f"{tenant}/{number}"))
    begun = set[str]()
    while len(begun) < ENGINE["max_num_seqs"]:
        begun.add((await full.read()).id)
    await waiting.send(ask_long(9, f"{tenant}/grpc"))
    async with httpx.AsyncClient(base_url=stack.base_url.removesuffix("/v1")) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(
                f"/v2/models/{MODEL}/generate_stream",
                json={"id": f"{tenant}/http", "text_input": "hi", "max_tokens": 9},
                headers={"authorization": f"Bearer {key}"},
                timeout=2,
            )
    waiting.leave()
    books.within(30, lambda: bool(truth(stack)[f"{tenant}/grpc"]))
    left = settled(stack, tenant, 2)
    full.leave()
    mine = {f"{tenant}/{it}" for it in ("http", *range(ENGINE["max_num_seqs"]))}
    books.within(30, lambda: truth(stack).keys() >= mine)
    (exchange,) = settled(stack, tenant, 3).keys() - left.keys()
    generated = truth(stack)

    for record in left.values():
        assert (
            UsageKind.PARTIAL,
            record.facts.input_estimate,
            CountSource.ESTIMATE,
            0,
        ) == (
            record.kind,
            record.usage.input_tokens,
            record.input_source,
            record.usage.output_tokens,
        )
    assert 0 == generated[f"{tenant}/grpc"][0]["output_tokens"]
    assert 0 < generated[f"{tenant}/http"][0]["output_tokens"] <= 9
    record = settled(stack, tenant, 3)[exchange]
    made = [generated[f"{tenant}/{it}"][0] for it in range(ENGINE["max_num_seqs"])]
    assert UsageKind.PARTIAL is record.kind
    assert record.usage.output_tokens <= sum(it["output_tokens"] for it in made)


async def test_a_client_may_speak_late_and_at_length(stack, channel, make_key, tenant):
    """Its messages come in many pieces, each just below the largest."""
    stream = Stream(channel, make_key(tenant))
    await asyncio.sleep(1.5)  # longer than the other filter waits for a message
    for _ in range(2):
        request = ask(cap=2)
        request.parameters["note"].string_param = "x" * 3_000_000
        await stream.send(request)
        await stream.answer()

    assert grpc.StatusCode.OK is await stream.finish()
    (record,) = settled(stack, tenant).values()
    assert 2 * len(b"Tell me of the sea.") == record.facts.text_bytes


async def test_a_message_that_is_too_large_is_refused(stack, channel, make_key, tenant):
    """From its length, before its bytes pile up."""
    stream, request = Stream(channel, make_key(tenant)), ask(cap=2)
    request.parameters["note"].string_param = "x" * 3_200_000
    async with ends_refused():
        await stream.send(request)
        await stream.read()

    assert grpc.StatusCode.INVALID_ARGUMENT is (await refusal(stream.call))[0]
    assert {} == books.settlements(stack.state_dir, tenant)


async def test_without_a_key_nothing_is_read(channel):
    """The headers decide; a message sent as the refusal comes fails in the client."""
    stream = Stream(channel, "th_" + "a" * 12 + "_" + "b" * 43)
    async with ends_refused():
        await stream.read()

    assert grpc.StatusCode.UNAUTHENTICATED is await stream.status()


async def test_a_stream_without_a_request_is_refused(stack, channel, make_key, tenant):
    """Nothing is reserved, and nothing recorded."""
    stream = Stream(channel, make_key(tenant))
    async with ends_refused():
        await stream.finish()

    assert grpc.StatusCode.INVALID_ARGUMENT is (await refusal(stream.call))[0]
    assert {} == books.settlements(stack.state_dir, tenant)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_worker_that_goes(stack, channel, make_key, tenant, how):
    """One that stops lets the answer finish; one that dies ends the stream.

    Settled once, to where it came, either way.
    """
    tenant = f"{tenant}-{how.name.lower()}"
    stream = Stream(channel, make_key(tenant))
    # Who dies meets it in its middle, whatever stands still meanwhile.
    cap = 60 if how is signal.SIGTERM else 1000
    await stream.send(ask_long(cap, f"{tenant}/1"))
    for _ in range(5):
        await stream.read()
    exchange = await stream.exchange()
    workers = {it: pid for it, pid in stack.pids.items() if it.startswith("extproc")}
    for pid in workers.values():
        os.kill(pid, how)
    read = 5
    async with ends_refused():
        while await stream.read() is not None:
            read += 1
    code = await stream.status()
    for worker, pid in workers.items():
        stack.wait_until_restarted(worker, pid)

    record = settled(stack, tenant)[exchange]
    (entry,) = ended(stack, f"{tenant}/1")
    if how is signal.SIGTERM:
        assert (60, grpc.StatusCode.UNAVAILABLE) == (read, code)
        assert "completed" == entry["outcome"]
    else:
        assert code is not grpc.StatusCode.OK
        assert ("cancelled", UsageKind.PARTIAL) == (entry["outcome"], record.kind)
    assert read <= record.usage.output_tokens <= read + 2
    books.rest(stack)


def test_the_engine_is_slow_enough_to_tell():
    """0.2 s of tokens are many, or the promise above would be kept by chance."""
    assert FREED_SECONDS * 1000 / ENGINE["itl_ms"] >= 10
