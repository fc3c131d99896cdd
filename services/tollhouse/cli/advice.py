"""What a valid tollhouse.yaml says that its author may not have meant."""

import math
from collections.abc import Collection, Iterator

from tollhouse.adapters.configuration import places
from tollhouse.core.catalog import Catalog, Model
from tollhouse.core.limits import LONGEST_BURST_SECONDS, Allowance


def advice(catalog: Catalog) -> Iterator[str]:
    """Yield one line for each, with its path and what to do."""
    for path, allowance, models in places(catalog):
        yield from _too_small(path, allowance, models)
        if allowance.shadow:
            yield f"{path}.shadow: these limits are counted, never refused by"
    for name, model in catalog.models.items():
        one = _default_request(model)
        if model.capacity is None:
            if model.hold_seconds:
                yield (
                    f"models.{name}.hold_seconds: nothing is held without a capacity; "
                    "set capacity"
                )
        elif model.capacity < one:
            yield (
                f"models.{name}.capacity: one default request takes {one:_} units; "
                f"set {one:_} or more"
            )


def _too_small(
    path: str, allowance: Allowance, models: Collection[Model]
) -> Iterator[str]:
    """A bucket that one request never fits into."""
    per_minute, burst = allowance.units_per_minute, allowance.burst_seconds
    if per_minute is None:
        return
    model = max(models, key=_default_request)
    one = _default_request(model)
    at_once = math.floor(per_minute * burst / 60)
    if one <= at_once:
        return
    needed = math.ceil(one * 60 / per_minute)
    remedy = f"set burst_seconds to {needed} or more"
    if needed > LONGEST_BURST_SECONDS:
        remedy = f"set {math.ceil(one * 60 / burst):_} or more"
    yield (
        f"{path}.units_per_minute: with burst_seconds {burst:g} it admits {at_once:_} "
        f"units at once, one default request to {model.name} takes {one:_}; {remedy}"
    )


def _default_request(model: Model) -> int:
    """Units of a request that names no cap, its input left out."""
    return model.default_output_tokens * model.weights.output
