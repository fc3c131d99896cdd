"""What is measured of ended exchanges; docs/telemetry.md says what each is good for.

Recorded by whoever reads the ledger, once for each exchange. Only counters have the
tenant, and never more of them than `CappedNames` lets through; nothing has a key.
"""

from collections.abc import Iterator

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

from tollhouse.adapters import conventions
from tollhouse.adapters.capped_names import CappedNames
from tollhouse.adapters.histogram_tally import HistogramTally
from tollhouse.adapters.tally import Tally
from tollhouse.core.ending import Ending, Outcome
from tollhouse.core.exchange import Settlement
from tollhouse.core.usage import TokenUsage, UsageKind

_OF_GENAI = (
    conventions.OPERATION,
    conventions.PROVIDER,
    conventions.REQUEST_MODEL,
    conventions.RESPONSE_MODEL,
)
# As the conventions prescribe them (gen-ai-metrics, semconv 1.41.1).
_DURATIONS = tuple(0.01 * 2**power for power in range(14))
_FIRST_TOKENS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
_TOKENS = tuple(4**power for power in range(14))
_NOTHING = TokenUsage()


class ExchangeMetrics:
    """The instruments of ended exchanges; without a provider none measures."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self._is_on = provider is not None
        self._tenants = CappedNames()
        meter = (provider or NoOpMeterProvider()).get_meter("tollhouse")
        of_genai = " ".join(_OF_GENAI)
        self._duration = HistogramTally(
            meter,
            conventions.REQUEST_DURATION,
            f"{of_genai} {conventions.ERROR_TYPE}",
            _DURATIONS,
            unit="s",
            description="From a request's first byte to the end of its answer",
        )
        self._first_token = HistogramTally(
            meter,
            conventions.TIME_TO_FIRST_TOKEN,
            f"{of_genai} {conventions.ERROR_TYPE}",
            _FIRST_TOKENS,
            unit="s",
            description="From a request's first byte to the first token, if streamed",
        )
        self._per_token = HistogramTally(
            meter,
            conventions.TIME_PER_OUTPUT_TOKEN,
            of_genai,
            _PER_TOKEN,
            unit="s",
            description="Per output token after the first, of whole streamed answers",
        )
        self._token_usage = HistogramTally(
            meter,
            conventions.TOKEN_USAGE,
            f"{of_genai} {conventions.ERROR_TYPE} {conventions.TOKEN_TYPE}",
            _TOKENS,
            unit="{token}",
            description="Tokens of an exchange",
        )
        self._tokens = Tally(
            meter,
            "tollhouse.tokens",
            "tenant model type",
            unit="{token}",
            description="Tokens settled, by tenant",
        )
        self._exchanges = Tally(
            meter,
            "tollhouse.exchanges",
            "tenant model outcome",
            unit="{exchange}",
            description="Exchanges that ended, by outcome",
        )
        self._settlements = Tally(
            meter,
            "tollhouse.settlements",
            "model kind source",
            unit="{record}",
            description="Exchanges settled, by kind of record and by who ended them",
        )
        self._units = Tally(
            meter,
            "tollhouse.units",
            "model plan state",
            unit="{unit}",
            description="Units reserved, settled and abandoned of ended exchanges",
        )

    def ended(self, ending: Ending) -> None:
        """Take in an exchange; raises nothing."""
        if not self._is_on:
            return
        settlement = ending.settlement
        model = "" if settlement is None else settlement.facts.served_model
        tenant = self._tenants(ending.tenant)
        self._exchanges.add(1, tenant, model, ending.outcome.value)
        if settlement is None:
            return
        for name, count in _tokens(settlement.usage):
            self._tokens.add(count, tenant, model, name)
        kind = settlement.kind.name.lower()
        self._settlements.add(1, model, kind, ending.source)
        self._count_units(settlement)
        self._record(ending, settlement)

    def _count_units(self, settlement: Settlement) -> None:
        facts = settlement.facts
        names, reserved = (facts.served_model, facts.plan), facts.reserved_units
        self._units.add(reserved, *names, "reserved")
        if settlement.kind is UsageKind.ABANDONED:
            # A reaped exchange keeps what it reserved.
            self._units.add(reserved, *names, "abandoned")
        else:
            self._units.add(settlement.usage.units(facts.weights), *names, "settled")

    def _record(self, ending: Ending, settlement: Settlement) -> None:
        duration = ending.duration_seconds
        if duration is None:  # a reaped one ended nobody knows when
            return
        names = _of_genai(settlement)
        error = ending.error if ending.outcome is Outcome.FAILED else None
        self._duration.record(duration, *names, error)
        if ending.first_token_seconds is not None:
            self._first_token.record(ending.first_token_seconds, *names, error)
        if ending.token_seconds is not None:
            self._per_token.record(ending.token_seconds, *names)
        usage = settlement.usage
        if usage != _NOTHING:
            self._token_usage.record(usage.input_tokens, *names, error, "input")
            self._token_usage.record(usage.output_tokens, *names, error, "output")


def attributes(settlement: Settlement) -> dict[str, str]:
    """What the GenAI conventions ask of metrics and spans alike."""
    return dict(zip(_OF_GENAI, _of_genai(settlement), strict=True))


def _of_genai(settlement: Settlement) -> tuple[str, ...]:
    facts = settlement.facts
    operation = conventions.operation_name(facts.operation)
    return operation, facts.provider, facts.requested_model, facts.served_model


def _tokens(usage: TokenUsage) -> Iterator[tuple[str, int]]:
    counts = (
        ("input", usage.input_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("output", usage.output_tokens),
        ("reasoning", usage.reasoning_tokens),
    )
    return ((name, count) for name, count in counts if count)
