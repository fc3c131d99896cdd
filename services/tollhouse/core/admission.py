"""The life of one ext_proc stream, sans-IO: an event in, a command out.

    IDLE ──request headers──▶ IDENTIFIED ──body──▶ RESERVING ──granted──▶ ADMITTED
      └──▶ ANSWERED              └──▶ REFUSED ◀──refused──┘ └──stream ended──▶ RELEASED

Where the model has a tokenizer, COUNTING lies between IDENTIFIED and RESERVING.

The exchange id leaves with the headers reply, before anything is reserved: whatever
is lost afterwards, Envoy's ledger names the exchange and it is released. The end of
the stream says nothing about the answer and never settles.

Events and commands are msgspec structs: made for every request, they cost a fifth of
a frozen dataclass.
"""

from enum import Enum, auto
from typing import assert_never

import msgspec
from msgspec.structs import replace

from tollhouse.core.catalog import Catalog, Model, Operation, RedisDown
from tollhouse.core.entitlement import Entitlement, entitlement
from tollhouse.core.estimate import estimate
from tollhouse.core.experience import Experience
from tollhouse.core.forwarding import fit, forwarded, output_cap
from tollhouse.core.identity import Principal, covers
from tollhouse.core.ids import ExchangeId, created_ms
from tollhouse.core.model_list import model_entry, model_list
from tollhouse.core.openai import Request, parse
from tollhouse.core.problems import Dialect, Kind, Problem, ProtocolError
from tollhouse.core.prompt import texts
from tollhouse.core.ratelimit import over_limit
from tollhouse.core.reservation import Granted, Refused, Reservation, Typical
from tollhouse.core.surface import PERMISSIONS, Endpoint, Place, Subject, find
from tollhouse.core.usage import Facts


class RequestHeaders(msgspec.Struct, frozen=True):
    """The request line, who sends it, and whether a body follows.

    `is_grpc`: the client speaks gRPC, so refusals do too.
    """

    method: str
    path: str
    principal: Principal
    has_body: bool
    is_grpc: bool = False


class RequestBody(msgspec.Struct, frozen=True):
    """The whole body."""

    body: bytes


class TokensCounted(msgspec.Struct, frozen=True):
    """What the texts of the prompt come to; None: there was no time to count."""

    tokens: int | None


class ReservationAnswered(msgspec.Struct, frozen=True):
    """The limiter's verdict."""

    verdict: Granted | Refused


class StreamEnded(msgspec.Struct, frozen=True):
    """The ext_proc stream is over, in whatever way."""


Event = RequestHeaders | RequestBody | TokensCounted | ReservationAnswered | StreamEnded


class Identify(msgspec.Struct, frozen=True):
    """Answer the headers message: go on, and this is the exchange."""

    exchange_id: ExchangeId
    principal: Principal


class CountTokens(msgspec.Struct, frozen=True):
    """Count the texts with the model's tokenizer, then report TokensCounted."""

    model: str
    texts: list[str]


class Reserve(msgspec.Struct, frozen=True):
    """Ask the limiter, then report ReservationAnswered.

    While the model is saturated, ask again for `hold_seconds`.
    """

    reservation: Reservation
    redis_down: RedisDown
    hold_seconds: float


class Admit(msgspec.Struct, frozen=True):
    """Answer the body message: forward `body` to `cluster`, then hang up with OK.

    `strip`: the meter takes the usage event out, the client did not ask for it.
    `injected`: the output cap in the body is ours.
    """

    body: bytes
    cluster: str
    strip: bool
    injected: bool
    facts: Facts
    granted: Granted


class Answer(msgspec.Struct, frozen=True):
    """Answer the client ourselves, with 200 and this JSON."""

    body: bytes


class Refuse(msgspec.Struct, frozen=True):
    """Answer the client with a problem."""

    problem: Problem


class Release(msgspec.Struct, frozen=True):
    """Give the reservation back: its answer can no longer arrive."""

    reservation: Reservation


Command = Identify | CountTokens | Reserve | Admit | Answer | Refuse | Release


class State(Enum):
    """Where an admission stands; the last four are final."""

    IDLE = auto()
    IDENTIFIED = auto()
    COUNTING = auto()
    RESERVING = auto()
    ADMITTED = auto()
    ANSWERED = auto()
    REFUSED = auto()
    RELEASED = auto()


