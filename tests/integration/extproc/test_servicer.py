"""The ext_proc service over real gRPC: how every stream ends."""

import dataclasses
import json

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.core.ids import created_ms
from tollhouse.extproc.servicer import ExternalProcessorServicer
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from tollhouse.pb.envoy.service.ext_proc.v3 import (
    external_processor_pb2_grpc as ext_proc_grpc,
)

PROOF = b"p" * 40
CHAT = {"model": "tiny-chat", "messages": [{"role": "user", "content": "hi"}]}


def headers(path="/v1/chat/completions", method="POST", *, principal=True, ends=False):
    message = ext_proc.ProcessingRequest()
    for name, value in ((":method", method), (":path", path)):
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.request_headers.end_of_stream = ends
    if principal:
        metadata = message.metadata_context.filter_metadata
        fields = metadata["envoy.filters.http.ext_authz"].fields
        fields["tenant"].string_value = "acme"
        fields["key_id"].string_value = "key"
        fields["plan"].string_value = "demo"
        fields["scopes"].string_value = "chat:write models:read"
    return message


def body(content=None):
    message = ext_proc.ProcessingRequest()
    message.request_body.body = json.dumps(content or CHAT).encode()
    message.request_body.end_of_stream = True
    return message


async def end_of(call):
    """Status a stream ends with, and what came before it."""
    replies = []
    try:
        async for reply in call:
            replies.append(reply)  # noqa: PERF401  # the end may raise
    except grpc.aio.AioRpcError as error:
        return error.code(), replies
    return grpc.StatusCode.OK, replies


@pytest.fixture
async def stub(server, catalog, limiter):
    made, address = server
    servicer = ExternalProcessorServicer(catalog, limiter, PROOF)
    servicer.add_to(made)
    await made.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield ext_proc_grpc.ExternalProcessorStub(channel)
    await servicer.drain()


async def reservations(redis):
    return await redis.call("KEYS", "{s*}:leases")


async def test_hangs_up_with_ok_right_after_admission(stub, redis):
    """Envoy goes on alone: no restart of ours can cut the answer."""
    call = stub.Process()
    await call.write(headers())
    identified = await call.read()
    await call.write(body())
    admitted = await call.read()

    assert grpc.aio.EOF == await call.read()
    assert grpc.StatusCode.OK is await call.code()
    exchange = identified.dynamic_metadata["tollhouse"]["exchange"]
    assert created_ms(exchange) > 0
    common = admitted.request_body.response
    sent = {
        it.header.key: it.header.raw_value for it in common.header_mutation.set_headers
    }
    assert {
        "x-tollhouse-admitted": PROOF,
        "x-tollhouse-cluster": b"tiny-chat",
        "x-tollhouse-default-max-tokens": b"true",
        "x-tollhouse-exchange": exchange.encode(),
        "content-length": str(len(common.body_mutation.body)).encode(),
    } == sent
    assert common.clear_route_cache
    assert admitted.dynamic_metadata["tollhouse"]["admitted"]
    assert await reservations(redis)


async def test_a_body_that_trailers_follow_is_whole(stub):
    """Envoy sends it as one that does not end the stream."""
    message = body()
    message.request_body.end_of_stream = False
    call = stub.Process()
    await call.write(headers())
    await call.read()
    await call.write(message)

    assert (await call.read()).dynamic_metadata["tollhouse"]["admitted"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [headers()],
        [headers(principal=False)],
        [headers(path="/v1/other")],
        [body()],
        [ext_proc.ProcessingRequest()],
        [headers(), headers()],
    ],
    ids=["nothing", "no body", "no principal", "path", "body first", "empty", "twice"],
)
async def test_every_other_end_is_an_error(stub, messages, redis):
    """An OK before admission would be a free ride."""
    call = stub.Process()
    for message in messages:
        await call.write(message)
    await call.done_writing()
    code, replies = await end_of(call)

    assert grpc.StatusCode.INTERNAL is code
    assert not any(reply.HasField("request_body") for reply in replies)
    assert not await reservations(redis)


async def test_a_refusal_is_an_immediate_response(stub, redis):
    """The client gets our problem, in its own protocol."""
    call = stub.Process()
    await call.write(headers())
    await call.read()
    await call.write(body(CHAT | {"max_tokens": -1}))
    refusal = (await call.read()).immediate_response

    assert 400 == refusal.status.code
    assert "max_tokens" == json.loads(refusal.body)["error"]["param"]
    assert not await reservations(redis)


async def test_lists_models_from_the_headers_alone(stub):
    """GET has no body message to wait for."""
    call = stub.Process()
    await call.write(headers("/v1/models", "GET", ends=True))
    answer = (await call.read()).immediate_response

    assert 200 == answer.status.code
    assert ["tiny-chat"] == [it["id"] for it in json.loads(answer.body)["data"]]


async def test_an_outage_is_503_never_a_bad_key(server, catalog, tmp_path):
    """Redis away: the client may try again, and keeps its key."""
    made, address = server
    away = await Redis.connect(f"unix://{tmp_path}/nobody.sock")
    servicer = ExternalProcessorServicer(catalog, Limiter(away), PROOF)
    servicer.add_to(made)
    await made.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = ext_proc_grpc.ExternalProcessorStub(channel).Process()
        await call.write(headers())
        await call.read()
        await call.write(body())
        refusal = (await call.read()).immediate_response  # type: ignore[attr-defined]
    await servicer.drain()
    await away.close()

    assert 503 == refusal.status.code
    assert "service_unavailable" == json.loads(refusal.body)["error"]["code"]
    sent = {it.header.key: it.header.raw_value for it in refusal.headers.set_headers}
    assert b"1" == sent["retry-after"]


async def test_a_missing_plan_is_named_in_the_log(server, catalog, limiter):
    """The client is told nothing but 503, so the operator must be."""
    offer = dataclasses.replace(catalog, plans={})
    made, address = server
    ExternalProcessorServicer(offer, limiter, PROOF).add_to(made)
    await made.start()
    with capture_logs() as logs:
        async with grpc.aio.insecure_channel(address) as channel:
            call = ext_proc_grpc.ExternalProcessorStub(channel).Process()
            await call.write(headers())
            await call.read()
            await call.write(body())
            refusal = (await call.read()).immediate_response  # type: ignore[attr-defined]

    assert 503 == refusal.status.code
    ((event, reason),) = [(it["event"], it["reason"]) for it in logs]
    assert "admission.refused" == event
    assert "'demo'" in reason


async def test_a_bug_is_an_error_status_never_a_free_ride(server, catalog, redis):
    """Whatever breaks while a request is judged: not admitted, and reported once."""

    class Broken(Limiter):
        async def reserve(self, reservation):
            raise KeyError(reservation.exchange_id)

    made, address = server
    servicer = ExternalProcessorServicer(catalog, Broken(redis), PROOF)
    servicer.add_to(made)
    await made.start()
    with capture_logs() as logs:
        async with grpc.aio.insecure_channel(address) as channel:
            call = ext_proc_grpc.ExternalProcessorStub(channel).Process()
            await call.write(headers())
            await call.write(body())
            status, replies = await end_of(call)
        await servicer.drain()

    assert grpc.StatusCode.INTERNAL is status
    assert ["request_headers"] == [it.WhichOneof("response") for it in replies]
    assert ["admission.failed"] == [it["event"] for it in logs]
