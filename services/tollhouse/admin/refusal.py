"""Refusals that reach their callers: what a status may carry in its headers.

A status travels in trailers, and clients of gRPC take 8 KiB of those; where there is
more they see RESOURCE_EXHAUSTED alone. Texts go percent-encoded, details in base64.
"""

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from tollhouse.core.key_terms import Fault

LONGEST_TEXT: Final = 1000
"""Bytes of a status' text as it travels."""
LONGEST_STATUS: Final = 4000
"""Bytes of a `google.rpc.Status` with its text and details, before base64."""
_LONGEST_WORDS: Final = 400
"""Characters of one fault: it may repeat what was sent."""
_MOST_IN_TEXT: Final = 3
_WRAPPING: Final = 64
"""Bytes at most of the type's name and lengths around details."""
_INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT

Context = grpc.aio.ServicerContext[Any, Any]


async def refuse(context: Context, code: grpc.StatusCode, text: str) -> NoReturn:
    """End a call with a status and a text."""
    await context.abort(code, fitting(text))


async def refuse_fields(context: Context, faults: Sequence[Fault]) -> NoReturn:
    """End a call with INVALID_ARGUMENT and each field that is wrong (BadRequest)."""
    status = invalid(faults)
    raw = status.SerializeToString()
    await context.abort(
        _INVALID, status.message, trailing_metadata=(("grpc-status-details-bin", raw),)
    )


def invalid(faults: Sequence[Fault]) -> status_pb2.Status:
    """The status of fields that are wrong, with as many of them as fit."""
    told = [(field, what[:_LONGEST_WORDS]) for field, what in faults]
    text = fitting("; ".join(_sentence(*fault) for fault in told[:_MOST_IN_TEXT]))
    if (more := len(told) - _MOST_IN_TEXT) > 0:
        text += f"; and {more} more"
    status = status_pb2.Status(code=_INVALID.value[0], message=text)
    room = LONGEST_STATUS - status.ByteSize()
    request = error_details_pb2.BadRequest()
    for field, what in told:
        request.field_violations.add(field=field, description=what)
        if request.ByteSize() + _WRAPPING > room:
            del request.field_violations[-1]
            break
    status.details.add().Pack(request)
    return status


def fitting(text: str, most: int = LONGEST_TEXT) -> str:
    """As much of a text as travels in so many bytes, percent-encoded as gRPC does."""
    travelled = 0
    for at, letter in enumerate(text):
        travelled += sum(
            1 if 0x20 <= it <= 0x7E and it != ord("%") else 3  # noqa: PLR2004 - ASCII
            for it in letter.encode("utf-8", "replace")
        )
        if travelled > most:
            return text[:at] + "\N{HORIZONTAL ELLIPSIS}"
    return text


def _sentence(field: str, what: str) -> str:
    """A fault as a text says it: the name of its field once."""
    name = field.rpartition(".")[2]
    return what if what.startswith(name) else f"{field}: {what}"
