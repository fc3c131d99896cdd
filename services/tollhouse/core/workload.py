"""Workloads: requests with what they really use, to try limits out with.

A trace is text, one JSON object a line, one line a request; `TRACE` says which fields.
A synthetic workload is drawn: output lengths with a heavy tail, and crowds of clients
that come together.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec

from tollhouse.core.catalog import MODEL_NAME, Weights

TRACE = """\
at          seconds; from any moment, in any order
input       tokens of the prompt
output      tokens really generated
max_tokens  optional: the client's cap, at least `output`
seconds     optional: how long it took (else 0.04 + 0.015 x output)
tenant      optional: whose request; each tenant has the limit,
model       optional: on each model"""
"""Fields of a line of a trace."""

FIRST_TOKEN_SECONDS = 0.04
TOKEN_SECONDS = 0.015
"""Speed of the requests of a trace that does not say; those of the local engine."""

_MOST_FAULTS = 10
_MOST_TOKENS = 2**31 - 1
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)]


class Arrival(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):  # fields are those of a trace
    """One request: when it comes, and what it uses if it is admitted."""

    at: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    input: _Tokens
    output: _Tokens
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=_MOST_TOKENS)] | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    tenant: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,63}$")] = "acme"
    model: Annotated[str, msgspec.Meta(pattern=f"^{MODEL_NAME}$")] = "m"

    @property
    def duration(self) -> float:
        """Seconds from admission to the end."""
        if self.seconds is not None:
            return self.seconds
        return FIRST_TOKEN_SECONDS + TOKEN_SECONDS * self.output

    def units(self, weights: Weights) -> int:
        """What it really uses of a limit."""
        return self.input * weights.input + self.output * weights.output

    def output_after(self, seconds: float) -> int:
        """Tokens generated this long after admission, at a steady pace."""
        duration = self.duration
        if seconds >= duration:
            return self.output
        waited = min(FIRST_TOKEN_SECONDS, duration / 2)
        done = max(0.0, seconds - waited) / (duration - waited)
        return math.floor(self.output * done)


class Chance(Protocol):
    """A source of random numbers, such as random.Random."""

    def random(self) -> float:
        """Draw from 0 up to 1."""

    def lognormvariate(self, mu: float, sigma: float) -> float:
        """Draw from exp of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Synthetic:
    """What synthetic requests are like.

    Lengths are lognormal: with a spread of 1.3 one answer in ten is longer than
    5 medians and one in eight hundred longer than 50. Caps are what clients name: most
    name a round number far above what they get, or none.

    Most requests come independently of each other (Poisson); `clients` come together
    within `crowd_seconds`, `crowds` times a minute.
    """

    output_median: int = 100
    output_spread: float = 1.3
    input_median: int = 250
    input_spread: float = 0.9
    most_output: int = 8192
    most_input: int = 8192
    caps: tuple[tuple[float, int | None], ...] = (
        *((0.40, None), (0.15, 1024), (0.20, 2048)),
        *((0.20, 4096), (0.05, 8192)),
    )
    clients: int = 32
    crowds: float = 1.0
    crowd_seconds: float = 2.0
    token_seconds: float = TOKEN_SECONDS

    def draw(
        self, chance: Chance, *, units: int, minutes: float, weights: Weights
    ) -> list[Arrival]:
        """Draw requests that together use about `units`, over this time, in order."""
        drawn: list[Arrival] = []
        while units > 0:
            arrival = self._request(chance)
            units -= arrival.units(weights)
            drawn.append(arrival)
        times = self._times(chance, len(drawn), minutes * 60)
        return [
            msgspec.structs.replace(arrival, at=at)
            for arrival, at in zip(drawn, times, strict=True)
        ]

    def _request(self, chance: Chance) -> Arrival:
        prompt = self.input_median * chance.lognormvariate(0, self.input_spread)
        answer = self.output_median * chance.lognormvariate(0, self.output_spread)
        cap = self._cap(chance)
        output = min(max(1, round(answer)), cap or self.most_output)
        return Arrival(
            at=0,
            input=min(max(1, round(prompt)), self.most_input),
            output=output,
            max_tokens=cap,
            seconds=FIRST_TOKEN_SECONDS + self.token_seconds * output,
        )

    def _cap(self, chance: Chance) -> int | None:
        point = chance.random()
        for share, cap in self.caps[:-1]:
            point -= share
            if point < 0:
                return cap
        return self.caps[-1][1]

    def _times(self, chance: Chance, count: int, seconds: float) -> list[float]:
        crowds = round(self.crowds * seconds / 60)
        times: list[float] = []
        for _ in range(crowds):
            # The size of the load is given: crowds are a part of it, never more.
            size = min(self.clients, count - len(times))
            begin = chance.random() * max(0.0, seconds - self.crowd_seconds)
            times += (begin + chance.random() * self.crowd_seconds for _ in range(size))
        times += (chance.random() * seconds for _ in range(count - len(times)))
        return sorted(times)


def parse_trace(lines: Iterable[bytes], name: str) -> list[Arrival]:
    """Read a trace, sorted by time; `name` is what faults call the file.

    Raises ValueError with one line per fault; the first ten, then their number.
    """
    arrivals: list[Arrival] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            arrivals.append(_parse_line(line))
        except (msgspec.DecodeError, ValueError) as error:
            faults.append(f"{name}:{number}: {error}")
    if len(faults) > _MOST_FAULTS:
        more = f"{name}: {len(faults) - _MOST_FAULTS} more lines are not right"
        faults = [*faults[:_MOST_FAULTS], more]
    if not arrivals and not faults:
        faults = [f"{name}: has no request"]
    if faults:
        raise ValueError("\n".join(faults))
    return sorted(arrivals, key=lambda arrival: arrival.at)


_decode = msgspec.json.Decoder(Arrival).decode


def _parse_line(line: bytes) -> Arrival:
    arrival = _decode(line)
    if arrival.max_tokens is not None and arrival.output > arrival.max_tokens:
        raise ValueError("`output` is above `max_tokens`")
    return arrival


def mean_units(arrivals: Sequence[Arrival], weights: Weights) -> float:
    """Units of one request on average."""
    return sum(it.units(weights) for it in arrivals) / len(arrivals)
