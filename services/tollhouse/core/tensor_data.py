"""Values of tensors in bytes, as Triton's protocols carry them.

Little endian; a string is preceded by its length in four bytes (KServe's Open Inference
Protocol, "Tensor Data").
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from tollhouse.core.refusal import refuse

Value = bool | int | float | bytes
Values = Sequence[Value]
"""What a tensor holds, flat."""

UNREAD: Values = (b"unread",)
"""What stands for values that nobody here can read, FP16's for one."""

_FORMS: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "?",
        "INT8": "b",
        "INT16": "h",
        "INT32": "i",
        "INT64": "q",
        "UINT8": "B",
        "UINT16": "H",
        "UINT32": "I",
        "UINT64": "Q",
        "FP32": "f",
        "FP64": "d",
    }
)


def read_values(name: str, datatype: str, raw: bytes) -> Values:
    """Read a tensor. Raises Problem where it is no list of such values."""
    if datatype == "BYTES":
        return tuple(_strings(name, raw))
    form = _FORMS.get(datatype)
    if form is None:
        return UNREAD
    size = struct.calcsize(f"<{form}")
    if len(raw) % size:
        refuse(f"is no {datatype}.", name)
    return struct.unpack(f"<{len(raw) // size}{form}", raw)


def write_values(datatype: str, values: Sequence[int]) -> bytes:
    """Write a tensor of numbers."""
    return struct.pack(f"<{len(values)}{_FORMS[datatype]}", *values)


def _strings(name: str, raw: bytes) -> Iterator[Value]:
    at = 0
    while at < len(raw):
        end = at + 4
        size = int.from_bytes(raw[at:end], "little")
        if end + size > len(raw):
            refuse("is no list of strings.", name)
        yield raw[end : end + size]
        at = end + size
