"""Streams of requests over real gRPC: what goes on, and how every stream ends."""

import asyncio
import contextlib
import struct

import grpc
import grpc.aio
import pytest

from tests.integration.extproc.test_servicer import (
    PROOF,
    headers,
    reservations,
    with_plan,
)
from tollhouse.adapters.grpc_frames import Frames, framed
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.workers import Workers
from tollhouse.adapters.tokenizer import Tokenizers
from tollhouse.adapters.tracing import Tracing
from tollhouse.core.catalog import RedisDown
from tollhouse.core.experience import Experience
from tollhouse.core.ids import exchange_id
from tollhouse.core.limits import Allowance
from tollhouse.core.surface import STREAM_INFER
from tollhouse.core.usage import decode_facts
from tollhouse.extproc.ladder import Ladder
from tollhouse.extproc.servicer import ExternalProcessorServicer
from tollhouse.extproc.streams import MOST_ID_BYTES
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from tollhouse.pb.envoy.service.ext_proc.v3 import (
    external_processor_pb2_grpc as ext_proc_grpc,
)
from tollhouse.pb.tollhouse.triton.v1 import infer_pb2 as pb

ID = exchange_id(1_800_000_000_000, bytes(10))


@pytest.fixture
def stopping():
    return asyncio.Event()


@pytest.fixture
async def stub(server, live, limiter, redis, stopping):
    made, address = server
    servicer = servicer_of(live, limiter, redis, stopping)
    servicer.add_to(made)
    await made.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield ext_proc_grpc.ExternalProcessorStub(channel)
    await servicer.drain()


def servicer_of(live, limiter, redis, stopping, tracing=None):
    return ExternalProcessorServicer(
        live=live,
        experience=Experience(),
        tokenizers=Tokenizers(),
        ladder=Ladder(limiter, Workers(redis, "w"), Metrics(), note=lambda _: None),
        metrics=Metrics(),
        proof=PROOF,
        tracing=tracing or Tracing(),
        stopping=stopping,
    )


def opening(*, named=True):
    """The headers; `named` as they come to the streams' filter."""
    message = headers(STREAM_INFER)
    metadata = message.metadata_context.filter_metadata
    fields = metadata["envoy.filters.http.ext_authz"].fields
    fields["scopes"].string_value = "infer:write"
    if named:
        metadata["tollhouse"].fields["exchange"].string_value = ID
    return message


def piece(body=b"", *, ends=False):
    message = ext_proc.ProcessingRequest()
    message.request_body.body = body
    message.request_body.end_of_stream = ends
    return message


def ask(text="hi", id_="", model="tiny-chat", **tensors):
    request = pb.ModelInferRequest(model_name=model, id=id_)
    encoded = struct.pack("<I", len(text)) + text.encode()
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(encoded)
    for name, value in tensors.items():
        request.inputs.add(name=name, datatype="INT32", shape=[1, 1])
        request.raw_input_contents.append(struct.pack("<i", value))
    return framed(request.SerializeToString())


def forwarded(reply):
    """The request in a reply, as the backend gets it."""
    streamed = reply.request_body.response.body_mutation.streamed_response
    (message,) = Frames().feed(streamed.body)
    return pb.ModelInferRequest.FromString(message)


def facts(reply):
    return decode_facts(reply.dynamic_metadata["tollhouse"]["facts"])


def is_end(reply):
    streamed = reply.request_body.response.body_mutation.streamed_response
    return streamed.end_of_stream and not streamed.body


async def rest_of(call):
    """Status a stream ends with, and what comes before it."""
    replies = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        while (reply := await call.read()) is not grpc.aio.EOF:
            replies.append(reply)
    return await call.code(), replies


async def opened(stub, *asked):
    """A stream whose first message was let in, and the replies to it."""
    call = stub.Process()
    await call.write(opening())
    await call.write(piece(b"".join(asked) or ask()))
    return call, await call.read(), await call.read()


async def test_the_first_filter_names_the_exchange_and_hangs_up(stub, redis):
    """Before anything is reserved: what is lost then, the ledger releases."""
    call = stub.Process()
    await call.write(opening(named=False))
    reply = await call.read()

    assert reply.HasField("request_headers")
    assert not reply.request_headers.response.header_mutation.set_headers
    assert reply.dynamic_metadata["tollhouse"]["exchange"]
    assert grpc.aio.EOF == await call.read()
    assert grpc.StatusCode.OK is await call.code()
    assert not await reservations(redis)


