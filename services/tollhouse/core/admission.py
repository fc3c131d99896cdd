"""The life of one ext_proc stream, sans-IO: an event in, a command out.

    IDLE ──request headers──▶ IDENTIFIED ──body──▶ RESERVING ──granted──▶ ADMITTED
      └──▶ ANSWERED              └──▶ REFUSED ◀──refused──┘ └──stream ended──▶ RELEASED

Where the model has a tokenizer, COUNTING lies between IDENTIFIED and RESERVING. What
makes no model work is ANSWERED at once, or after NAMING, where the body names a model.

The exchange id leaves with the headers reply, before anything is reserved: whatever
is lost afterwards, Envoy's ledger names the exchange and it is released. The end of
the stream says nothing about the answer and never settles.
"""

from collections.abc import Set as AbstractSet
from enum import Enum, auto
from typing import assert_never

from msgspec.structs import replace

from tollhouse.core.admission_messages import (
    Admit,
    Answer,
    Command,
    CountTokens,
    Event,
    Identify,
    ModelNamed,
    ReadOn,
    Refuse,
    Release,
    RequestBody,
    RequestHeaders,
    RequestRead,
    ReservationAnswered,
    Reserve,
    StreamEnded,
    TokensCounted,
)
from tollhouse.core.catalog import Catalog, Model, Operation
from tollhouse.core.entitlement import Entitlement, entitlement
from tollhouse.core.estimate import estimate
from tollhouse.core.experience import Experience
from tollhouse.core.fallback import serving
from tollhouse.core.forwarding import forwarded, output_cap, strips
from tollhouse.core.identity import Principal, covers
from tollhouse.core.ids import ExchangeId, created_ms
from tollhouse.core.infer import Document, rewrite
from tollhouse.core.infer_document import document_of
from tollhouse.core.inquiry import Inquiry, Naming, Pass, server, unknown_model
from tollhouse.core.problems import Dialect, Kind, Problem, ProtocolError
from tollhouse.core.prompt import texts
from tollhouse.core.ratelimit import over_limit
from tollhouse.core.request import Request, parse
from tollhouse.core.reservation import Granted, Refused, Reservation, Typical
from tollhouse.core.surface import (
    PERMISSIONS,
    STREAM_INFER,
    Place,
    Subject,
    find,
)
from tollhouse.core.usage import Facts

OWN_CLUSTER = "extproc"
"""Where this service answers for the server in Triton's gRPC."""


class State(Enum):
    """Where an admission stands; the last four are final."""

    IDLE = auto()
    NAMING = auto()
    IDENTIFIED = auto()
    COUNTING = auto()
    RESERVING = auto()
    ADMITTED = auto()
    ANSWERED = auto()
    REFUSED = auto()
    RELEASED = auto()


