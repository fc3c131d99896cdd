"""What is on offer: models, plans and their limits, as plain values.

The catalog is read from tollhouse.yaml by `adapters.configuration`; everything that
decides about an exchange gets it passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tollhouse.core.issuer import Issuer
from tollhouse.core.limits import Allowance

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"
"""Models and what they lead to are named so: fit for a header and, having neither `|`
nor `{`, for a part of a Redis key."""

UNLIMITED = Allowance()
"""A scope with no limits of its own."""


class Operation(StrEnum):
    """What a client asks a model to do; the values are those of usage records."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"
    """Anthropic's."""
    INFER = "infer"
    """Triton's own: tensors in, tensors out."""


class Provider(StrEnum):
    """Who serves a model: decides what the forwarded body may contain."""

    TRITON = "triton"
    """Our frontend beside a Triton."""
    OPENAI = "openai"
    """A server that speaks OpenAI's API itself (vLLM, trtllm-serve, …)."""


class Server(StrEnum):
    """Which server that is; `core.servers` knows what each takes."""

    VLLM = "vllm"
    TRTLLM_SERVE = "trtllm-serve"
    TRITON_OPENAI = "triton-openai"
    """NVIDIA's OpenAI frontend of Triton."""
    SGLANG = "sglang"
    NIM = "nim"
    OTHER = "other"
    """Any: it gets nothing but what OpenAI documents."""


@dataclass(frozen=True, slots=True)
class Triton:
    """Where a model's Triton is for clients that speak its own protocols.

    `grpc` and `http` are clusters; `model` is its name in the repository, of one whose
    answers say `num_input_tokens` and `num_output_tokens`.
    """

    grpc: str
    http: str
    model: str


@dataclass(frozen=True, slots=True)
class Weights:
    """Units per token of each type; limits count units."""

    input: int = 1
    cached_input: int = 0
    output: int = 5


@dataclass(frozen=True, slots=True)
class Prices:
    """What a token of each type costs, in `core.limits.MONEY`: budgets count by it."""

    input: int = 0
    cached_input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """One model on offer.

    `context` is the longest input plus output in tokens; `default_output_tokens` is
    what a request without a cap gets, `max_output_tokens` the largest cap a client
    may name. `bytes_per_token` turns text into an input estimate until the model's own
    ratio is learned; `tokenizer` is a tokenizer.json that counts exactly instead.

    Of an OpenAI provider, `server` is which it is and `backend_model` how it calls the
    model, None: as we do. `fallback` names models that serve instead, the first that
    can, while no host of `cluster` is healthy. `triton`: what serves `infer`.

    `limits` are those of all tenants together. `capacity` is how many units in flight
    saturate the model, None: nothing does; a request over it may be held for
    `hold_seconds` before it is refused.
    """

    name: str
    cluster: str
    provider: Provider
    operations: frozenset[Operation]
    context: int
    default_output_tokens: int
    max_output_tokens: int
    weights: Weights
    bytes_per_token: float
    inject_default: bool
    created: int
    prices: Prices = Prices()
    limits: Allowance = UNLIMITED
    capacity: int | None = None
    hold_seconds: float = 0.0
    tokenizer: Path | None = None
    server: Server = Server.OTHER
    backend_model: str | None = None
    fallback: tuple[str, ...] = ()
    triton: Triton | None = None


class Policy(StrEnum):
    """How much output a reservation takes."""

    LEARNED = "learned"
    """What recent exchanges say; the rest is charged as it happens."""
    STRICT = "strict"
    """All that the request may produce: never overshoots."""


class RedisDown(StrEnum):
    """What happens to requests while the shared limits can't be reached."""

    DEGRADE = "degrade"
    """Each worker admits its part of the limits."""
    DENY = "deny"
    """503."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The limits of the keys and tenants that are on it, and how they are held.

    `priority` is the tenant's weight among others when a model is saturated.
    """

    name: str
    key: Allowance = UNLIMITED
    tenant: Allowance = UNLIMITED
    tenant_model: Allowance = UNLIMITED
    policy: Policy = Policy.LEARNED
    redis_down: RedisDown = RedisDown.DEGRADE
    priority: int = 1


class Traceparent(StrEnum):
    """What a client's own trace context is to us."""

    RESTART = "restart"
    """Nothing: every trace begins here."""
    TRUST = "trust"
    """What comes before ours: its trace goes on here."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Which traces are kept.

    `sample_ratio` is the share of all, 0 to 1; what fails, is refused or takes longer
    than `slow_seconds` is told of beside them.
    """

    traceparent: Traceparent = Traceparent.RESTART
    sample_ratio: float = 0.01
    slow_seconds: float = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """Everything on offer, replaced whole when tollhouse.yaml changes.

    `limits` are those of the whole gateway; `currency` is that of all prices, an ISO
    4217 code in small letters; `issuers` are those whose tokens open it. Compares by
    identity: what was worked out for one catalog is kept under it.
    """

    models: Mapping[str, Model]
    plans: Mapping[str, Plan]
    limits: Allowance = UNLIMITED
    currency: str = "usd"
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    telemetry: Telemetry = Telemetry()
