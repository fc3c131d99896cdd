"""What our HTTP applications share: ASGI's types, bounded bodies, plain answers.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class CallerLeft(Exception):
    """The caller is gone: nobody reads an answer."""


class BodyTooLarge(Exception):
    """The body is larger than we read."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a body of up to `limit` bytes. Raises BodyTooLarge, CallerLeft."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLarge
        if not message.get("more_body", False):
            return b"".join(parts)


async def respond(
    send: Send,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    content_type: bytes = b"application/json",
) -> None:
    """Send a whole answer."""
    extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    fixed = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
    ]
    await send(
        {"type": "http.response.start", "status": status, "headers": fixed + extra}
    )
    await send({"type": "http.response.body", "body": body})
