"""What is measured of ended exchanges; docs/telemetry.md says what each is good for.

Recorded by whoever reads the ledger, once for each exchange. Only counters have the
tenant, and never more of them than `CappedNames` lets through; nothing has a key.
"""

from collections.abc import Iterator, Mapping

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

from tollhouse.adapters import conventions
from tollhouse.adapters.capped_names import CappedNames
from tollhouse.adapters.tally import Tally
from tollhouse.core.ending import Ending, Outcome
from tollhouse.core.exchange import Settlement
from tollhouse.core.usage import TokenUsage, UsageKind

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


class ExchangeMetrics:
    """The instruments of ended exchanges; without a provider none measures."""

    def __init__(self, provider: MeterProvider | None = None) -> None:
        self._is_on = provider is not None
        self._tenants = CappedNames()
        meter = (provider or NoOpMeterProvider()).get_meter("tollhouse")
        self._duration = meter.create_histogram(
            conventions.REQUEST_DURATION,
            unit="s",
            description="From a request's first byte to the end of its answer",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._first_token = meter.create_histogram(
            conventions.TIME_TO_FIRST_TOKEN,
            unit="s",
            description="From a request's first byte to the first token, if streamed",
            explicit_bucket_boundaries_advisory=_FIRST_TOKENS,
        )
        self._per_token = meter.create_histogram(
            conventions.TIME_PER_OUTPUT_TOKEN,
            unit="s",
            description="Per output token after the first, of whole streamed answers",
            explicit_bucket_boundaries_advisory=_PER_TOKEN,
        )
        self._token_usage = meter.create_histogram(
            conventions.TOKEN_USAGE,
            unit="{token}",
            description="Tokens of an exchange",
            explicit_bucket_boundaries_advisory=_TOKENS,
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
        names = attributes(settlement)
        if ending.outcome is Outcome.FAILED:
            names[conventions.ERROR_TYPE] = ending.error
        self._duration.record(duration, names)
        if ending.first_token_seconds is not None:
            self._first_token.record(ending.first_token_seconds, names)
        if ending.token_seconds is not None:
            self._per_token.record(ending.token_seconds, names)
        usage = settlement.usage
        if usage != TokenUsage():
            of_input = {**names, conventions.TOKEN_TYPE: "input"}
            self._token_usage.record(usage.input_tokens, of_input)
            of_output = {**names, conventions.TOKEN_TYPE: "output"}
            self._token_usage.record(usage.output_tokens, of_output)


def attributes(settlement: Settlement) -> dict[str, str]:
    """What the GenAI conventions ask of metrics and spans alike."""
    facts = settlement.facts
    return {
        conventions.OPERATION: conventions.operation_name(facts.operation),
        conventions.PROVIDER: facts.provider,
        conventions.REQUEST_MODEL: facts.requested_model,
        conventions.RESPONSE_MODEL: facts.served_model,
    }


def _tokens(usage: TokenUsage) -> Iterator[tuple[str, int]]:
    counts: Mapping[str, int] = {
        "input": usage.input_tokens,
        "cached_input": usage.cached_input_tokens,
        "output": usage.output_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    return ((name, count) for name, count in counts.items() if count)
