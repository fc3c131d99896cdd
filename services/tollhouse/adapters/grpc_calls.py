"""Bodies of gRPC calls with one request, in Triton's protocol."""

from google.protobuf.message import DecodeError

from tollhouse.adapters.grpc_frames import Frames, framed
from tollhouse.adapters.infer_messages import InferMessage
from tollhouse.core.infer import Rewrite
from tollhouse.core.refusal import refuse
from tollhouse.core.request import Request
from tollhouse.pb.tollhouse.triton.v1 import infer_pb2 as pb


class InferCall:
    """Body of ModelInfer."""

    content_type = "application/grpc"
    head_bytes = None

    def __init__(self, body: bytes) -> None:
        self._body = body

    def request(self) -> Request:
        """What it asks for. Raises Problem with what is wrong."""
        self._message = InferMessage(_only(self._body))
        return self._message.request()

    def rewritten(self, rewrite: Rewrite) -> bytes:
        """The body as the backend gets it, once judged."""
        return framed(self._message.rewritten(rewrite))


class ModelCall:
    """Body of ModelReady or ModelMetadata."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def model(self) -> str:
        """The name. Raises Problem where there is none."""
        try:
            self._pb = pb.ModelRequest.FromString(_only(self._body))
        except DecodeError:
            refuse("The message names no model.")
        return self._pb.name

    def renamed(self, name: str) -> bytes:
        """The body with this name in place of it."""
        self._pb.name = name
        return framed(self._pb.SerializeToString())


def _only(body: bytes) -> bytes:
    frames = Frames()
    messages = list(frames.feed(body))
    if len(messages) != 1 or not frames.is_between:
        refuse("The body must be one whole message.")
    return messages[0]