async def test_the_headers_wait_for_the_first_message(stub, redis):
    """However it is cut."""
    call = stub.Process()
    await call.write(opening())
    message = ask(id_="mine")
    await call.write(piece(message[:9]))
    await call.write(piece(message[9:]))
    way, body = await call.read(), await call.read()

    common = way.request_headers.response
    sent = {
        it.header.key: it.header.raw_value for it in common.header_mutation.set_headers
    }
    assert {
        "x-tollhouse-admitted": PROOF,
        "x-tollhouse-cluster": b"tiny-chat-grpc",
        "x-tollhouse-exchange": ID.encode(),
    } == sent
    assert common.clear_route_cache
    assert way.dynamic_metadata["tollhouse"]["admitted"]
    assert "infer" == facts(way).operation
    assert ("tiny-chat", "mine") == (forwarded(body).model_name, forwarded(body).id)
    assert await reservations(redis)


async def test_further_messages_go_on_with_new_facts(stub):
    """As soon as they are judged; the ledger is told the sum."""
    call, way, _ = await opened(stub, ask("four", max_tokens=5))
    await call.write(piece(ask("eight", max_tokens=7)))
    second = await call.read()

    assert 9 == facts(second).text_bytes
    assert 2 == facts(second).choices
    assert facts(way).reserved_units < facts(second).reserved_units
    assert facts(way).debits == facts(second).debits


async def test_answers_can_be_told_apart(stub):
    """The meter needs it: one without an id gets one, a repeated one is refused."""
    call, _, first = await opened(stub)
    await call.write(piece(ask() + ask(id_="x") + ask(id_="x")))
    second, third, stop = [await call.read() for _ in range(3)]

    assert ("", f"{ID}-2", "x") == tuple(
        forwarded(it).id for it in (first, second, third)
    )
    assert is_end(stop)
    assert "3" == stop.dynamic_metadata["tollhouse.refusal"]["grpc_status"]


async def test_an_id_of_ours_is_nobody_elses(stub):
    """A client knows the exchange, and may have guessed what we would give."""
    call, *_ = await opened(stub)
    await call.write(piece(ask(id_=f"{ID}-2") + ask(id_=f"{ID}-4") + ask() + ask()))
    ids = [forwarded(await call.read()).id for _ in range(4)]

    assert [f"{ID}-2", f"{ID}-4", f"{ID}-3", f"{ID}-5"] == ids


