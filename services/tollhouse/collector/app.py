"""The collector over HTTP: OTLP in JSON comes in, pages go out.

POST /v1/traces          spans as JSON, for exporters that speak nothing else
GET  /metrics            what Prometheus scrapes
GET  /traces             the traces heard of last: ids, first span, how long ago
GET  /traces/<trace id>  one trace with all its spans
"""

import msgspec

from tollhouse.adapters.asgi import (
    BodyTooLarge,
    CallerLeft,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from tollhouse.collector import exposition
from tollhouse.collector.convert import NotOtlp, from_pb_spans, trace_request
from tollhouse.collector.metrics import Metrics
from tollhouse.collector.spans import Traces

MAX_BODY_BYTES = 8 << 20
LISTED = 100
_ONE_TRACE = "/traces/"


class Application:
    """What the collector keeps, for machines and for people."""

    def __init__(self, traces: Traces, metrics: Metrics) -> None:
        self._traces = traces
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI 3)."""
        path = scope["path"]
        match scope["method"], path:
            case "POST", "/v1/traces":
                await self._take(receive, send)
            case "GET", "/metrics":
                text = exposition.page(self._metrics).encode()
                await respond(send, 200, text, content_type=exposition.CONTENT_TYPE)
            case "GET", "/traces":
                latest = {"traces": self._traces.latest(LISTED)}
                await respond(send, 200, msgspec.json.encode(latest))
            case "GET", str() if path.startswith(_ONE_TRACE):
                trace = self._traces.find(path.removeprefix(_ONE_TRACE))
                if trace is None:
                    await _refuse(send, 404, "no such trace is kept")
                else:
                    await respond(send, 200, msgspec.json.encode(trace))
            case _:
                await _refuse(send, 404, "there is nothing here")

    async def _take(self, receive: Receive, send: Send) -> None:
        try:
            request = trace_request(await read_body(receive, MAX_BODY_BYTES))
        except CallerLeft:
            return
        except BodyTooLarge:
            await _refuse(send, 413, "the body is too large")
        except NotOtlp as error:
            await _refuse(send, 400, str(error))
        else:
            self._traces.take(from_pb_spans(request))
            await respond(send, 200, b"{}")


async def _refuse(send: Send, status: int, why: str) -> None:
    await respond(send, status, msgspec.json.encode({"error": why}))
