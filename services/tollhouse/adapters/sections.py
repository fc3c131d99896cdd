"""The sections of tollhouse.yaml, each judged by itself."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tollhouse.core.catalog import (
    MODEL_NAME,
    Model,
    Operation,
    Plan,
    Policy,
    Prices,
    Provider,
    RedisDown,
    Server,
    Telemetry,
    Traceparent,
    Triton,
    Weights,
)
from tollhouse.core.limits import (
    DEFAULT_BURST_SECONDS,
    LONGEST_BURST_SECONDS,
    MONEY,
    MOST,
    MOST_MONEY,
    Allowance,
)
from tollhouse.core.servers import SERVERS

FOLDER = "folder"
"""In the validation's context: what relative paths start from."""

# Strict: YAML's `yes` must not become the number 1.
Count = Annotated[int, Field(ge=1, le=MOST, strict=True)]
Name = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]
# Whatever the server was told to call it: a repository, a path, with spaces.
ForeignName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,256}$")]
Burst = Annotated[float, Field(ge=0.001, le=LONGEST_BURST_SECONDS)]
# Four places: a price per million tokens is then a whole number of MONEY per token.
Money = Annotated[Decimal, Field(gt=0, le=MOST_MONEY, decimal_places=4)]
Price = Annotated[Decimal, Field(ge=0, le=10_000, decimal_places=4)]
# As Stripe writes an ISO 4217 code.
Currency = Annotated[str, Field(pattern="^[a-z]{3}$")]


class Section(BaseModel):
    """What all have in common: no field but the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AllowanceSection(Section):
    """Limits of one scope; a limit left out does not exist."""

    requests_per_minute: Count | None = None
    units_per_minute: Count | None = None
    concurrent: Count | None = None
    units_per_day: Count | None = None
    units_per_month: Count | None = None
    money_per_day: Money | None = None
    money_per_month: Money | None = None
    burst_seconds: Burst | None = None
    shadow: bool = False

    def allowance(self, burst_seconds: float) -> Allowance:
        """As a value; `burst_seconds` where the section has none of its own."""
        own = self.burst_seconds
        return Allowance(
            requests_per_minute=self.requests_per_minute,
            units_per_minute=self.units_per_minute,
            concurrent=self.concurrent,
            units_per_day=self.units_per_day,
            units_per_month=self.units_per_month,
            money_per_day=to_money(self.money_per_day),
            money_per_month=to_money(self.money_per_month),
            burst_seconds=burst_seconds if own is None else own,
            shadow=self.shadow,
        )


class WeightsSection(Section):
    """Units per token."""

    input: Annotated[int, Field(ge=0, le=1000)] = 1
    cached_input: Annotated[int, Field(ge=0, le=1000)] = 0
    output: Annotated[int, Field(ge=1, le=1000)] = 5


class PricesSection(Section):
    """Money per million tokens; none is guessed."""

    input: Price
    cached_input: Price
    output: Price

    def prices(self) -> Prices:
        """As a value."""
        return Prices(
            _per_token(self.input),
            _per_token(self.cached_input),
            _per_token(self.output),
        )


class TritonSection(Section):
    """A model's Triton, for clients that speak its own protocols."""

    grpc: Name
    http: Name
    model: ForeignName | None = None