class Admission:
    """One request on its way to a model."""

    # Set on the way: twice from IDENTIFIED, thrice COUNTING, RESERVING on.
    _headers: RequestHeaders
    _operation: Operation
    _request: Request
    _model: Model
    _entitlement: Entitlement
    _reservation: Reservation

    def __init__(
        self, exchange_id: ExchangeId, catalog: Catalog, experience: Experience
    ) -> None:
        self.state = State.IDLE
        self._exchange_id = exchange_id
        self._catalog = catalog
        self._experience = experience

    def receive(self, event: Event) -> Command | None:
        """Advance by one event; return what must be done now.

        Raises ProtocolError for an event that can't come now: the caller ends the
        stream with an error status, and the admission guard answers 503.
        """
        try:
            return self._advance(event)
        except Problem as problem:
            self.state = State.REFUSED
            return Refuse(problem)

    def _advance(self, event: Event) -> Command | None:
        match self.state, event:
            case State.IDLE, RequestHeaders():
                return self._identify(event)
            case State.IDENTIFIED, RequestBody():
                return self._judge(event)
            case State.COUNTING, TokensCounted(tokens):
                return self._reserve(tokens)
            case State.RESERVING, ReservationAnswered(Granted() as granted):
                return self._admit(granted)
            case State.RESERVING, ReservationAnswered(Refused() as refused):
                raise over_limit(refused, created_ms(self._exchange_id))
            case State.RESERVING, StreamEnded():
                self.state = State.RELEASED
                return Release(self._reservation)
            case _, StreamEnded():
                return None
            case _, (
                RequestHeaders()
                | RequestBody()
                | TokensCounted()
                | ReservationAnswered()
            ):
                raise ProtocolError(f"{type(event).__name__} in {self.state.name}")
            case _, unreachable:
                assert_never(unreachable)

    def _identify(self, event: RequestHeaders) -> Command:
        match find(event.method, event.path):
            case Place(Endpoint(serves=Subject.MODELS)):
                self.state = State.ANSWERED
                return Answer(model_list(self._visible(event.principal)))
            case Place(
                Endpoint(serves=Subject.MODEL, dialect=Dialect.OPENAI), str(name)
            ):
                self.state = State.ANSWERED
                return Answer(self._entry(name, event.principal))
            case Place(Endpoint(serves=Operation() as operation)):
                self._operation = operation
            case _:
                raise ProtocolError(f"no operation for {event.method} on this path")
        if not event.has_body:
            raise Problem(Kind.INVALID_REQUEST, "The body must be a JSON object.")
        self._headers = event
        self.state = State.IDENTIFIED
        return Identify(self._exchange_id, event.principal)

    def _judge(self, event: RequestBody) -> Command:
        principal = self._headers.principal
        request = parse(self._operation, event.body)
        model = self._covered(request, principal)
        fit(request, model)
        entitled = entitlement(self._catalog, principal, model)
        if entitled is None:
            # Deny by default: no plan, no limits to hold, nothing admitted.
            raise Problem(
                Kind.UNAVAILABLE, f"The plan {principal.plan!r} is not configured."
            )
        self._request, self._model, self._entitlement = request, model, entitled
        if model.tokenizer is None:
            return self._reserve(None)
        self.state = State.COUNTING
        return CountTokens(model.name, texts(request))

    def _reserve(self, tokens: int | None) -> Command:
        principal, request = self._headers.principal, self._request
        model, entitled = self._model, self._entitlement
        tenant, learned = principal.tenant, self._experience
        expected = estimate(
            request, model, tenant, entitled.policy, learned, counted=tokens
        )
        weights, prices = model.weights, model.prices
        units = expected.units(weights)
        self._reservation = Reservation(
            exchange_id=self._exchange_id,
            facts=Facts(
                tenant=tenant,
                key_id=principal.key_id,
                plan=principal.plan,
                operation=request.operation,
                requested_model=request.model,
                served_model=model.name,
                cluster=model.cluster,
                provider=model.provider,
                weights=(weights.input, weights.cached_input, weights.output),
                prices=(prices.input, prices.cached_input, prices.output),
                reserved_units=units,
                input_estimate=expected.input_tokens,
                output_estimate=expected.output_tokens,
                text_bytes=request.text_bytes,
                framing=expected.framing,
                choices=request.choices,
                output_cap=output_cap(request, model),
            ),
            limits=entitled.limits,
            typical=Typical(
                duration_ms=learned.duration_ms(tenant, model.name),
                refund=round(learned.refund_part(tenant, model.name) * units),
            ),
        )
        self.state = State.RESERVING
        return Reserve(self._reservation, entitled.redis_down, model.hold_seconds)

    def _admit(self, granted: Granted) -> Command:
        self.state = State.ADMITTED
        request = self._request
        facts = replace(self._reservation.facts, debits=granted.debits)
        body, injected = forwarded(request, self._model)
        return Admit(
            body=body,
            cluster=facts.cluster,
            strip=request.stream and not request.wants_usage,
            injected=injected,
            facts=facts,
            granted=granted,
        )

    def _visible(self, principal: Principal) -> dict[str, int]:
        return {
            name: model.created
            for name, model in self._catalog.models.items()
            if self._is_visible(model, principal)
        }

    def _entry(self, name: str, principal: Principal) -> bytes:
        model = self._catalog.models.get(name)
        if model is None or not self._is_visible(model, principal):
            raise _unknown_model(None)
        return model_entry(model.name, model.created)

    @staticmethod
    def _is_visible(model: Model, principal: Principal) -> bool:
        return any(
            covers(principal, PERMISSIONS[it], model.name) for it in model.operations
        )

    def _covered(self, request: Request, principal: Principal) -> Model:
        model = self._catalog.models.get(request.model)
        permission = PERMISSIONS[request.operation]
        if model is None or not covers(principal, permission, request.model):
            raise _unknown_model("model")
        return model


def _unknown_model(param: str | None) -> Problem:
    """Not there, or not for this key: alike, so that nobody learns which."""
    return Problem(
        Kind.MODEL_NOT_FOUND,
        "The model does not exist or you do not have access to it.",
        param,
    )