class Admission:
    """One request on its way to a model."""

    # Set on the way: from the headers, from the body, from RESERVING on.
    _headers: RequestHeaders
    _place: Place
    _document: Document | None = None
    _request: Request
    _model: Model
    _entitlement: Entitlement
    _reservation: Reservation

    def __init__(
        self,
        exchange_id: ExchangeId,
        catalog: Catalog,
        experience: Experience,
        down: AbstractSet[str] = frozenset(),
        trace: str = "",
    ) -> None:
        """Begin; `down` are the clusters that have no healthy host.

        `trace` is the traceparent for the facts.
        """
        self.state = State.IDLE
        self._exchange_id = exchange_id
        self._catalog = catalog
        self._experience = experience
        self._down = down
        self._trace = trace

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
            case State.IDENTIFIED, RequestBody() | RequestRead():
                return self._judge(event)
            case State.NAMING, ModelNamed(naming):
                return self._tell_named(naming)
            case State.COUNTING, TokensCounted(tokens):
                return self._reserve(tokens)
            case State.RESERVING, ReservationAnswered(verdict):
                return self._admit(verdict)
            case State.RESERVING, StreamEnded():
                self.state = State.RELEASED
                return Release(self._reservation)
            case _, StreamEnded():
                return None
            case _, (
                RequestHeaders()
                | RequestBody()
                | RequestRead()
                | ModelNamed()
                | TokensCounted()
                | ReservationAnswered()
            ):
                raise ProtocolError(f"{type(event).__name__} in {self.state.name}")
            case _, unreachable:
                assert_never(unreachable)

    def _identify(self, event: RequestHeaders) -> Command:
        place = find(event.method, event.path)
        if place is None:
            raise ProtocolError(f"nothing for {event.method} on this path")
        self._headers, self._place = event, place
        if place.endpoint.operation is None:
            return self._tell(place)
        if not event.has_body:
            raise _no_body(place.endpoint.dialect)
        self.state = State.IDENTIFIED
        is_all = event.path == STREAM_INFER
        return Identify(self._exchange_id, event.principal, is_all)

    def _tell(self, place: Place) -> Command:
        dialect, has_body = place.endpoint.dialect, self._headers.has_body
        inquiry, name = self._inquiry, place.model or ""
        self.state = State.ANSWERED
        match place.endpoint.serves, dialect:
            case Subject.MODELS, _:
                return Answer(inquiry.models())
            case Subject.MODEL, Dialect.OPENAI:
                return Answer(inquiry.entry(name))
            case Subject.MODEL, Dialect.TRITON:
                triton = inquiry.triton(name)
                if has_body:  # nobody would judge it
                    raise Problem(Kind.INVALID_REQUEST, "This path takes no body.")
                return Pass(triton.http, place.path_of(triton.model))
            case Subject.SERVER, Dialect.TRITON:
                return Answer(server(place.endpoint.path))
            case Subject.SERVER, _:
                return Pass(OWN_CLUSTER)
            case _:
                if not has_body:
                    raise _no_body(dialect)
                self.state = State.NAMING
                return ReadOn()

    def _tell_named(self, naming: Naming) -> Command:
        triton = self._inquiry.triton(naming.model())
        self.state = State.ANSWERED
        return Pass(triton.grpc, body=naming.renamed(triton.model))

    def _judge(self, event: RequestBody | RequestRead) -> Command:
        principal = self._headers.principal
        request = self._read(event)
        # The key's scope on the requested model is enough: the operator chose who
        # serves in its place.
        requested = self._covered(request, principal)
        model = serving(request, requested, self._catalog, self._down)
        entitled = entitlement(self._catalog, principal, model)
        if entitled is None:
            # Deny by default: no plan, no limits to hold, nothing admitted.
            raise Problem(
                Kind.UNAVAILABLE, f"The plan {principal.plan!r} is not configured."
            )
        self._request, self._model, self._entitlement = request, model, entitled
        if model.tokenizer is None or request.operation is Operation.INFER:
            return self._reserve(None)
        self.state = State.COUNTING
        return CountTokens(model.name, texts(request))

    def _read(self, event: RequestBody | RequestRead) -> Request:
        operation = self._place.endpoint.operation
        if isinstance(event, RequestRead):
            self._document = event.document
        elif operation is Operation.INFER:
            self._document = document_of(self._place, event.body, self._headers.head)
        elif operation is not None:
            return parse(operation, event.body)
        if self._document is None:
            raise ProtocolError("a body where nothing is to be done")
        return self._document.request()

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
                cluster=_cluster(model, self._place),
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
                runs_on=self._place.endpoint.runs_on,
                trace=self._trace,
            ),
            limits=entitled.limits,
            typical=Typical(
                duration_ms=learned.duration_ms(tenant, model.name),
                refund=round(learned.refund_part(tenant, model.name) * units),
            ),
            margin=expected.margin,
        )
        self.state = State.RESERVING
        return Reserve(self._reservation, entitled.redis_down, model.hold_seconds)

    def _admit(self, verdict: Granted | Refused) -> Command:
        if isinstance(verdict, Refused):
            raise over_limit(verdict, created_ms(self._exchange_id))
        self.state = State.ADMITTED
        request, granted = self._request, verdict
        facts = replace(self._reservation.facts, debits=granted.debits)
        if self._document is not None:
            return self._admit_document(self._document, facts, granted)
        body, injected = forwarded(request, self._model)
        return Admit(
            body=body,
            cluster=facts.cluster,
            strip=strips(request),
            injected=injected,
            facts=facts,
            granted=granted,
        )

    def _admit_document(
        self, document: Document, facts: Facts, granted: Granted
    ) -> Command:
        written = rewrite(self._request, self._model)
        return Admit(
            body=document.rewritten(written),
            cluster=facts.cluster,
            strip=False,
            injected=False,
            facts=facts,
            granted=granted,
            content_type=document.content_type,
            head_bytes=document.head_bytes,
            path=self._place.path_of(written.model),
        )

    @property
    def _inquiry(self) -> Inquiry:
        return Inquiry(self._catalog, self._headers.principal)

    def _covered(self, request: Request, principal: Principal) -> Model:
        model = self._catalog.models.get(request.model)
        permission = PERMISSIONS[request.operation]
        if model is None or not covers(principal, permission, request.model):
            raise unknown_model("model")
        return model


def _cluster(model: Model, place: Place) -> str:
    if place.endpoint.operation is Operation.INFER and model.triton is not None:
        is_grpc = place.endpoint.dialect is Dialect.GRPC
        return model.triton.grpc if is_grpc else model.triton.http
    return model.cluster


def _no_body(dialect: Dialect) -> Problem:
    is_grpc = dialect is Dialect.GRPC
    what = "There is no message." if is_grpc else "The body must be a JSON object."
    return Problem(Kind.INVALID_REQUEST, what)
