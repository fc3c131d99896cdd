"""What an admission is told, and what it commands.

msgspec structs: made for every request, they cost a fifth of a frozen dataclass.
"""

import msgspec

from tollhouse.core.catalog import RedisDown
from tollhouse.core.identity import Principal
from tollhouse.core.ids import ExchangeId
from tollhouse.core.infer import Document
from tollhouse.core.inquiry import Naming, Pass
from tollhouse.core.problems import Problem
from tollhouse.core.reservation import Granted, Refused, Reservation
from tollhouse.core.usage import Facts


class RequestHeaders(msgspec.Struct, frozen=True):
    """The request line, who sends it, and whether a body follows.

    `is_grpc`: the client speaks gRPC, so refusals do too. `head`: what it says of the
    length of the JSON before binary tensors. `request_id`: Envoy's, for logs.
    """

    method: str
    path: str
    principal: Principal
    has_body: bool
    is_grpc: bool = False
    head: str | None = None
    request_id: str = ""


class RequestBody(msgspec.Struct, frozen=True):
    """The whole body."""

    body: bytes


class RequestRead(msgspec.Struct, frozen=True):
    """The whole body, of a protocol that an adapter reads."""

    document: Document


class ModelNamed(msgspec.Struct, frozen=True):
    """The whole body, which names a model to be told about."""

    naming: Naming


class TokensCounted(msgspec.Struct, frozen=True):
    """What the texts of the prompt come to; None: there was no time to count."""

    tokens: int | None


class ReservationAnswered(msgspec.Struct, frozen=True):
    """The limiter's verdict."""

    verdict: Granted | Refused


class StreamEnded(msgspec.Struct, frozen=True):
    """The ext_proc stream is over, in whatever way."""


Event = (
    RequestHeaders
    | RequestBody
    | RequestRead
    | ModelNamed
    | TokensCounted
    | ReservationAnswered
    | StreamEnded
)


class Identify(msgspec.Struct, frozen=True):
    """Answer the headers message: go on, and this is the exchange.

    `is_all`: then hang up with OK, for a filter of its own judges what follows.
    """

    exchange_id: ExchangeId
    principal: Principal
    is_all: bool = False


class ReadOn(msgspec.Struct, frozen=True):
    """Answer the headers message: go on. The body will say more; it is no exchange."""


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
    `injected`: the output cap in the body is ours. `head_bytes`: of a body with binary
    tensors, where its JSON ends. `path` takes the place of the client's, if not "".
    """

    body: bytes
    cluster: str
    strip: bool
    injected: bool
    facts: Facts
    granted: Granted
    content_type: str = "application/json"
    head_bytes: int | None = None
    path: str = ""


class Answer(msgspec.Struct, frozen=True):
    """Answer the client ourselves, with 200 and this JSON."""

    body: bytes


class Refuse(msgspec.Struct, frozen=True):
    """Answer the client with a problem."""

    problem: Problem


class Release(msgspec.Struct, frozen=True):
    """Give the reservation back: its answer can no longer arrive."""

    reservation: Reservation


Command = (
    Identify | ReadOn | CountTokens | Reserve | Admit | Answer | Pass | Refuse | Release
)
