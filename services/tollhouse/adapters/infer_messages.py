"""Triton's inference request of gRPC: read, and written anew for the backend.

What is judged is read where the backend reads it (KServe's Open Inference Protocol,
"Tensor Data"): in the tensors' contents, or in raw bytes.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from google.protobuf.message import DecodeError

from tollhouse.core.infer import READ, TEXT, Rewrite, infer_request
from tollhouse.core.refusal import refuse
from tollhouse.core.request import Request
from tollhouse.core.tensor_data import UNREAD, Values, read_values, write_values
from tollhouse.pb.tollhouse.triton.v1 import infer_pb2 as pb

# Of each datatype the field of its contents; others have none.
_CONTENTS: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool_contents",
        "INT8": "int_contents",
        "INT16": "int_contents",
        "INT32": "int_contents",
        "INT64": "int64_contents",
        "UINT8": "uint_contents",
        "UINT16": "uint_contents",
        "UINT32": "uint_contents",
        "UINT64": "uint64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        "BYTES": "bytes_contents",
    }
)


class InferMessage:
    """One request as it came."""

    def __init__(self, message: bytes) -> None:
        """Parse it. Raises Problem for what Triton could read otherwise, or not."""
        try:
            self._pb = pb.ModelInferRequest.FromString(message)
        except DecodeError:
            refuse("The message is not a ModelInferRequest.")
        self._texts = 0

    content_type = "application/grpc"
    head_bytes = None

    @property
    def id(self) -> str:
        """The client's, which every answer repeats; may be empty."""
        return self._pb.id

    def give_id(self, id_: str) -> None:
        """Put another in its place."""
        self._pb.id = id_

    def request(self) -> Request:
        """What it asks for. Raises Problem with the tensor that is wrong."""
        message = self._pb
        request = infer_request(
            message.model_name,
            dict(self._tensors()),
            tuple(message.parameters),
            {name for it in message.inputs for name in it.parameters},
            {name for it in message.outputs for name in it.parameters},
        )
        self._texts = request.choices
        return request

    def _tensors(self) -> Iterator[tuple[str, Values]]:
        message, seen = self._pb, set[str]()
        raws = message.raw_input_contents
        if raws and len(raws) != len(message.inputs):
            refuse("must have the contents of each input.", "raw_input_contents")
        for number, tensor in enumerate(message.inputs):
            name = tensor.name
            if name in seen:
                refuse("is given twice.", name)
            seen.add(name)
            if raws and tensor.HasField("contents"):
                refuse("has contents beside raw ones.", name)
            if name in READ:
                raw = raws[number] if raws else None
                yield name, _values(tensor, raw)

    def rewritten(self, rewrite: Rewrite) -> bytes:
        """The message as the backend gets it, once judged."""
        message = self._pb
        message.model_name = rewrite.model
        for name, datatype, value in rewrite.inputs:
            self._set(name, datatype, value)
        ours = rewrite.outputs([it.name for it in message.outputs])
        kept = [it for it in message.outputs if it.name not in ours]
        del message.outputs[:]
        message.outputs.extend(kept)
        for name in ours:
            message.outputs.add(name=name)
        return message.SerializeToString()

    def _set(self, name: str, datatype: str, value: int) -> None:
        """Give a tensor one value, as often as there are texts."""
        message = self._pb
        inputs, raws = message.inputs, message.raw_input_contents
        for number, tensor in enumerate(inputs):
            if tensor.name == name:
                del inputs[number]
                if raws:
                    del raws[number]
                break
        (shape,) = (it.shape for it in inputs if it.name == TEXT)
        is_batch = len(shape) > 1
        values = [value] * (self._texts if is_batch else 1)
        added = inputs.add(name=name, datatype=datatype)
        added.shape.extend([len(values), 1] if is_batch else [1])
        if raws:
            raws.append(write_values(datatype, values))
        else:
            getattr(added.contents, _CONTENTS[datatype]).extend(values)


def _values(tensor: pb.InferInputTensor, raw: bytes | None) -> Values:
    if raw is not None:
        return read_values(tensor.name, tensor.datatype, raw)
    field = _CONTENTS.get(tensor.datatype)
    return UNREAD if field is None else tuple(getattr(tensor.contents, field))
