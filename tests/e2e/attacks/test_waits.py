"""What bounds the sending of a request bounds no stream that was let in."""

import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.e2e.attacks.http2 import call, frame
from tests.e2e.attacks.rig import Tree
from tests.e2e.edge.backend import answer

pytestmark = pytest.mark.asyncio(loop_scope="session")

_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def _speak_http1(tree: Tree) -> None:
    """As the rig's backend does."""
    for cluster in tree["static_resources"]["clusters"]:
        if cluster["name"] == "tiny-chat-grpc":
            del cluster["typed_extension_protocol_options"]


async def test_a_stream_may_wait_for_its_first_answer(rig):
    """Its client has more to say, and its request waits in the model's queue."""
    request = pb.ModelInferRequest(model_name="tiny-chat")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\2\0\0\0hi")
    async with rig.gateway("waits", _speak_http1, variant="hurried") as gateway:
        ok = answer(b"", "application/grpc", "grpc-status: 0\r\n")
        script = gateway.backend.script([0.6, *ok])
        seen = await call(
            _STREAM,
            ("x-test-script", script),
            messages=[frame(request.SerializeToString())],
            ends=False,
        )(gateway)

    (reply,) = seen.replies
    assert "0" == reply.header("grpc-status")
