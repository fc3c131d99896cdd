"""Triton's gRPC API, one answer to each call, with Triton's own clients."""

import asyncio
import json
import struct
import time

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as client_of
import tritonclient.grpc.aio as aio_client_of
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.main import books
from tests.e2e.triton.calls import add, ask, refusal
from tests.e2e.triton.conftest import RENAMED, UNARY
from tests.e2e.triton.found import FREED_SECONDS, settled, truth
from tollhouse.core.usage import CountSource, UsageKind


def tensors(text: bytes, cap: int | None = 8):
    """Inputs as the client's users make them."""
    made = client_of.InferInput("text_input", [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[text]], object))
    if cap is None:
        return [made]
    most = client_of.InferInput("max_tokens", [1, 1], "INT32")
    most.set_data_from_numpy(np.array([[cap]], np.int32))
    return [made, most]


def one(text: str = "hi", cap: int | None = 1, model: str = UNARY, id_: str = ""):
    """A request for one answer."""
    return ask(text, cap, id_, model, stream=False)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def sync(stack):
    """Triton's client, as most programs use it."""
    address = stack.base_url.removeprefix("http://").removesuffix("/v1")
    with client_of.InferenceServerClient(address) as made:
        yield made


@pytest.fixture
def stub(channel):
    """Its generated code, which tells all of a status."""
    return pb_grpc.GRPCInferenceServiceStub(channel)


def test_what_the_client_asks_before_it_infers(stack, sync, make_key, tenant):
    """Of the gateway itself, and of models; none of it is an exchange."""
    headers = bearer(make_key(tenant))
    server = sync.get_server_metadata(headers)
    model = sync.get_model_metadata(RENAMED, headers=headers)

    assert sync.is_server_live(headers)
    assert sync.is_server_ready(headers)
    assert "tollhouse" == server.name
    assert sync.is_model_ready(UNARY, headers=headers)
    assert sync.is_model_ready(RENAMED, "1", headers=headers)
    assert not sync.is_model_ready(UNARY, "7", headers=headers)
    assert "text_input" in [it.name for it in model.inputs]
    assert {} == books.settlements(stack.state_dir, tenant)


@pytest.mark.parametrize("model", [UNARY, RENAMED])
@pytest.mark.parametrize("outputs", [None, ["text_output"]])
def test_an_inference_is_counted_to_the_token(stack, sync, make_key, model, outputs):
    """Also where the client asks for no counts; and none but the text is said twice."""
    tenant = f"counted-{model}-{len(outputs or ())}"
    wanted = outputs and [client_of.InferRequestedOutput(it) for it in outputs]
    result = sync.infer(
        model,
        tensors(b"Who keeps the toll?"),
        outputs=wanted,
        request_id=tenant,
        headers=bearer(make_key(tenant)),
    )
    (record,), (entry,) = settled(stack, tenant).values(), truth(stack)[tenant]

    assert result.as_numpy("text_output").item()
    assert tenant == result.get_response().id
    assert (
        UsageKind.FINAL,
        entry["input_tokens"],
        entry["output_tokens"],
        CountSource.BACKEND,
        8,
    ) == (
        record.kind,
        record.usage.input_tokens,
        record.usage.output_tokens,
        record.output_source,
        record.facts.output_cap,
    )


def test_without_a_cap_it_gets_the_models(stack, sync, make_key, tenant):
    """The tensor is required there."""
    sync.infer(UNARY, tensors(b"hi", None), headers=bearer(make_key(tenant)))
    (record,) = settled(stack, tenant).values()

    assert 256 == record.facts.output_cap


async def test_many_at_once(stack, make_key, tenant):
    """With the client for asyncio; the books agree with the engine's log."""
    key = make_key(tenant)
    address = stack.base_url.removeprefix("http://").removesuffix("/v1")
    async with aio_client_of.InferenceServerClient(address) as client:
        await asyncio.gather(
            *(
                client.infer(
                    UNARY,
                    tensors(b"Request %d." % number, 3 + number % 5),
                    request_id=f"{tenant}/{number}",
                    headers=bearer(key),
                )
                for number in range(32)
            )
        )
    records, generated = settled(stack, tenant, 32), truth(stack)
    entries = [it for number in range(32) for it in generated[f"{tenant}/{number}"]]

    assert 32 == len(records) == len(entries)
    for kind in ("input_tokens", "output_tokens"):
        counted = sum(getattr(it.usage, kind) for it in records.values())
        assert sum(it[kind] for it in entries) == counted


async def test_over_a_limit_it_is_told_when_to_come_again(stub, make_key, tenant):
    metadata = tuple(bearer(make_key(tenant, "tight")).items())
    for _ in range(3):
        await stub.ModelInfer(one(), metadata=metadata)
    late = stub.ModelInfer(one(), metadata=metadata)
    code, message, seconds = await refusal(late)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is code
    assert "6 requests per minute of this API key" in message
    assert 0 < seconds <= 10


