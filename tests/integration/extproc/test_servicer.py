"""The ext_proc service over real gRPC: how every stream ends."""

import asyncio
import dataclasses
import json
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.redis_process import secret_file
from tollhouse.adapters.grpc_frames import framed
from tollhouse.adapters.metrics import Metrics
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.limiter import Limiter
from tollhouse.adapters.redis.workers import Workers
from tollhouse.adapters.tokenizer import Tokenizers
from tollhouse.adapters.tracing import Tracing
from tollhouse.core.catalog import RedisDown
from tollhouse.core.entitlement import entitlement
from tollhouse.core.exchange import nothing_used
from tollhouse.core.experience import Experience
from tollhouse.core.identity import Principal
from tollhouse.core.ids import created_ms
from tollhouse.core.inquiry_pace import AT_ONCE
from tollhouse.core.limits import Allowance
from tollhouse.core.surface import GRPC_SERVICE
from tollhouse.core.usage import decode_facts
from tollhouse.extproc.ladder import Ladder
from tollhouse.extproc.reserving import MOST_HELD_OF_TENANT
from tollhouse.extproc.servicer import ExternalProcessorServicer
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from tollhouse.pb.envoy.service.ext_proc.v3 import (
    external_processor_pb2_grpc as ext_proc_grpc,
)
from tollhouse.pb.tollhouse.triton.v1 import infer_pb2 as infer_pb

SPAN = "00f067aa0ba902b7"
PROOF = b"p" * 40
CHAT = {"model": "tiny-chat", "messages": [{"role": "user", "content": "hi"}]}


def headers(
    path="/v1/chat/completions",
    method="POST",
    *,
    principal=True,
    ends=False,
    tenant="acme",
):
    message = ext_proc.ProcessingRequest()
    for name, value in ((":method", method), (":path", path)):
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.request_headers.end_of_stream = ends
    if principal:
        metadata = message.metadata_context.filter_metadata
        fields = metadata["envoy.filters.http.ext_authz"].fields
        fields["tenant"].string_value = tenant
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


def servicer_of(live, limiter, redis, tracing=None):
    """The service as its process wires it."""
    return ExternalProcessorServicer(
        live=live,
        experience=Experience(),
        tokenizers=Tokenizers(),
        ladder=Ladder(limiter, Workers(redis, "w"), Metrics(), note=lambda _: None),
        metrics=Metrics(),
        proof=PROOF,
        tracing=tracing or Tracing(),
    )


@pytest.fixture
async def stub(server, live, limiter, redis):
    made, address = server
    servicer = servicer_of(live, limiter, redis)
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
        "content-type": b"application/json",
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

    assert (400, "invalid_request") == (refusal.status.code, refusal.details)
    assert "max_tokens" == json.loads(refusal.body)["error"]["param"]
    assert not await reservations(redis)


def call(message):
    """A body of gRPC's."""
    made = ext_proc.ProcessingRequest()
    made.request_body.body = framed(message.SerializeToString())
    made.request_body.end_of_stream = True
    return made


def of_triton(path, *, method="POST", ends=False, **more):
    """Headers of Triton's protocols, and others."""
    message = headers(path, method, ends=ends)
    fields = message.metadata_context.filter_metadata["envoy.filters.http.ext_authz"]
    fields.fields["scopes"].string_value = "infer:write models:read"
    for name, value in more.items():
        key = name.replace("_", "-")
        message.request_headers.headers.headers.add(key=key, raw_value=value)
    return message


def put(common):
    """Headers that a reply sets."""
    set_ = common.header_mutation.set_headers
    return {it.header.key: it.header.raw_value for it in set_}


async def test_an_inference_is_written_anew(stub):
    """The one message of a call, under the repository's name."""
    text = infer_pb.InferInputTensor(name="text_input", datatype="BYTES", shape=[1, 1])
    request = infer_pb.ModelInferRequest(model_name="tiny-chat", inputs=[text])
    request.raw_input_contents.append(b"\2\0\0\0hi")
    stream = stub.Process()
    path = f"{GRPC_SERVICE}ModelInfer"
    await stream.write(of_triton(path, content_type=b"application/grpc"))
    await stream.read()
    await stream.write(call(request))
    admitted = await stream.read()

    assert grpc.aio.EOF == await stream.read()
    common = admitted.request_body.response
    sent = put(common)
    assert (b"tiny-chat-grpc", b"application/grpc") == (
        sent["x-tollhouse-cluster"],
        sent["content-type"],
    )
    body_ = common.body_mutation.body
    assert b"%d" % len(body_) == sent["content-length"]
    written = infer_pb.ModelInferRequest.FromString(body_[5:])
    assert "return_num_output_tokens" in [it.name for it in written.inputs]
    assert "path" not in admitted.dynamic_metadata["tollhouse"]


