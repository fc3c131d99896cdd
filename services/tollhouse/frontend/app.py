"""The ASGI application: paths, answers, and callers who leave.

While an answer is made, `receive` is watched for the caller's departure: queued,
before the first token or in mid-stream, the request to Triton is cancelled at once.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from tollhouse.adapters import conventions as names
from tollhouse.adapters.asgi import (
    BodyTooLarge,
    CallerLeft,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from tollhouse.adapters.tracing import Tracing, Value
from tollhouse.core.catalog import Operation
from tollhouse.core.model_list import model_list
from tollhouse.core.problems import Kind, Problem, Unavailable
from tollhouse.core.surface import dialect_of
from tollhouse.frontend.answer import ChoiceResult, Form
from tollhouse.frontend.chat_form import ChatForm
from tollhouse.frontend.chat_request import parse_chat, parse_completion
from tollhouse.frontend.generation import merged
from tollhouse.frontend.messages_form import MessagesForm
from tollhouse.frontend.messages_request import parse_message
from tollhouse.frontend.request import Request
from tollhouse.frontend.responses_form import ResponsesForm
from tollhouse.frontend.responses_request import parse_response
from tollhouse.frontend.service import Prepared, Service
from tollhouse.frontend.trail import Trail, error_type

MAX_BODY_BYTES = 8 << 20
"""More than Envoy lets through (3 MiB): it only bounds callers without an Envoy."""


@dataclass(frozen=True, slots=True)
class _Api:
    """One API: how its requests are read, and how its answers are written."""

    parse: Callable[[bytes], Request]
    form: Callable[[Request, str, int], Form]
    """From the request, the exchange's id, and the time it came."""
    operation: Operation


_APIS = {
    "/v1/chat/completions": _Api(parse_chat, ChatForm, Operation.CHAT),
    "/v1/completions": _Api(parse_completion, ChatForm, Operation.COMPLETIONS),
    "/v1/responses": _Api(parse_response, ResponsesForm, Operation.RESPONSES),
    "/v1/messages": _Api(parse_message, MessagesForm, Operation.MESSAGES),
}
_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
_TOO_LARGE = Problem(Kind.INVALID_REQUEST, "The body is too large.")
_NO_ROUTE = Problem(Kind.NOT_FOUND, "There is nothing at this path for this method.")

_log = structlog.get_logger()


