"""How the SDK's calls reach Stripe: within a time, once, and judged here.

The SDK raises errors that hold what Stripe said, and logs it. So it gets to see
successes only: everything else leaves this module as a CallError.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NoReturn

import httpx
import stripe

from tollhouse.adapters.stripe.outcome import UNREADABLE, CallError, judge
from tollhouse.core.chunk import Verdict

_LARGEST_ANSWER = 8 << 20
"""A page of a hundred objects has some 100 KB."""

_CONNECT_SHARE = 0.5
"""Of the time of a call: a connection that takes longer is given up, and then it is
known that nothing was sent."""

# Raised before a byte of the request is written.
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Transport(stripe.HTTPClient):
    """The HTTP client of the SDK."""

    name = "httpx"

    def __init__(self, timeout_seconds: float) -> None:
        super().__init__()
        self._seconds = timeout_seconds
        connect = timeout_seconds * _CONNECT_SHARE
        self._http = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=stripe.ca_bundle_path),
            timeout=httpx.Timeout(timeout_seconds, connect=connect, pool=connect),
            follow_redirects=False,
        )

    async def request_async(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        post_data: str | None = None,
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Make one call. Raises CallError for anything but a success."""
        failure: CallError
        try:
            async with asyncio.timeout(self._seconds):
                status, body = await self._exchange(method, url, headers, post_data)
        except _NOT_CONNECTED:
            failure = CallError(Verdict.REFUSED, "no_connection")
        except (TimeoutError, httpx.TimeoutException):
            failure = CallError(Verdict.UNKNOWN, "timeout")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError):
            failure = CallError(Verdict.UNKNOWN, "connection_lost")
        else:
            judged = judge(status, body)
            if judged is None:
                # Without its headers: the SDK prints what one of them says.
                return body, status, {}
            failure = judged
        # Outside of the handlers: nothing of the exchange comes along as context.
        raise failure

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None
    ) -> tuple[int, bytes]:
        request = self._http.build_request(
            method, url, headers=headers, content=post_data
        )
        response = await self._http.send(request, stream=True)
        try:
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _LARGEST_ANSWER:
                    _give_up(response.status_code)
            return response.status_code, bytes(body)
        finally:
            await response.aclose()

    async def close_async(self) -> None:
        """Drop the connections."""
        await self._http.aclose()


def _give_up(status: int) -> NoReturn:
    raise CallError(Verdict.UNKNOWN, UNREADABLE, status=status)