class ModelSection(Section):
    """One model."""

    cluster: Name
    provider: Provider = Provider.TRITON
    operations: Annotated[frozenset[Operation], Field(min_length=1)]
    context: Count
    default_output_tokens: Count
    max_output_tokens: Count
    weights: WeightsSection = WeightsSection()
    prices: PricesSection | None = None
    bytes_per_token: Annotated[float, Field(ge=0.1, le=100)] = 4.0
    tokenizer: Path | None = None
    limits: AllowanceSection = AllowanceSection()
    capacity: Count | None = None
    hold_seconds: Annotated[float, Field(ge=0, le=5)] = 0.0
    inject_default: bool | None = None
    created: Annotated[int, Field(ge=0)] = 0
    server: Server | None = None
    backend_model: ForeignName | None = None
    fallback: tuple[Name, ...] = ()
    triton: TritonSection | None = None

    @field_validator("tokenizer")
    @classmethod
    def _is_there(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return found(path, info, "the model's tokenizer.json")

    @model_validator(mode="after")
    def _sizes(self) -> "ModelSection":
        if self.default_output_tokens > self.max_output_tokens:
            raise ValueError("default_output_tokens is above max_output_tokens")
        if self.max_output_tokens > self.context:
            raise ValueError("max_output_tokens is above context")
        return self

    @model_validator(mode="after")
    def _infers(self) -> "ModelSection":
        if Operation.INFER in self.operations and self.triton is None:
            raise ValueError("operation infer needs triton: {grpc: …, http: …}")
        return self

    @model_validator(mode="after")
    def _foreign(self) -> "ModelSection":
        if self.provider is not Provider.OPENAI:
            if Operation.EMBEDDINGS in self.operations:
                raise ValueError(
                    "provider triton does not serve embeddings: the text contract has "
                    "none; server triton-openai does, with provider: openai"
                )
            for name in ("server", "backend_model"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is of use with provider: openai only")
            return self
        server = self.server or Server.OTHER
        served = SERVERS[server].operations | {Operation.INFER}  # that is Triton's own
        if unserved := sorted(self.operations - served):
            raise ValueError(f"{server} does not serve {', '.join(unserved)}")
        return self

    def model(self, name: str) -> Model:
        """As a value."""
        inject = self.inject_default
        return Model(
            name=name,
            cluster=self.cluster,
            provider=self.provider,
            operations=self.operations,
            context=self.context,
            default_output_tokens=self.default_output_tokens,
            max_output_tokens=self.max_output_tokens,
            weights=Weights(**self.weights.model_dump()),
            bytes_per_token=self.bytes_per_token,
            # A foreign server keeps its own default unless the operator says otherwise.
            inject_default=(
                self.provider is Provider.TRITON if inject is None else inject
            ),
            created=self.created,
            prices=Prices() if self.prices is None else self.prices.prices(),
            limits=self.limits.allowance(DEFAULT_BURST_SECONDS),
            capacity=self.capacity,
            hold_seconds=self.hold_seconds,
            tokenizer=self.tokenizer,
            server=self.server or Server.OTHER,
            backend_model=self.backend_model,
            fallback=self.fallback,
            triton=None if self.triton is None else _triton(self.triton, name),
        )


def _triton(section: TritonSection, name: str) -> Triton:
    return Triton(section.grpc, section.http, section.model or name)


class PlanSection(Section):
    """One plan."""

    key: AllowanceSection = AllowanceSection()
    tenant: AllowanceSection = AllowanceSection()
    tenant_model: AllowanceSection = AllowanceSection()
    burst_seconds: Burst = DEFAULT_BURST_SECONDS
    policy: Policy = Policy.LEARNED
    redis_down: RedisDown = RedisDown.DEGRADE
    priority: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1

    def plan(self, name: str) -> Plan:
        """As a value."""
        return Plan(
            name=name,
            key=self.key.allowance(self.burst_seconds),
            tenant=self.tenant.allowance(self.burst_seconds),
            tenant_model=self.tenant_model.allowance(self.burst_seconds),
            policy=self.policy,
            redis_down=self.redis_down,
            priority=self.priority,
        )


class EngineSection(Section):
    """Parameters of the local simulated engine; only `tollhouse up` reads them."""

    ttft_ms: Annotated[float, Field(ge=0)] = 40
    itl_ms: Annotated[float, Field(gt=0)] = 15
    prefill_ms_per_token: Annotated[float, Field(ge=0)] = 0.05
    max_num_seqs: Count = 8
    natural_end: Annotated[bool, Field(strict=True)] = True
    faults: Annotated[bool, Field(strict=True)] = False


class TelemetrySection(Section):
    """Which traces are kept; where they go is said in the environment (OTEL_…)."""

    traceparent: Traceparent = Traceparent.RESTART
    sample_ratio: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.01
    slow_seconds: Annotated[float, Field(gt=0, le=86_400, strict=True)] = 30.0

    def telemetry(self) -> Telemetry:
        """As a value."""
        return Telemetry(self.traceparent, self.sample_ratio, self.slow_seconds)


def found(path: Path | None, info: ValidationInfo, what: str) -> Path | None:
    """Make a path absolute. Raises ValueError where there is no file."""
    if path is None:
        return None
    context: dict[str, Any] = info.context or {}
    place: Path = (context.get(FOLDER, Path()) / path).absolute()
    if not place.is_file():
        raise ValueError(
            f"no file {place}; name {what}, absolute or relative to this file, or "
            "leave it out"
        )
    return place


def to_money(amount: Decimal | None) -> int | None:
    """An amount of the currency in `MONEY`; it has four decimal places at most."""
    return None if amount is None else int(amount * MONEY)


def _per_token(price: Decimal) -> int:
    return int(price * MONEY / 1_000_000)
