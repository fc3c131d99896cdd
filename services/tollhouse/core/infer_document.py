"""Bodies of Triton's HTTP protocol: read, and written anew for the backend.

Two forms: `infer` names tensors, whose values may follow the JSON in binary (Triton's
binary tensor data extension); `generate` has them as fields (its generate extension).
The model is the path's. What is not looked at goes on byte for byte.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tollhouse.core.infer import READ, TEXT, Document, Rewrite, infer_request
from tollhouse.core.json_object import read
from tollhouse.core.refusal import refuse, refuse_unsupported
from tollhouse.core.request import Request
from tollhouse.core.surface import Place
from tollhouse.core.tensor_data import Value, Values, read_values

_HEAD = re.compile(r"[0-9]{1,9}")
_BINARY: Final = "binary_data_size"
_IN_BINARY: Final = "binary_data"
"""Of an output: whether it follows the JSON."""
_KEYS = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT = frozenset({"name", "parameters"})
_MODEL = frozenset({"model", "model_name"})
_STREAM = ("stream", "streaming")

_Fields = dict[str, msgspec.Raw]
_decode_object = msgspec.json.Decoder(_Fields).decode
_decode_objects = msgspec.json.Decoder(list[_Fields]).decode


def document_of(place: Place, body: bytes, head: str | None) -> Document:
    """A body as its path has it; `head`: the header that says where its JSON ends."""
    model, path = place.model or "", place.endpoint.path
    if path.endswith("/infer"):
        return _Infer(model, body, head)
    return _Generate(model, body, streams=path.endswith("/generate_stream"))


@dataclass(slots=True)
class _Input:
    """A tensor, with its values in binary where it has such."""

    fields: _Fields
    values: dict[str, Any]
    raw: bytes | None = None


class _Infer:
    content_type = "application/json"

    def __init__(self, model: str, body: bytes, head: str | None) -> None:
        self._model = model
        self._body = body
        self._head = head
        self.head_bytes: int | None = None

    def request(self) -> Request:
        end = self._end()
        self._fields, values = read(self._body[:end])
        for name in values.keys() - _KEYS:
            refuse_unsupported(name)
        _check_id(values)
        self._inputs = list(self._read_inputs(values, self._body[end:]))
        self._asked = {
            it["name"]: _object(it, "parameters")
            for it in _tensors(values, "outputs", _OUTPUT)
        }
        parameters = _object(values, "parameters")
        of_inputs = {
            it for one in self._inputs for it in one.values.get("parameters", ())
        }
        of_outputs = {
            it for one in values.get("outputs", ()) for it in one.get("parameters", ())
        }
        tensors = {
            name: _values_of(it)
            for it in self._inputs
            if (name := it.values["name"]) in READ
        }
        request = infer_request(
            self._model,
            tensors,
            tuple(parameters),
            of_inputs,
            of_outputs - {_IN_BINARY},
        )
        self._texts = request.choices
        return request

    def _end(self) -> int:
        """Where the JSON ends. Without the header it is all of the body."""
        if self._head is None:
            return len(self._body)
        if not _HEAD.fullmatch(self._head) or int(self._head) > len(self._body):
            refuse("The header `inference-header-content-length` is no length.")
        self.content_type = "application/octet-stream"
        return int(self._head)

    def _read_inputs(self, values: dict[str, Any], tail: bytes) -> Iterator[_Input]:
        tensors = _tensors(values, "inputs", _INPUT)
        if len({it["name"] for it in tensors}) != len(tensors):
            refuse("has the same name twice.", "inputs")
        raws = _decode_objects(self._fields["inputs"]) if tensors else []
        at = 0
        for fields, tensor in zip(raws, tensors, strict=True):
            name, datatype, shape = (tensor[it] for it in ("name", "datatype", "shape"))
            if not isinstance(datatype, str) or not _is_shape(shape):
                refuse("has no datatype or shape.", name)
            size = _object(tensor, "parameters").get(_BINARY)
            if size is None:
                yield _Input(fields, tensor)
                continue
            if type(size) is not int or not 0 <= size <= len(tail) - at:
                refuse("has less binary data than it says.", name)
            if "data" in tensor:
                refuse("has data beside binary data.", name)
            yield _Input(fields, tensor, tail[at : at + size])
            at += size
        if at != len(tail):
            refuse("The body has binary data of no input.")

    def rewritten(self, rewrite: Rewrite) -> bytes:
        own = {name for name, _, _ in rewrite.inputs}
        kept = [it for it in self._inputs if it.values["name"] not in own]
        (text,) = (it for it in kept if it.values["name"] == TEXT)
        is_batch = len(text.values["shape"]) > 1
        count = self._texts if is_batch else 1
        inputs = [it.fields for it in kept] + [
            _raws(
                name=name,
                datatype=datatype,
                shape=[count, 1] if is_batch else [1],
                data=[value == 1 if datatype == "BOOL" else value] * count,
            )
            for name, datatype, value in rewrite.inputs
        ]
        fields = self._fields | _raws(inputs=inputs)
        if ours := rewrite.outputs(tuple(self._asked)):
            outputs = [
                *(self._output(it) for it in self._asked if it not in ours),
                *(self._output(it) for it in ours),
            ]
            fields |= _raws(outputs=outputs)
        head = msgspec.json.encode(fields)
        if self._head is not None:
            self.head_bytes = len(head)
        return head + b"".join(it.raw for it in kept if it.raw is not None)

    def _output(self, name: str) -> _Fields:
        """Ask for an output in the client's form; in JSON where it did not ask."""
        form = self._asked.get(name, {_IN_BINARY: False})
        return _raws(name=name, parameters=form) if form else _raws(name=name)