async def test_binary_tensors_say_where_they_begin(stub):
    """In the header as it is after the JSON was written anew."""
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1]}
    binary = {"parameters": {"binary_data_size": 6}}
    head = json.dumps({"inputs": [tensor | binary]}).encode()
    message = ext_proc.ProcessingRequest()
    message.request_body.body = head + b"\2\0\0\0hi"
    stream = stub.Process()
    length = b"%d" % len(head)
    path = "/v2/models/tiny-chat/infer"
    await stream.write(of_triton(path, inference_header_content_length=length))
    await stream.read()
    await stream.write(message)
    admitted = await stream.read()

    sent, common = put(admitted.request_body.response), admitted.request_body.response
    end = int(sent["inference-header-content-length"])
    assert json.loads(common.body_mutation.body[:end])["inputs"][1:]
    assert b"\2\0\0\0hi" == common.body_mutation.body[end:]
    assert b"application/octet-stream" == sent["content-type"]
    assert path == admitted.dynamic_metadata["tollhouse"]["path"]


async def test_what_only_tells_is_passed_without_an_exchange(stub, redis):
    """From the headers, over HTTP; from the message that names the model, in gRPC."""
    http = stub.Process()
    path = "/v2/models/tiny-chat/ready"
    await http.write(of_triton(path, method="GET", ends=True))
    passed = await http.read()
    grpc_ = stub.Process()
    path = f"{GRPC_SERVICE}ModelReady"
    await grpc_.write(of_triton(path, content_type=b"application/grpc"))
    first = await grpc_.read()
    await grpc_.write(call(infer_pb.ModelRequest(name="tiny-chat", version="3")))
    second = await grpc_.read()

    assert grpc.aio.EOF == await http.read() == await grpc_.read()
    headers_, body_ = passed.request_headers.response, second.request_body.response
    for common, cluster in ((headers_, b"-http"), (body_, b"-grpc")):
        assert common.clear_route_cache
        assert PROOF == put(common)["x-tollhouse-admitted"]
        assert b"tiny-chat" + cluster == put(common)["x-tollhouse-cluster"]
    assert infer_pb.ModelRequest(
        name="tiny-chat", version="3"
    ) == infer_pb.ModelRequest.FromString(body_.body_mutation.body[5:])
    for reply in (passed, first, second):
        told = reply.dynamic_metadata.fields["tollhouse"].struct_value
        assert "exchange" not in told.fields
    assert not await reservations(redis)


async def test_nobody_keeps_a_backend_busy_with_questions(stub):
    """A key that asks without end is told when to ask again."""
    statuses: list[int] = []
    while 429 not in statuses:  # a slow asker is given more of them meanwhile
        stream = stub.Process()
        path = "/v2/models/tiny-chat/ready"
        await stream.write(of_triton(path, method="GET", ends=True))
        reply = await stream.read()
        statuses.append(reply.immediate_response.status.code)

    assert AT_ONCE <= statuses.count(0)
    assert {0, 429} == set(statuses)


async def test_it_answers_for_the_server(server, live, limiter, redis):
    """In Triton's gRPC, to whom Envoy leads here."""
    made, address = server
    servicer_of(live, limiter, redis).add_to(made)
    await made.start()
    async with grpc.aio.insecure_channel(address) as channel:
        triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        live_ = await triton.ServerLive(service_pb2.ServerLiveRequest())
        ready = await triton.ServerReady(service_pb2.ServerReadyRequest())
        tells = await triton.ServerMetadata(service_pb2.ServerMetadataRequest())

    assert (True, True, "tollhouse") == (live_.live, ready.ready, tells.name)


async def test_lists_models_from_the_headers_alone(stub):
    """GET has no body message to wait for."""
    call = stub.Process()
    await call.write(headers("/v1/models", "GET", ends=True))
    answer = (await call.read()).immediate_response

    assert (200, "answered") == (answer.status.code, answer.details)
    assert ["tiny-chat"] == [it["id"] for it in json.loads(answer.body)["data"]]


