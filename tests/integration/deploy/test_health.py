"""Health on a port of its own: what a kubelet asks, who has no certificate."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.process import Process, StartError

CHECK = health_pb2.HealthCheckRequest()
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def port(free_port):
    return free_port()


@pytest.mark.timed
async def test_health_is_answered_beside_a_socket_and_says_when_it_drains(
    tmp_path, port
):
    process = Process("test")
    running = asyncio.Event()

    async def slow(_request, _context):
        running.set()
        await asyncio.sleep(0.3)
        return b""

    def add(server):
        method: Any = grpc.unary_unary_rpc_method_handler(slow)
        handler = grpc.method_handlers_generic_handler("test.Slow", {"Wait": method})
        server.add_generic_rpc_handlers((handler,))

    serving = asyncio.create_task(
        serve(
            process,
            add,
            f"unix:{tmp_path}/test.sock",
            health_listen=f"127.0.0.1:{port}",
        )
    )
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as probe,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/test.sock") as client,
    ):
        health = health_pb2_grpc.HealthStub(probe)
        elsewhere: Any = probe.unary_unary("/test.Slow/Wait")
        serves = await health.Check(CHECK, wait_for_ready=True, timeout=30)
        waiting: Any = client.unary_unary("/test.Slow/Wait")
        call = waiting(b"")
        await running.wait()
        process.stopping.set()
        drains = await _drains(health)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await elsewhere(b"")
        await call
        await serving

    assert serves.status == SERVING
    assert drains.status == NOT_SERVING
    # Nothing but health is there.
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def _drains(health):
    while True:
        answer = await health.Check(CHECK, timeout=30)
        if answer.status != SERVING:
            return answer
        await asyncio.sleep(0)


async def test_a_port_that_is_taken_is_said_at_start(tmp_path, port):
    async def nobody(*_):
        pass

    taken = await asyncio.start_server(nobody, "127.0.0.1", port)
    async with taken:
        with pytest.raises(StartError, match=f"health on 127.0.0.1:{port}"):
            await serve(
                Process("test"),
                lambda _: None,
                f"unix:{tmp_path}/test.sock",
                health_listen=f"127.0.0.1:{port}",
            )
