"""Which model serves a request while the one it names has nobody who could."""

from collections.abc import Set as AbstractSet

from tollhouse.core.catalog import Catalog, Model, Operation
from tollhouse.core.forwarding import fit
from tollhouse.core.problems import Problem
from tollhouse.core.request import Request


def serving(
    request: Request, requested: Model, catalog: Catalog, down: AbstractSet[str]
) -> Model:
    """The requested model, or the first of its fallbacks that can serve the request.

    `down` are clusters without a healthy host; of others nothing is known, so they
    count as healthy. Where nobody can, it is the requested model: its client is told
    by Envoy. A fallback's own fallbacks are not followed. Raises Problem where the
    requested model would not take the request, whoever serves.
    """
    fit(request, requested)
    # What Triton itself serves does not go to `cluster`.
    if requested.cluster in down and request.operation is not Operation.INFER:
        for name in requested.fallback:
            model = catalog.models[name]
            if model.cluster not in down and _fits(request, model):
                return model
    return requested


def _fits(request: Request, model: Model) -> bool:
    try:
        fit(request, model)
    except Problem:
        return False
    return True