@pytest.fixture
async def away(tmp_path):
    """A client of a Redis that is not there."""
    client = await Redis.connect(f"unix://{tmp_path}/nobody.sock")
    yield client
    await client.close()


def with_plan(live, **changes):
    """Change the demo plan of the catalog."""
    plan = dataclasses.replace(live.catalog.plans["demo"], **changes)
    live.catalog = dataclasses.replace(live.catalog, plans={"demo": plan})


async def answered(address, message=None):
    """Say what one request is answered after its headers."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = ext_proc_grpc.ExternalProcessorStub(channel).Process()
        await call.write(headers())
        await call.read()
        await call.write(message or body())
        return await call.read()


async def test_an_outage_is_503_where_the_plan_denies(server, live, away):
    """Redis away: the client may try again, and keeps its key."""
    with_plan(live, redis_down=RedisDown.DENY)
    made, address = server
    servicer = servicer_of(live, Limiter(away), away)
    servicer.add_to(made)
    await made.start()
    refusal = (await answered(address)).immediate_response
    await servicer.drain()

    assert 503 == refusal.status.code
    assert "service_unavailable" == json.loads(refusal.body)["error"]["code"]
    sent = {it.header.key: it.header.raw_value for it in refusal.headers.set_headers}
    assert b"1" == sent["retry-after"]


async def test_an_outage_costs_nobody_an_answer_where_the_plan_degrades(
    server, live, away
):
    """The worker's own part of the limits admits; the facts name what it charges."""
    made, address = server
    servicer_of(live, Limiter(away), away).add_to(made)
    await made.start()
    admitted = (await answered(address)).dynamic_metadata["tollhouse"]

    assert admitted["admitted"]
    entitled = entitlement(
        live.catalog,
        Principal("acme", "key", "demo", ()),
        live.catalog.models["tiny-chat"],
    )
    assert entitled
    assert len(entitled.limits) == len(decode_facts(admitted["facts"]).debits)


async def test_what_shadow_would_refuse_is_admitted_and_told(
    server, live, limiter, redis
):
    """Trying a limit out must be visible, and harmless."""
    with_plan(live, tenant=Allowance(concurrent=1, shadow=True))
    made, address = server
    servicer_of(live, limiter, redis).add_to(made)
    await made.start()
    with capture_logs() as logs:
        for _ in range(2):
            reply = await answered(address)
            assert reply.dynamic_metadata["tollhouse"]["admitted"]

    told = [(it["event"], it["tenant"], it["scope"], it["measure"]) for it in logs]
    assert [("limit.shadowed", "acme", "tenant", "concurrent")] == told


