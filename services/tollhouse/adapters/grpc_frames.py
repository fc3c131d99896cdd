"""gRPC messages in a request body, which comes in pieces of any size.

Each is preceded by a flag, 1 for compressed, and its length in four bytes (gRPC over
HTTP/2, "Length-Prefixed-Message").
"""

from collections.abc import Iterator
from typing import Final

from tollhouse.core.problems import Kind, Problem

_HEAD: Final = 5
LARGEST: Final = 3 * 1024 * 1024
"""As Envoy's buffer filter lets through, which sees no stream."""


class Frames:
    """Cuts one body into messages; holds no more than one that is not whole."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._held = bytearray()

    @property
    def is_between(self) -> bool:
        """Whether nothing of a message is waiting for its rest."""
        return not self._held

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the messages that are whole now, without their heads.

        Raises Problem for one that is compressed or too large: the rest of the body
        can't be read.
        """
        held = self._held
        held += piece
        while len(held) >= _HEAD:
            if held[0]:
                raise Problem(
                    Kind.UNSUPPORTED_ENCODING, "Compressed messages are not supported."
                )
            size = int.from_bytes(held[1:_HEAD])
            if size > self._largest:
                raise Problem(
                    Kind.INVALID_REQUEST,
                    f"A message is larger than {self._largest} bytes.",
                )
            if len(held) < _HEAD + size:
                return
            message = bytes(held[_HEAD : _HEAD + size])
            del held[: _HEAD + size]
            yield message


def framed(message: bytes) -> bytes:
    """One message as it goes on: uncompressed."""
    return b"\0" + len(message).to_bytes(4) + message
