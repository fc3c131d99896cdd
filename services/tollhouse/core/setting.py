"""The setting of a simulation: what all policies that are compared have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

from tollhouse.core.catalog import Model, Operation, Provider, Weights
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.workload import Arrival, mean_units

DEFAULT_OUTPUT_TOKENS = 512
"""What is expected of the first answers: about P90 of the synthetic ones, as operators
would configure it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A workload, in order of time, and the limit each tenant and model has."""

    arrivals: Sequence[Arrival]
    units_per_minute: int
    burst_seconds: float
    model: Model

    @property
    def run_ms(self) -> int:
        """From the first request to the last, at least a millisecond."""
        return max(1, round((self.arrivals[-1].at - self.arrivals[0].at) * 1000))

    @property
    def owners(self) -> int:
        """How many have the limit."""
        return len({(arrival.tenant, arrival.model) for arrival in self.arrivals})

    @property
    def limit(self) -> Limit:
        """The limit, as reserved from."""
        return Limit(
            Scope.TENANT_MODEL,
            Measure.UNITS,
            self.units_per_minute,
            burst=self.burst_seconds,
        )

    @property
    def mean_units(self) -> float:
        """Units of one request on average."""
        return mean_units(self.arrivals, self.model.weights)


def simulated_model(weights: Weights, max_output_tokens: int) -> Model:
    """Make a model that takes whatever a workload asks of it."""
    return Model(
        name="simulated",
        cluster="simulated",
        provider=Provider.OPENAI,
        operations=frozenset({Operation.CHAT}),
        context=2**31,
        default_output_tokens=min(DEFAULT_OUTPUT_TOKENS, max_output_tokens),
        max_output_tokens=max_output_tokens,
        weights=weights,
        bytes_per_token=4.0,
        inject_default=False,
        created=0,
    )