async def test_an_id_is_as_long_as_the_meter_reads(stub):
    """Of longer ones two could look alike; in bytes, as the wire has them."""
    call, _, first = await opened(stub, ask(id_="é" * (MOST_ID_BYTES // 2)))
    await call.write(piece(ask(id_="é" * (MOST_ID_BYTES // 2) + "x")))
    stop = await call.read()

    assert MOST_ID_BYTES == len(forwarded(first).id.encode())
    assert is_end(stop)
    refusal = stop.dynamic_metadata["tollhouse.refusal"]
    assert ("3", "`id` must have at most 128 bytes.") == (
        refusal["grpc_status"],
        refusal["grpc_message"],
    )


async def test_a_name_in_a_refusal_is_fit_for_a_trailer(stub):
    """The meter puts it there as it stands."""
    request = pb.ModelInferRequest(model_name="tiny-chat")
    request.parameters["shared_memory_%\r\n" + "n" * 9_000].bool_param = True
    call, *_ = await opened(stub)
    await call.write(piece(framed(request.SerializeToString())))
    stop = await call.read()
    message = stop.dynamic_metadata["tollhouse.refusal"]["grpc_message"]

    assert message.startswith("`shared_memory_%25%EF%BF%BD%EF%BF%BDnnn")
    assert message.endswith("nnn%E2%80%A6` is not supported.")
    assert len(message) < 256


async def test_hangs_up_with_ok_when_the_client_has_sent_its_last(stub):
    call, *_ = await opened(stub)
    await call.write(piece(ask(), ends=True))
    code, (second, end) = await rest_of(call)

    assert grpc.StatusCode.OK is code
    assert forwarded(second).inputs
    assert is_end(end)


async def test_trailers_are_an_end(stub):
    call, *_ = await opened(stub)
    message = ext_proc.ProcessingRequest()
    message.request_trailers.SetInParent()
    await call.write(message)
    code, (end,) = await rest_of(call)

    assert grpc.StatusCode.OK is code
    assert end.HasField("request_trailers")


async def test_a_stream_that_breaks_off_is_an_error(stub, redis):
    """OK would let through whatever still came."""
    call, *_ = await opened(stub)
    await call.done_writing()
    code, _ = await rest_of(call)

    assert grpc.StatusCode.INTERNAL is code
    assert await reservations(redis)  # settled, or released, by the ledger


async def test_who_leaves_before_its_first_message_reserved_nothing(stub, redis):
    call = stub.Process()
    await call.write(opening())
    await call.done_writing()
    code, replies = await rest_of(call)

    assert (grpc.StatusCode.INTERNAL, []) == (code, replies)
    assert not await reservations(redis)


@pytest.mark.parametrize(
    ("messages", "status", "word"),
    [
        ([piece(ask(model="other"))], 404, "model_not_found"),
        ([piece(ask(beam_width=2))], 400, "unsupported"),
        ([piece(b"\1\0\0\0\0")], 415, "unsupported_encoding"),
        ([piece(ask()[:-1], ends=True)], 400, "invalid_request"),
        ([piece(ends=True)], 400, "invalid_request"),
    ],
    ids=["model", "lever", "compressed", "half", "none"],
)
async def test_the_first_message_refused_is_the_answer(
    stub, redis, messages, status, word
):
    call = stub.Process()
    await call.write(opening())
    for message in messages:
        await call.write(message)
    code, (reply,) = await rest_of(call)

    assert grpc.StatusCode.OK is code
    refusal = reply.immediate_response
    assert (status, word) == (refusal.status.code, refusal.details)
    assert not await reservations(redis)


async def test_a_further_message_over_a_limit_ends_the_clients_side(stub, live):
    """And what comes after it is swallowed until the answers are through."""
    with_plan(live, key=Allowance(requests_per_minute=60, burst_seconds=1))
    call, *_ = await opened(stub)
    await call.write(piece(ask()))
    stop = await call.read()
    await call.write(piece(ask()))
    await call.write(piece(ends=True))
    await call.done_writing()
    code, rest = await rest_of(call)

    assert is_end(stop)
    refusal = stop.dynamic_metadata["tollhouse.refusal"]
    assert "8" == refusal["grpc_status"]
    assert "60 requests per minute" in refusal["grpc_message"]
    assert "rate_limited:key.requests" == refusal["word"]
    assert refusal["grpc_status_details_bin"]
    assert (grpc.StatusCode.INTERNAL, []) == (code, rest)


async def test_half_a_further_message_is_no_clean_end(stub):
    """The client is told that it was not heard."""
    call, *_ = await opened(stub)
    await call.write(piece(ask()[:-1], ends=True))
    stop = await call.read()

    assert is_end(stop)
    assert "3" == stop.dynamic_metadata["tollhouse.refusal"]["grpc_status"]


async def test_a_worker_that_stops_lets_answers_finish(stub, stopping, redis):
    """The client's side ends, and Envoy goes on without us."""
    call, *_ = await opened(stub)
    stopping.set()
    code, (stop,) = await rest_of(call)

    assert grpc.StatusCode.OK is code
    assert is_end(stop)
    assert "14" == stop.dynamic_metadata["tollhouse.refusal"]["grpc_status"]
    assert await reservations(redis)


async def test_a_worker_that_stops_takes_no_stream(stub, stopping):
    stopping.set()
    call = stub.Process()
    await call.write(opening())
    _, (reply,) = await rest_of(call)

    assert 14 == reply.immediate_response.grpc_status.status


@pytest.fixture
async def away(tmp_path):
    """A client of a Redis that is not there."""
    client = await Redis.connect(f"unix://{tmp_path}/nobody.sock")
    yield client
    await client.close()


async def test_an_outage_is_unavailable_where_the_plan_denies(
    server, live, away, stopping
):
    with_plan(live, redis_down=RedisDown.DENY)
    made, address = server
    servicer = servicer_of(live, Limiter(away), away, stopping)
    servicer.add_to(made)
    await made.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = ext_proc_grpc.ExternalProcessorStub(channel).Process()
        await call.write(opening())
        await call.write(piece(ask()))
        _, (reply,) = await rest_of(call)
    await servicer.drain()

    assert 14 == reply.immediate_response.grpc_status.status