class TestASaturatedModel:
    """One request holds the whole capacity; another comes."""

    @pytest.fixture
    def hold_seconds(self):
        """Longer than a machine stands still."""
        return 5

    @pytest.fixture
    async def address(self, server, live, limiter, redis, hold_seconds):
        made, address = server
        model = dataclasses.replace(
            live.catalog.models["tiny-chat"], capacity=1, hold_seconds=hold_seconds
        )
        live.catalog = dataclasses.replace(live.catalog, models={"tiny-chat": model})
        servicer = servicer_of(live, limiter, redis)
        servicer.add_to(made)
        await made.start()
        yield address
        await servicer.drain()

    async def ask(self, call, tenant="acme"):
        await call.write(headers(tenant=tenant))
        await call.read()
        await call.write(body())

    @pytest.mark.parametrize("hold_seconds", [0.6])
    async def test_asks_envoy_for_time_and_refuses_at_the_end(self, address):
        """Envoy would give up after a second; the client hears of it once."""
        await answered(address)
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = ext_proc_grpc.ExternalProcessorStub(channel).Process()
            await self.ask(call)
            hold, refusal = await call.read(), await call.read()

        assert 600 < hold.override_message_timeout.ToMilliseconds() <= 6000
        error = json.loads(refusal.immediate_response.body)["error"]
        assert {"scope": "model", "measure": "capacity"} == error["limit"]

    async def test_nobody_is_held_in_all_places(self, address):
        """A tenant has some, however many it asks for; another one finds its own."""
        await answered(address)
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = ext_proc_grpc.ExternalProcessorStub(channel)

            async def first_answer(tenant):
                call = stub.Process()
                await self.ask(call, tenant)
                answer = await call.read()
                held = answer.HasField("override_message_timeout")
                return held, call  # which would end with the last who knows it

            noisy = await asyncio.gather(*(first_answer("acme") for _ in range(50)))
            quiet, _call = await first_answer("other")

        assert MOST_HELD_OF_TENANT == sum(held for held, _ in noisy)
        assert quiet

    async def test_admits_when_room_comes_in_time(self, address, limiter):
        """That is what the hold is for."""
        first = await answered(address)
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = ext_proc_grpc.ExternalProcessorStub(channel).Process()
            await self.ask(call)
            assert (await call.read()).HasField("override_message_timeout")
            facts = decode_facts(first.dynamic_metadata["tollhouse"]["facts"])
            exchange = {
                it.header.key: it.header.raw_value.decode()
                for it in first.request_body.response.header_mutation.set_headers
            }["x-tollhouse-exchange"]
            await limiter.apply([], [], [nothing_used(exchange, facts, 1, 1)])

            assert (await call.read()).dynamic_metadata["tollhouse"]["admitted"]

    @pytest.mark.parametrize("hold_seconds", [0.6])
    async def test_a_client_that_leaves_is_held_no_longer(self, address, redis):
        """Nothing stays reserved for it."""
        first = await answered(address)
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = ext_proc_grpc.ExternalProcessorStub(channel).Process()
            await self.ask(call)
            await call.read()
            call.cancel()
        await asyncio.sleep(0.8)

        assert first.dynamic_metadata["tollhouse"]["admitted"]
        async with asyncio.timeout(30):
            while 1 != await redis.call("ZCARD", "{m0}:leases"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_missing_plan_is_named_in_the_log(server, live, limiter, redis):
    """The client is told nothing but 503, so the operator must be."""
    live.catalog = dataclasses.replace(live.catalog, plans={})
    made, address = server
    servicer_of(live, limiter, redis).add_to(made)
    await made.start()
    with capture_logs() as logs:
        refusal = (await answered(address)).immediate_response

    assert 503 == refusal.status.code
    ((event, reason),) = [(it["event"], it["reason"]) for it in logs]
    assert "admission.refused" == event
    assert "'demo'" in reason


async def test_a_bug_is_an_error_status_never_a_free_ride(server, live, redis):
    """Whatever breaks while a request is judged: not admitted, and reported once."""

    class Broken(Limiter):
        async def reserve(self, reservation, **_):
            raise KeyError(reservation.exchange_id)

    made, address = server
    servicer = servicer_of(live, Broken(redis), redis)
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


async def test_a_line_about_a_request_names_it(server, live, limiter, redis):
    """By its exchange, its trace and its request id; the next one by its own."""
    made, address = server
    servicer_of(live, limiter, redis).add_to(made)
    await made.start()
    traces = [str(number) * 32 for number in (1, 2)]
    with capture_logs(processors=[merge_contextvars]) as logs:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = ext_proc_grpc.ExternalProcessorStub(channel)
            for trace in traces:
                opening = headers()
                opening.request_headers.headers.headers.add(
                    key="x-request-id", raw_value=f"r-{trace}".encode()
                )
                call = stub.Process(metadata=[("traceparent", f"00-{trace}-{SPAN}-00")])
                await call.write(opening)
                await call.write(opening)  # where a body belongs
                await end_of(call)

    failed = [it for it in logs if it["event"] == "admission.failed"]
    assert [(it, f"r-{it}") for it in traces] == [
        (it["trace_id"], it["request_id"]) for it in failed
    ]
    assert 2 == len({it["exchange_id"] for it in failed})


async def test_a_redis_that_does_not_want_us_is_told_to_the_operator(
    server, live, redis, redis_url, tmp_path
):
    """It does not pass by itself: somebody has to give us leave."""
    await redis.call("ACL", "SETUSER", "narrow", "on", ">pass", "+ping", "~*")
    password = secret_file(tmp_path, "pass")
    narrow = await Redis.connect(RedisAccess(redis_url, "narrow", password))
    made, address = server
    servicer_of(live, Limiter(narrow), narrow).add_to(made)
    await made.start()
    with capture_logs() as logs:
        refusal = (await answered(address)).immediate_response
    await narrow.close()

    assert 503 == refusal.status.code
    assert ("reservation.failed", "Redis answered NOPERM") in [
        (it["event"], it.get("reason")) for it in logs
    ]
