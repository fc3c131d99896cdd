"""Where Stripe reports events it took and then found wrong: `POST /webhooks/stripe`.

Stripe sends again, for three days, until it gets a 2xx
(https://docs.stripe.com/webhooks#retries): so that is what it gets once the rejections
are in safe hands, and not before. Anybody may call this, so little is read, little is
said, and nothing is believed without a signature.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from tollhouse.adapters.asgi import (
    BodyTooLarge,
    CallerLeft,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from tollhouse.adapters.stripe.webhook import Report, SignatureError, Webhook
from tollhouse.core.chunk import Rejection
from tollhouse.core.problems import Unavailable

PATH = "/webhooks/stripe"
MAX_BODY_BYTES = 256 * 1024
"""Of a thin event: it has less than one KiB."""
_BODY_SECONDS = 10.0

_log = structlog.get_logger()


class WebhookEndpoint:
    """The ASGI application; hands on what Stripe rejected."""

    def __init__(
        self,
        webhook: Webhook,
        rejected: Callable[[list[Rejection]], Awaitable[None]],
        counted: Callable[[Mapping[str, int]], None],
    ) -> None:
        """`rejected` returns once they are durable, else raises Unavailable.

        `counted` gets all of a report, by code: most are not named. Both get the same
        again where Stripe does not hear our answer.
        """
        self._webhook = webhook
        self._rejected = rejected
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI 3)."""
        if scope["path"] != PATH:
            await respond(send, 404, b"")
        elif scope["method"] != "POST":
            await respond(send, 405, b"", {"allow": "POST"})
        else:
            status = await self._status(scope, receive)
            if status is not None:
                await respond(send, status, b"")

    async def _status(self, scope: Scope, receive: Receive) -> int | None:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await read_body(receive, MAX_BODY_BYTES)
        except CallerLeft:
            return None
        except BodyTooLarge:
            return 413
        except TimeoutError:
            return 408
        try:
            report = await self._webhook.read(body, _signature(scope))
            if report is not None:
                await self._hand_on(report)
        except SignatureError:
            _log.warning("webhook.refused")
            return 400
        except Unavailable as error:
            _log.warning("webhook.postponed", reason=str(error))
            return 503
        return 200

    async def _hand_on(self, report: Report) -> None:
        _log.warning(
            "events.rejected", counts=report.counts, named=len(report.rejections)
        )
        if report.rejections:
            await self._rejected(list(report.rejections))
        # Behind what may fail: then the report comes again.
        self._counted(report.counts)


def _signature(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"stripe-signature":
            text: str = value.decode("latin-1")
            return text
    return ""