class Application:
    """The APIs of OpenAI and of Anthropic in front of one Triton server."""

    def __init__(self, service: Service, tracing: Tracing) -> None:
        self._service = service
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI 3)."""
        method, path = scope["method"], scope["path"]
        if method == "POST" and (api := _APIS.get(path)):
            traceparent = dict(scope["headers"]).get(b"traceparent", b"")
            trail = Trail(self._tracing, traceparent.decode("latin-1"))
            await _Exchange(self._service, api, scope, send, trail).run(receive)
        elif method == "GET" and path == "/v1/models":
            models = self._service.models.values()
            listed = model_list({model.name: model.created for model in models})
            await respond(send, 200, listed)
        elif method == "GET" and path == "/healthz":
            ready = await self._service.is_ready()
            body = b'{"ready":true}' if ready else b'{"ready":false}'
            await respond(send, 200 if ready else 503, body)
        else:
            await respond(send, _NO_ROUTE.status, _NO_ROUTE.body(dialect_of(path)))


class _Exchange:
    """One request for text and its answer."""

    def __init__(
        self, service: Service, api: _Api, scope: Scope, send: Send, trail: Trail
    ) -> None:
        self._service = service
        self._api = api
        self._trail = trail
        self._path = scope["path"]
        self._headers = dict(scope["headers"])
        self._send = send
        self._started_at = time.monotonic()
        self._first_token_seconds: float | None = None
        self._prepared: Prepared | None = None
        self._form: Form | None = None
        self._answering = False

    async def run(self, receive: Receive) -> None:
        """Answer, or stop as soon as the caller leaves; log one line."""
        outcome, error = "left", ""
        try:
            request = self._api.parse(await read_body(receive, MAX_BODY_BYTES))
            work = asyncio.create_task(self._answer(request))
            gone = asyncio.create_task(_departure(receive))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                if not work.done():
                    work.cancel()
                await asyncio.wait({work, gone})
            if not work.cancelled():
                work.result()
                outcome = "completed"
        except CallerLeft:
            pass
        except BodyTooLarge:
            outcome = "refused"
            await self._fail(_TOO_LARGE)
        except Problem as problem:
            error = error_type(problem)
            outcome = "failed" if error else "refused"
            await self._fail(problem)
        except Unavailable as unavailable:
            outcome, error = "failed", error_type(unavailable)
            _log.warning("triton.failed", reason=str(unavailable))
            await self._fail(Problem(Kind.UNAVAILABLE, "The model is not available."))
        except Exception as unforeseen:  # noqa: BLE001 - the boundary: log once, say nothing
            outcome, error = "failed", error_type(unforeseen)
            _log.exception("exchange.failed")
            await self._fail(Problem(Kind.UPSTREAM_FAILED, "The model failed."))
        finally:
            self._log(outcome)
            self._tell(outcome, error)

    async def _answer(self, request: Request) -> None:
        prepared = await self._service.prepare(request, self._headers, self._trail)
        self._prepared = prepared
        self._form = form = self._api.form(
            request, prepared.exchange_id, prepared.created
        )
        if request.stream:
            await self._stream(prepared, form)
        else:
            await self._whole(prepared, form)

    async def _stream(self, prepared: Prepared, form: Form) -> None:
        pieces = merged(prepared.choices, self._service.triton, self._service.patience)
        opened = set()
        async with aclosing(pieces):
            async for piece in pieces:
                index = piece.choice.index
                usage = prepared.usage()
                block = b""
                if index not in opened:
                    opened.add(index)
                    if not self._answering:
                        await self._open_stream()
                    block = form.opening(index, usage)
                for part in piece.parts:
                    block += form.part(index, part, usage)
                if piece.finish is not None:
                    block += form.finish(index, piece.finish, usage)
                if block:
                    await self._send(
                        {"type": "http.response.body", "body": block, "more_body": True}
                    )
        closing = form.closing(prepared.usage())
        await self._send({"type": "http.response.body", "body": closing})

    async def _open_stream(self) -> None:
        """Send the headers: from here on, errors can only be said in the stream."""
        self._first_token_seconds = time.monotonic() - self._started_at
        self._answering = True
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS}
        )

    async def _whole(self, prepared: Prepared, form: Form) -> None:
        results = [ChoiceResult() for _ in prepared.choices]
        pieces = merged(prepared.choices, self._service.triton, self._service.patience)
        async with aclosing(pieces):
            async for piece in pieces:
                result = results[piece.choice.index]
                for part in piece.parts:
                    result.add(part)
                if piece.finish is not None:
                    result.finish = piece.finish
        self._answering = True
        await respond(self._send, 200, form.whole(results, prepared.usage()))

    async def _fail(self, problem: Problem) -> None:
        """Say what went wrong, with its status or, too late for one, visibly.

        A stream gets an error event and no end: leaving the answer incomplete makes
        the server drop the connection, so that no client takes it for whole.
        """
        if not self._answering:
            body = problem.body(dialect_of(self._path), self._trail.trace_id)
            await respond(self._send, problem.status, body, problem.headers)
        elif self._prepared is not None and self._form is not None:
            block = self._form.broken(problem, self._prepared.usage())
            await self._send(
                {"type": "http.response.body", "body": block, "more_body": True}
            )

    def _log(self, outcome: str) -> None:
        facts: dict[str, object] = {}
        if (prepared := self._prepared) is not None:
            usage = prepared.usage()
            facts = {
                "exchange_id": prepared.exchange_id,
                "model": prepared.request.model,
                "choices": len(prepared.choices),
                "stream": prepared.request.stream,
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
            }
        _log.info(
            "exchange.ended",
            request_id=self._headers.get(b"x-request-id", b"").decode("latin-1")
            or None,
            trace_id=self._trail.trace_id or None,
            path=self._path,
            outcome=outcome,
            duration_seconds=round(time.monotonic() - self._started_at, 4),
            first_token_seconds=self._first_token_seconds,
            **facts,
        )

    def _tell(self, outcome: str, error: str) -> None:
        told: dict[str, Value | None] = {}
        if (prepared := self._prepared) is not None:
            usage = prepared.usage()
            finishes = [it.finish_reason for it in prepared.choices]
            told = {
                names.EXCHANGE: prepared.exchange_id,
                names.REQUEST_MODEL: prepared.request.model,
                names.REQUEST_STREAM: prepared.request.stream,
                names.REQUEST_MAX_TOKENS: prepared.request.max_tokens,
                names.INPUT_TOKENS: usage.input_tokens,
                names.OUTPUT_TOKENS: usage.output_tokens,
                names.FINISH_REASONS: tuple(filter(None, finishes)) or None,
                names.FIRST_CHUNK_SECONDS: self._first_token_seconds,
            }
        told |= {
            names.OPERATION: names.operation_name(self._api.operation),
            names.OUTCOME: outcome,
        }
        is_notable = outcome in ("failed", "refused")
        self._trail.tell(told, error, is_notable=is_notable)


async def _departure(receive: Receive) -> None:
    """Return when the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