def classified(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """Name a count, as the strings of Triton's classification extension."""
    output = request.outputs.add(name="num_output_tokens")
    output.parameters["classification"].int64_param = 1
    return request


REFUSED = {
    "another model": (one(model="other"), grpc.StatusCode.NOT_FOUND),
    "the repository's": (one(model="in-the-repository"), grpc.StatusCode.NOT_FOUND),
    "a lever": (
        add(one(), "beam_width", "INT32", struct.pack("<i", 4)),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "counts as strings": (classified(one()), grpc.StatusCode.INVALID_ARGUMENT),
    "too much": (one(cap=1_000_000), grpc.StatusCode.INVALID_ARGUMENT),
    "no text": (
        pb.ModelInferRequest(model_name=UNARY),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
}


@pytest.mark.parametrize("which", REFUSED)
async def test_what_is_not_served_reaches_nobody(stack, stub, which):
    request, expected = REFUSED[which]
    metadata = tuple(bearer(stack.api_key).items())
    before = len(truth(stack)[""])
    code, message, seconds = await refusal(stub.ModelInfer(request, metadata=metadata))

    assert (expected, -1) == (code, seconds)
    assert message
    assert before == len(truth(stack)[""])


async def test_a_compressed_message_is_refused(stub, make_key, tenant):
    """Nobody here could read it."""
    call = stub.ModelInfer(
        one("x" * 2000),
        metadata=tuple(bearer(make_key(tenant)).items()),
        compression=grpc.Compression.Gzip,
    )

    assert grpc.StatusCode.UNIMPLEMENTED is (await refusal(call))[0]


async def test_a_message_that_is_too_large_is_refused(stub, stack):
    """By Envoy, before anybody asks who sent it; in words all the same."""
    call = stub.ModelInfer(
        one("x" * (4 << 20)), metadata=tuple(bearer(stack.api_key).items())
    )

    assert "The message is larger than 3 MiB." == await call.details()


def test_strangers_are_told_why(stack, sync):
    """In gRPC, too."""
    created = stack.run(
        "keys", "create", "--tenant", "demo", "--json", "--scope", "models:read"
    )
    reader = bearer(json.loads(created)["key"])
    with pytest.raises(InferenceServerException) as nobody:
        sync.infer(UNARY, tensors(b"hi"))
    with pytest.raises(InferenceServerException) as other:
        sync.infer(UNARY, tensors(b"hi"), headers=reader)

    assert "StatusCode.UNAUTHENTICATED" == nobody.value.status()
    assert nobody.value.message().startswith("Incorrect API key.")
    assert "StatusCode.PERMISSION_DENIED" == other.value.status()
    assert "This API key lacks the scope infer:write." == other.value.message()


def test_what_the_backend_says_of_a_failure_stays_there(sync, make_key, tenant):
    """It names models of the repository."""
    headers = bearer(make_key(tenant))
    for ask_ in (
        lambda: sync.infer(RENAMED, tensors(b"hi"), "7", headers=headers),
        lambda: sync.infer("tiny-chat", tensors(b"hi"), headers=headers),
        lambda: sync.get_model_metadata(RENAMED, "7", headers=headers),
    ):
        with pytest.raises(InferenceServerException) as caught:
            ask_()
        assert "The model's server refused the request." == caught.value.message()


@pytest.mark.parametrize(
    "name",
    [
        *("get_model_repository_index", "get_inference_statistics"),
        *("get_trace_settings", "get_log_settings"),
        *("get_system_shared_memory_status", "get_cuda_shared_memory_status"),
    ],
)
def test_the_control_plane_is_closed(sync, stack, name):
    """To every key."""
    with pytest.raises(InferenceServerException) as caught:
        getattr(sync, name)(headers=bearer(stack.api_key))

    assert "StatusCode.UNIMPLEMENTED" == caught.value.status()


@pytest.mark.timed
async def test_a_client_that_leaves_frees_the_engine(stack, stub, make_key, tenant):
    """One that waits for its one answer, too."""
    request = one(cap=2000, id_=tenant)
    add(request, "end_id", "INT32", struct.pack("<i", -1))  # no token ends it
    metadata = tuple(bearer(make_key(tenant)).items())
    call = stub.ModelInfer(request, metadata=metadata)
    await asyncio.wait([asyncio.ensure_future(call.initial_metadata())], timeout=0.3)
    call.cancel()
    left_at = time.time()
    books.within(30, lambda: len(truth(stack)[tenant]) == 1)
    (entry,) = truth(stack)[tenant]

    assert "cancelled" == entry["outcome"]
    assert entry["at"] - left_at <= FREED_SECONDS
    assert 1 == len(settled(stack, tenant))
