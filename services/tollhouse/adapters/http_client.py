"""One question over HTTP/1.1: as much of it as Envoy's admin listener needs."""

import ssl

from tollhouse.adapters.address import Address

_STATUS_LINE_WORDS = 2


async def http_request(
    address: Address,
    path: str,
    *,
    method: str = "GET",
    headers: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Ask over HTTP/1.1; return status and raw body. Raises OSError, TimeoutError."""
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        *headers,
    )
    request = "\r\n".join((*lines, "Content-Length: 0", "", "")).encode()
    answer = await address.ask(request, tls=tls)
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    if len(words) < _STATUS_LINE_WORDS or not words[1].isdigit():
        raise ConnectionError(f"{address} does not speak HTTP")
    return int(words[1]), body
