"""What one caller may use of one model: the plan's limits, overridden, as one tuple.

Overrides are kept with tenant and key in Redis and travel with the principal, as JSON:
`{"key": {...}, "tenant": {...}, "models": {"tiny-chat": {...}}, "zone": "..."}`. They
replace the plan's values field by field; a limit may be lifted, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec

from tollhouse.core.catalog import Catalog, Model, Policy, RedisDown
from tollhouse.core.identity import Principal
from tollhouse.core.limits import (
    LONGEST_BURST_SECONDS,
    MOST,
    Allowance,
    Limit,
    Measure,
    Scope,
)
from tollhouse.core.periods import is_zone
from tollhouse.core.problems import ProtocolError

UTC: Final = "UTC"
"""Time zone of the budgets that all tenants share, and of tenants that name none."""

Amount = Annotated[int, msgspec.Meta(ge=1, le=MOST)] | Literal["unlimited"] | None
"""None: the plan's value."""
_Burst = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_BURST_SECONDS)]


class Override(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """What replaces a plan's values in one place; None keeps the plan's.

    Fields and units are those of `Allowance`. An unknown field can't be read: a limit
    that a newer release set must not be overlooked by an older one.
    """

    requests_per_minute: Amount = None
    units_per_minute: Amount = None
    concurrent: Amount = None
    units_per_day: Amount = None
    units_per_month: Amount = None
    money_per_day: Amount = None
    money_per_month: Amount = None
    burst_seconds: _Burst | None = None
    shadow: bool | None = None

    def over(self, allowance: Allowance) -> Allowance:
        """Lay it over a plan's values."""
        changes: dict[str, Any] = {
            name: None if value == "unlimited" else value
            for name, value in msgspec.structs.asdict(self).items()
            if value is not None
        }
        return replace(allowance, **changes) if changes else allowance


AS_PLANNED: Final = Override()
"""Replaces nothing."""


class Overrides(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """All that differs from the plan: of a key, of its tenant, of the tenant's models.

    `zone`: IANA name of the time zone that the tenant's budgets follow.
    """

    key: Override = AS_PLANNED
    tenant: Override = AS_PLANNED
    models: dict[str, Override] = {}
    zone: str = UTC

    def encode(self) -> str:
        """Compact JSON; empty when nothing differs."""
        kept = {name: it for name, it in self.models.items() if it != AS_PLANNED}
        # Only the very default objects are left out.
        plain = Overrides(
            key=AS_PLANNED if self.key == AS_PLANNED else self.key,
            tenant=AS_PLANNED if self.tenant == AS_PLANNED else self.tenant,
            models=kept,
            zone=UTC if self.zone == UTC else self.zone,
        )
        text = _encoder.encode(plain).decode()
        return "" if text == "{}" else text


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Overrides)


def decode_overrides(text: str) -> Overrides:
    """Read what `Overrides.encode` wrote; raises ProtocolError for anything else."""
    if not text:
        return Overrides()
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"not overrides of limits: {error}") from error


def combined(key: str, tenant: str) -> str:
    """Make a principal's overrides of what its key and its tenant are kept with.

    Raises ProtocolError.
    """
    if not key and not tenant:
        return ""
    owner = decode_overrides(tenant)
    if not is_zone(owner.zone):
        raise ProtocolError(f"not a time zone: {owner.zone!r}")
    return msgspec.structs.replace(owner, key=decode_overrides(key).key).encode()


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What one caller may use of one model, and how it is held.

    `limits`: those of the tenant's side, then the fleet's. `priority`: the tenant's
    weight among others when the model is saturated.
    """

    limits: tuple[Limit, ...]
    policy: Policy
    redis_down: RedisDown
    priority: int


def entitlement(
    catalog: Catalog, principal: Principal, model: Model
) -> Entitlement | None:
    """Find what a principal may use of a model of the catalog; None: no such plan.

    Raises ProtocolError when its overrides can't be read.
    """
    return _entitlement(catalog, principal.plan, principal.overrides, model.name)


# Catalogs are told apart by identity, so this costs a request less than a microsecond.
@lru_cache(maxsize=8192)
def _entitlement(
    catalog: Catalog, plan_name: str, overrides_text: str, model_name: str
) -> Entitlement | None:
    plan = catalog.plans.get(plan_name)
    if plan is None:
        return None
    model = catalog.models[model_name]
    overrides = decode_overrides(overrides_text)
    of_model = overrides.models.get(model_name, AS_PLANNED)
    mine: Mapping[Scope, Allowance] = {
        Scope.KEY: overrides.key.over(plan.key),
        Scope.TENANT: overrides.tenant.over(plan.tenant),
        Scope.TENANT_MODEL: of_model.over(plan.tenant_model),
    }
    limits = [
        limit
        for scope, allowance in mine.items()
        for limit in allowance.limits(scope, overrides.zone)
    ]
    limits += model.limits.limits(Scope.MODEL, UTC)
    if model.capacity is not None:
        limits.append(
            Limit(Scope.MODEL, Measure.CAPACITY, model.capacity, weight=plan.priority)
        )
    limits += catalog.limits.limits(Scope.GLOBAL, UTC)
    return Entitlement(tuple(limits), plan.policy, plan.redis_down, plan.priority)
