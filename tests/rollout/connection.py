"""What a client's connection says of a request, whichever HTTP it speaks."""

from dataclasses import dataclass, field
from typing import Protocol


class Cut(Exception):
    """An answer began and did not end, or none came on a connection that was new."""


class NotTaken(Exception):
    """The server did not take the request: it may be sent again (RFC 9110 9.2.2).

    HTTP/2 says so; in HTTP/1.1 it is what a client concludes whose connection had been
    idle and ended before any answer.
    """


@dataclass(slots=True)
class Answer:
    """One that was read to its end."""

    status: int
    exchange: str
    body: bytearray = field(default_factory=bytearray, repr=False)


class Connection(Protocol):
    """A connection to one gateway."""

    @property
    def is_usable(self) -> bool:
        """Whether it may be given another request."""

    async def ask(self, body: bytes) -> Answer:
        """Send a chat; read the answer. Raises Cut, NotTaken."""

    def close(self) -> None:
        """End it."""
