"""The meter of gRPC inside Envoy, before a server that ends its streams with trailers.

extproc's part of a stream is not here (tests/e2e/triton): the request is judged as a
whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2 as pb

from tests.e2e.edge import services
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import KEY, Edge, running_edge
from tests.unit.meter import shapes
from tests.unit.meter.reference import WORDS
from tests.unit.meter.test_grpc import failed, response, streamed

pytestmark = pytest.mark.asyncio(loop_scope="session")

Context = Any
Script = Callable[[Context], AsyncIterator[bytes]]

_PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
_ONE = response(b"Hello", request="a", input_tokens=412, output_tokens=3)
_OTHER = response(b"you", request="b", input_tokens=10, output_tokens=1)


@dataclass
class Server(grpc.GenericRpcHandler):
    """Does what the test wrote down, for any method."""

    script: Script | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        assert self.script is not None
        context.add_done_callback(lambda _: self.gone.set())
        async for _ in requests:
            async for message in self.script(context):
                yield message


@dataclass
class Stack:
    """An edge before such a server."""

    edge: Edge
    server: Server

    def call(self, query: str = "") -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        """Open a stream with one request."""
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.edge.port}")
        one: Any = channel.stream_stream(_PATH + query)
        return one(iter([b"{}"]), metadata=[("authorization", KEY)])

    async def ended(self, call: Any) -> str:
        """Return the meter's string of a call that has ended, without its times."""
        headers = dict(await call.initial_metadata())
        trailers = dict(await call.trailing_metadata())
        id_ = (headers | trailers)["x-tollhouse-exchange"]
        line = await self.edge.ended(id_)
        fields = line["meter"].split(",")
        return ",".join(fields[:8] + fields[10:])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory) -> AsyncIterator[Stack]:
    server, port = Server(), find_port()
    runner = grpc.aio.server()
    runner.add_generic_rpc_handlers((server,))
    runner.add_insecure_port(f"127.0.0.1:{port}")
    await runner.start()

    def change(tree: Any) -> None:
        resources = tree["static_resources"]
        manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]
        manager = manager["typed_config"]
        routes = {
            route["name"]: route
            for route in manager["route_config"]["virtual_hosts"][0]["routes"]
        }
        judged = routes["api-unadmitted"]["typed_per_filter_config"]
        routes["stream-unadmitted"]["typed_per_filter_config"] = judged
        for item in manager["http_filters"]:
            if item["name"] == "envoy.filters.http.ext_proc":
                namespaces = item["typed_config"]["metadata_options"]
                namespaces = namespaces["receiving_namespaces"]["untyped"]
                namespaces.append("tollhouse.refusal")
        (cluster,) = (it for it in resources["clusters"] if it["name"] == "tiny-chat")
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["address"]["socket_address"]["port_value"] = port

    http2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
    folder = tmp_path_factory.mktemp("grpc")
    async with running_edge(folder, find_port, patched=http2, change=change) as edge:
        yield Stack(edge, server)
    await runner.stop(0)


def _says(*messages: bytes, then: Script | None = None) -> Script:
    async def script(context: Context) -> AsyncIterator[bytes]:
        for message in messages:
            yield message[5:]  # the server frames it
        if then is not None:
            async for message in then(context):
                yield message

    return script


def _aborts(code: grpc.StatusCode) -> Script:
    async def script(context: Context) -> AsyncIterator[bytes]:
        await context.abort(code, shapes.CANARY)
        yield b""

    return script


async def _received(call: Any) -> list[bytes]:
    return [message async for message in call]


async def test_a_stream(stack):
    """Counts add up, the messages pass as they came, and OK is the end."""
    messages = [streamed(_ONE), streamed(_OTHER), streamed(_ONE)]
    stack.server.script = _says(*messages)

    call = stack.call()

    assert await _received(call) == [message[5:] for message in messages]
    assert await call.code() == grpc.StatusCode.OK
    assert await stack.ended(call) == "grpc,3,3,3,422,7,-,-,F,13"


async def test_a_large_message(stack):
    """A message of 3 MB is read as it passes."""
    message = streamed(response(input_tokens=412, output_tokens=3, logits=750_000))
    stack.server.script = _says(message)

    call = stack.call()

    assert await _received(call) == [message[5:]]
    assert await stack.ended(call) == "grpc,1,1,1,412,3,-,-,F,5"


async def test_nothing_at_all(stack):
    """An answer that is its trailers alone."""
    stack.server.script = _says()

    call = stack.call()

    assert await _received(call) == []
    assert await call.code() == grpc.StatusCode.OK
    assert await stack.ended(call) == "grpc,0,0,0,-,-,-,-,F,0"


async def test_an_error_in_a_message(stack):
    """Triton's own way to fail: status OK, and its words in the stream."""
    stack.server.script = _says(streamed(_ONE), failed(shapes.CANARY, "a"))

    call = stack.call()
    _, error = map(pb.ModelStreamInferResponse.FromString, await _received(call))

    assert (error.error_message, error.infer_response.id) == (WORDS, "a")
    assert await stack.ended(call) == "grpc,2,1,1,412,3,-,-,B,5"


@pytest.mark.parametrize("messages", [[], [streamed(_ONE)]], ids=["alone", "after"])
@pytest.mark.parametrize(
    ("code", "seen", "words"),
    [
        (grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL, WORDS),
        (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, WORDS),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.INVALID_ARGUMENT,
            "The model's server refused the request.",
        ),
    ],
)
async def test_a_status_has_our_words(stack, messages, code, seen, words):
    """In trailers, and in headers that are all there is."""
    stack.server.script = _says(*messages, then=_aborts(code))

    call = stack.call()
    with pytest.raises(grpc.aio.AioRpcError):
        await _received(call)

    assert (await call.code(), await call.details()) == (seen, words)
    meter = await stack.ended(call)
    assert meter.startswith("grpc,1,1,1,412,3," if messages else "grpc,0,0,0,")
    assert meter.split(",")[-2] == "B"


@pytest.mark.parametrize("messages", [[], [streamed(_ONE)]], ids=["alone", "after"])
async def test_a_refusal_stands_for_ok(stack, messages):
    """A further request was over a limit: the stream ends well, and says so."""
    stack.server.script = _says(*messages)

    call = stack.call("?refused")
    with pytest.raises(grpc.aio.AioRpcError):
        await _received(call)

    assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call.details() == services.TOO_FAST
    trailers = dict(await call.trailing_metadata())
    assert trailers["grpc-status-details-bin"] == b"when to come back"
    assert (await stack.ended(call)).split(",")[-2] == "F"
    assert stack.edge.lines()[-1]["refusal"] == services.WORD


async def test_the_client_leaves(stack):
    """What it got is metered; the server hears of it; there is no end."""

    async def waits(_: Context) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    stack.server.gone.clear()
    stack.server.script = _says(streamed(_ONE), streamed(_OTHER), then=waits)
    call = stack.call()
    for _ in range(2):
        await call.read()
    headers = dict(await call.initial_metadata())

    call.cancel()

    line = await stack.edge.ended(headers["x-tollhouse-exchange"])
    fields = line["meter"].split(",")
    assert ",".join(fields[:8] + fields[10:]) == "grpc,2,2,2,422,4,-,-,,8"
    assert 0 < int(fields[8]) <= int(fields[9])
    await asyncio.wait_for(stack.server.gone.wait(), 30)


async def test_no_script_errors(stack):
    """After all of the above the script has not failed once."""
    assert await stack.edge.counter("lua.errors") == 0
