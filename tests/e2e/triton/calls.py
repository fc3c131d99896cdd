"""A client of Triton's gRPC protocol that sees every message."""

import asyncio
import struct
import time
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

MODEL = "tiny-chat"


def ask(
    text: str = "Tell me of the sea.",
    cap: int | None = 8,
    id_: str = "",
    model: str = MODEL,
    *,
    stream: bool = True,
) -> Any:
    """One request, its tensors in raw bytes as clients send them."""
    request = pb.ModelInferRequest(model_name=model, id=id_)
    add(request, "text_input", "BYTES", struct.pack("<I", len(text)) + text.encode())
    if stream:
        add(request, "stream", "BOOL", b"\1")
    if cap is not None:
        add(request, "max_tokens", "INT32", struct.pack("<i", cap))
    return request


def add(request: Any, name: str, datatype: str, raw: bytes) -> Any:
    """Add a tensor of one value."""
    request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
    request.raw_input_contents.append(raw)
    return request


def ask_long(cap: int, id_: str) -> Any:
    """One whose answer is as long as it may be: no token ends it."""
    return add(ask(cap=cap, id_=id_), "end_id", "INT32", struct.pack("<i", -1))


class Stream:
    """One stream of requests."""

    def __init__(self, channel: grpc.aio.Channel, key: str, **options: Any) -> None:
        stub: Any = pb_grpc.GRPCInferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)
        self.call = stub.ModelStreamInfer(metadata=metadata, **options)
        self.left_at = 0.0

    async def send(self, request: Any) -> None:
        """Send one request."""
        await self.call.write(request)

    async def read(self) -> Any:
        """Read one response; None at the end. Raises what Triton says in-band."""
        message = await self.call.read()
        if message is grpc.aio.EOF:
            return None
        assert not message.error_message, message.error_message
        return message.infer_response

    async def answer(self) -> int:
        """Read one request's whole answer; return how many responses it had."""
        count = 1
        while not is_final(await self.read()):
            count += 1
        return count

    async def finish(self) -> grpc.StatusCode:
        """Send no more, read the rest, return the status."""
        await self.call.done_writing()
        while await self.read() is not None:
            pass
        return await self.status()

    async def status(self) -> grpc.StatusCode:
        """The status, once it is there."""
        code: grpc.StatusCode = await self.call.code()
        return code

    async def exchange(self) -> str:
        """The exchange, as the answer's headers name it."""
        headers = dict(await self.call.initial_metadata())
        return str(headers["x-tollhouse-exchange"])

    def leave(self) -> None:
        """Reset it."""
        self.left_at = time.time()
        self.call.cancel()


def is_final(response: Any) -> bool:
    """Whether it is the last of its request."""
    assert response is not None
    return bool(response.parameters["triton_final_response"].bool_param)


async def refusal(call) -> tuple[grpc.StatusCode, str, float]:
    """Status, message and seconds of RetryInfo (-1: none) of a refused call.

    It names its trace, too, in the details and in a header.
    """
    async with asyncio.timeout(20):  # one that was let in goes on
        code, message = await call.code(), await call.details()
        trailers = dict(await call.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (code.value[0], message) == (status.code, status.message)
    seconds, named = -1.0, error_details_pb2.RequestInfo()
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            seconds = retry.retry_delay.ToTimedelta().total_seconds()
        else:
            assert detail.Unpack(named)
    initial = dict(await call.initial_metadata())
    assert named.request_id == (trailers | initial)["x-tollhouse-trace"]
    return code, message, seconds
