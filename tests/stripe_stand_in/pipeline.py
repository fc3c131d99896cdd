"""The way of a call: outage, key, rate, fault, replay, parameters, work, fault."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tests.stripe_stand_in.faults import FaultKind
from tests.stripe_stand_in.forms import parse_form
from tests.stripe_stand_in.object_endpoints import Request
from tests.stripe_stand_in.params import violations
from tests.stripe_stand_in.refusals import (
    INVALID,
    Refusal,
    conflict,
    malformed,
    server_error,
    too_many_calls,
)
from tests.stripe_stand_in.replays import fingerprint
from tests.stripe_stand_in.routes import Route, routes
from tests.stripe_stand_in.stand_in import Call, StandIn

_STREAM = "/v2/billing/meter_event_stream"
_MESSAGES = {
    "parameter_missing": "Missing required param: {}.",
    "parameter_unknown": "Received unknown parameter: {}",
    "parameter_invalid_integer": "Invalid integer: {}",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Raw:
    """A call as it came over the wire; names of headers are lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclasses.dataclass(slots=True)
class Answer:
    """What goes back."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    outcome: str
    stored: bool = True

    @classmethod
    def of(cls, refusal: Refusal, outcome: str | None = None) -> "Answer":
        """A refusal as an answer."""
        return cls(
            refusal.status,
            refusal.body(),
            dict(refusal.headers),
            outcome or refusal.outcome,
            refusal.stored,
        )


@dataclasses.dataclass
class Dropped(Exception):
    """The connection is to be reset instead of an answer."""

    outcome: str


class Pipeline:
    """Everything between a request and its answer but HTTP itself."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._routes = routes(stand_in)

    async def answer(self, raw: Raw) -> Answer:
        """Serve a call; raises Dropped where the connection is to be reset."""
        key = raw.headers.get("idempotency-key")
        call = Call(raw.method, raw.path, f"{raw.method} {raw.path}", key)
        within_a_second = self._stand_in.note_call(call)
        try:
            answer = await self._serve(raw, call, within_a_second)
            call.outcome = answer.outcome
        except Refusal as refusal:
            answer = Answer.of(refusal)
            call.outcome = refusal.outcome
        except Dropped as dropped:
            call.outcome = dropped.outcome
            raise
        finally:
            self._stand_in.counts[call.outcome] += 1
        answer.headers["Request-Id"] = f"req_{len(self._stand_in.calls):08d}"
        if key is not None:
            answer.headers["Idempotency-Key"] = key
        return answer

    async def _serve(self, raw: Raw, call: Call, within_a_second: int) -> Answer:
        if self._stand_in.is_down:
            raise Dropped("outage")
        route, ids = self._route(raw)
        self._authenticate(raw)
        form = _parameters(raw, route)
        call.subject = str(form.get("identifier", call.subject))
        fault = self._fault_before(call, route, within_a_second)
        replayable = raw.method == "POST" or (route.v2 and raw.method == "DELETE")
        key = call.idempotency_key if replayable else None
        mark = fingerprint(raw.method, raw.path, raw.body)
        if key is not None and (first := self._stand_in.replays.find(key, mark)):
            headers = {**first.headers, "Idempotent-Replayed": "true"}
            return Answer(first.status, first.body, headers, "replayed")
        self._check(route, form)
        with self._stand_in.replays.running(key):
            request = Request(raw.path, form, ids, call.idempotency_key)
            answer = await self._work(route, request, fault)
            # A repeat on v2 runs what failed once more.
            stored = answer.stored and (answer.status < 300 or not route.v2)
            if key is not None and stored:
                self._stand_in.replays.store(
                    key,
                    mark,
                    status=answer.status,
                    body=answer.body,
                    headers=answer.headers,
                )
        if fault == "reset_after":
            raise Dropped("reset_after")
        if fault == "hang_after":
            await self._stand_in.wait(self._stand_in.settings.hang_seconds)
            answer.outcome = "hang_after"
        return answer

    async def _work(
        self, route: Route, request: Request, fault: FaultKind | None
    ) -> Answer:
        if fault == "error_before":
            return Answer.of(server_error(), "error_before")
        try:
            body = await route.run(request)
        except Refusal as refusal:
            return Answer.of(refusal)
        if fault == "error_after":
            return Answer.of(server_error(), "error_after")
        return Answer(200, body, {}, route.counted)

    def _route(self, raw: Raw) -> tuple[Route, tuple[str, ...]]:
        for route in self._routes:
            found = route.pattern.fullmatch(raw.path)
            if found and route.method == raw.method:
                return route, found.groups()
        text = f"Unrecognized request URL ({raw.method}: {raw.path})."
        raise Refusal(404, INVALID, text, stored=False)

    def _authenticate(self, raw: Raw) -> None:
        scheme, _, key = raw.headers.get("authorization", "").partition(" ")
        settings = self._stand_in.settings
        if raw.path == _STREAM and key in self._stand_in.sessions:
            if self._stand_in.clock.now() < self._stand_in.sessions[key]:
                return
            raise Refusal(
                401,
                "temporary_session_expired",
                "The temporary session token has expired.",
                "billing_meter_event_session_expired",
                outcome="session_expired",
                stored=False,
            )
        if scheme == "Bearer" and raw.path != _STREAM:
            if key in settings.api_keys:
                return
            if key in settings.restricted_keys:
                if raw.path.startswith(settings.restricted_keys[key]):
                    return
                raise Refusal(
                    403,
                    INVALID,
                    f"The provided key '{_masked(key)}' does not have the required"
                    " permissions for this endpoint.",
                    "more_permissions_required",
                    outcome="forbidden",
                    stored=False,
                )
        raise Refusal(
            401,
            "authentication_error" if raw.path.startswith("/v2/") else INVALID,
            f"Invalid API Key provided: {_masked(key)}",
            outcome="unauthorized",
            stored=False,
        )

    def _fault_before(
        self, call: Call, route: Route, within_a_second: int
    ) -> FaultKind | None:
        """Suffer the faults of the way in, or return the one still to come."""
        settings = self._stand_in.settings
        most = settings.calls_per_second
        if most is not None and within_a_second > most:
            raise too_many_calls(v2=route.v2)
        fault = self._stand_in.faults.draw(
            call.subject,
            call.path,
            seed=settings.seed,
            share=settings.fault_share,
            weights=settings.fault_weights,
        )
        match fault:
            case "rate_limit":
                raise too_many_calls(v2=route.v2)
            case "conflict":
                text = "The request conflicts with another request."
                raise conflict("request_conflict", text)
            case "reset_before":
                raise Dropped("reset_before")
        return fault

    def _check(self, route: Route, form: dict[str, Any]) -> None:
        """Refuse what breaks the SDK's types, or what we can't honour."""
        found = violations(route.params, form)
        name = f"{route.method} {route.pattern.pattern}"
        self._stand_in.violations += [f"{name}: {violation}" for violation in found]
        if found:
            first = found[0]
            text = _MESSAGES.get(first.code, "Invalid parameter: {}")
            raise malformed(text.format(first.param), first.code, first.param)
        if extra := sorted(set(form) - route.honoured):
            text = f"The stand-in does not honour {', '.join(extra)}."
            raise Refusal(501, "api_error", text, stored=False, outcome="unsupported")


def _parameters(raw: Raw, route: Route) -> dict[str, Any]:
    """What was sent in the query or the body."""
    if raw.method != "POST":
        return parse_form(raw.query)
    if not route.v2:
        return parse_form(raw.body.decode())
    try:
        form = json.loads(raw.body or b"{}")
    except ValueError:
        raise malformed("Invalid JSON", "invalid_json") from None
    if not isinstance(form, dict):
        raise malformed("The body must be an object", "invalid_json")
    return form


def _masked(key: str) -> str:
    return f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "****"