class _Generate:
    content_type = "application/json"
    head_bytes = None

    def __init__(self, model: str, body: bytes, *, streams: bool) -> None:
        self._model = model
        self._body = body
        self._streams = streams

    def request(self) -> Request:
        fields, values = read(self._body)
        # What Triton finds under `parameters` is a tensor, too, if its name is one's.
        inner = _object(values, "parameters")
        if twice := inner.keys() & values.keys():
            refuse("is given twice.", min(twice))
        if inner:
            fields |= _decode_object(fields["parameters"])
        values |= inner
        fields.pop("parameters", None)
        values.pop("parameters", None)
        _check_id(values)
        for name in _MODEL & values.keys():
            if values[name] != self._model:
                refuse("names another model than the path.", name)
        self._fields = fields
        named = {it: values[it] for it in values.keys() - {"id"}}
        flat = {name: tuple(_flat(name, it)) for name, it in named.items()}
        for name in _STREAM:
            # Triton would answer a stream with an error, after all its tokens.
            if not self._streams and any(flat.get(name, ())):
                refuse("must be false: `generate_stream` streams.", name)
        tensors = {name: values for name, values in flat.items() if name in READ}
        return infer_request(self._model, tensors, tuple(flat))

    def rewritten(self, rewrite: Rewrite) -> bytes:
        own = {
            name: value == 1 if datatype == "BOOL" else value
            for name, datatype, value in rewrite.inputs
        }
        return msgspec.json.encode(self._fields | _raws(**own))


def _check_id(values: Mapping[str, Any]) -> None:
    if not isinstance(values.get("id", ""), str):
        refuse("must be a string.", "id")


def _object(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name, {})
    if not isinstance(value, dict):
        refuse("must be an object.", name)
    return value


def _tensors(
    values: Mapping[str, Any], name: str, keys: frozenset[str]
) -> list[dict[str, Any]]:
    tensors = values.get(name, [])
    if not isinstance(tensors, list):
        refuse("must be a list.", name)
    needed = keys - {"parameters", "data"}
    for it in tensors:
        if not isinstance(it, dict) or not needed <= it.keys() <= keys:
            refuse(f"must have {', '.join(sorted(needed))} each.", name)
        if not isinstance(it["name"], str):
            refuse("must have a string as each name.", name)
        _object(it, "parameters")
    return tensors


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(it) is int and it >= 0 for it in shape)


def _values_of(tensor: _Input) -> Values:
    values = tensor.values
    name: str = values["name"]
    if tensor.raw is not None:
        return read_values(name, values["datatype"], tensor.raw)
    return tuple(_flat(name, values.get("data"), depth=len(values["shape"])))


def _flat(name: str, value: object, depth: int = 1) -> Iterator[Value]:
    """Yield the values of a list, which may be nested so deep, or of a scalar."""
    match value:
        case bool() | int() | float():
            yield value
        case str():
            yield value.encode()
        case list() if depth:
            for it in value:
                yield from _flat(name, it, depth - 1)
        case _:
            refuse("must be a value or a list of values.", name)


def _raws(**values: object) -> _Fields:
    return {name: msgspec.Raw(msgspec.json.encode(it)) for name, it in values.items()}
