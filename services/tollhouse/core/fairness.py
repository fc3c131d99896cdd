"""Fair sharing of a model's capacity among tenants, without a queue.

Capacity is the units in flight a model is meant to have. Below it anyone is admitted:
what others leave unused is nobody's loss. A saturated model goes over its capacity, at
most to twice of it, for two kinds of tenants, and refuses the rest:

* one whose units in flight stay within its share of the capacity, by weight among the
  tenants in flight: what a noisy one does costs it nothing;
* one that was given less than the others: each tenant has a counter of the units it was
  admitted with, divided by its weight (virtual token counter, arXiv 2401.00588), and
  below the largest of the others it is behind. It gets what becomes free before the
  others do, and the further behind, the earlier: up to an eighth over the capacity. So
  tenants that always want more get units in proportion to their weights.

A tenant without units in flight is forgotten. Nobody is further behind than its share,
so that a tenant which comes back cannot make up for the time it was away.

Bounds. Admission never brings the units in flight over twice the capacity, or over the
capacity by more than one request, whichever is more: a request larger than the capacity
enters while nothing is in flight, or when its tenant is behind and the capacity is not
exceeded. A tenant within its share is refused only at twice the capacity: four tenants
must each have filled their share while nothing of the earlier ones ended. What outgrows
its reservation is in flight, too, whatever the capacity.

A pure function from state to state; `fairness.lua` does the same to a hash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

SCALE = 60
"""Counter of one unit at weight 1: small weights divide it, and it stays below 2^53 for
years of a million units a second."""
CATCH_UP = 8
"""A tenant that is behind may go over the capacity by its CATCH_UPth part. In
simulation half of it left 1:2:4 two points off when the lightest asked five times as
often as the others; twice of it won half a point."""


@dataclass(frozen=True, slots=True)
class Stake:
    """What one tenant has in flight; its counter is `SCALE` to a unit and weight."""

    units: int
    counter: int
    weight: int


@dataclass(frozen=True, slots=True)
class Flight:
    """Everything one model has in flight, by tenant; none of them with zero units."""

    stakes: Mapping[str, Stake] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units in flight of all tenants."""
        return sum(stake.units for stake in self.stakes.values())

    @property
    def weights(self) -> int:
        """Weights of the tenants in flight, in sum."""
        return sum(stake.weight for stake in self.stakes.values())

    @property
    def largest(self) -> int:
        """The counter of the tenant that was given most."""
        return max((stake.counter for stake in self.stakes.values()), default=0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may enter, and the counter its tenant starts from then."""

    fits: bool
    counter: int


_NOTHING = Stake(0, 0, 0)


def judge(
    flight: Flight, tenant: str, weight: int, cost: int, capacity: int
) -> Verdict:
    """Decide on a request of `cost` units; changes nothing."""
    own = flight.stakes.get(tenant, _NOTHING)
    in_flight = flight.units
    if in_flight + cost <= capacity or in_flight == 0:
        return Verdict(capacity > 0, own.counter)
    weights = flight.weights - own.weight + weight
    fits_twice = in_flight + cost <= 2 * capacity
    if fits_twice and (own.units + cost) * weights <= capacity * weight:
        return Verdict(fits=True, counter=own.counter)
    over = in_flight - capacity
    if over * CATCH_UP > capacity:
        return Verdict(fits=False, counter=own.counter)
    counter = max(own.counter, flight.largest - capacity * SCALE // weights)
    behind = flight.largest - counter
    fits_behind = over <= 0 or (fits_twice and over * SCALE <= behind * weight)
    return Verdict(behind > 0 and fits_behind, counter)


def change(
    flight: Flight,
    tenant: str,
    weight: int,
    *,
    held: int,
    served: int,
    counter: int | None = None,
) -> Flight:
    """Add to a tenant's units in flight and to what it was given, or take back.

    Neither goes below nothing: what is taken back may have been lost. `counter` is
    that of the verdict when a request enters; else the tenant's weight stays.
    """
    own = flight.stakes.get(tenant, _NOTHING)
    units = max(0, own.units + held)
    stakes = {name: stake for name, stake in flight.stakes.items() if name != tenant}
    if units:
        if counter is None:
            counter, weight = own.counter, own.weight or weight
        reached = max(0, counter + served * SCALE // weight)
        stakes[tenant] = Stake(units, reached, weight)
    return Flight(stakes)
