"""What Redis keeps of tenants and keys: names of the entries, and how they read.

    th:tenants           set of tenant names, those of deleted ones too
    th:tenant:<name>     hash: plan, state, reason, created_at, limits
    th:keys:<tenant>     set of key ids
    th:keyid:<key id>    digest of the key
    th:key:<digest>      hash: key_id, tenant, plan, scopes, networks, labels,
                         created_at, expires_at, revoked_at, rotated_from, rotated_to,
                         source, limits; an empty or absent field is none
    th:source:<name>     set of ids of keys that were imported from there
    th:request:<tenant>:<id>  key id that a request of the admin API made, for a day
    th:audit             stream of what was changed, by whom; only ever appended to

A tenant is `active`, `suspended` or `deleted`; a deleted one stays as a name that is
not given again, because bills carry it. `labels` is JSON, a list of texts; older
records have one `label`. `limits` is the JSON of `core.entitlement.Overrides`, each of
its own: a tenant's has no `key`, a key's nothing else. Times are Unix seconds. The key
itself is in none of them: only its digest, which is worth nothing without the pepper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec

from tollhouse.core.entitlement import AS_PLANNED, Override, Overrides, decode_overrides
from tollhouse.core.key_terms import version_of
from tollhouse.core.limits import MONEY
from tollhouse.core.problems import ProtocolError

TENANTS: Final = "th:tenants"
AUDIT: Final = "th:audit"
ACTIVE: Final = "active"
SUSPENDED: Final = "suspended"
DELETED: Final = "deleted"
NONE: Final = Overrides()


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is billed; `overrides` of its own and of its models, and its time zone.

    `reason` is why it is suspended, if one was given.
    """

    name: str
    plan: str
    state: str
    created_at: float
    overrides: Overrides = NONE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """All that is kept of a key. `plan` None: the tenant's.

    `scopes` and `networks` are as `core.identity` joins them. `rotated_from` is the
    key id whose place it took, `rotated_to` the one that took its own. `source` names
    where it is imported from. `pepper` is the version its digest was made with.
    """

    key_id: str
    tenant: str
    plan: str | None
    scopes: str
    networks: str
    labels: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    rotated_from: str | None = None
    rotated_to: str | None = None
    source: str | None = None
    pepper: str = ""
    override: Override = AS_PLANNED

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`; `now` is Unix seconds."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        return ACTIVE


def tenant_entry(name: str) -> str:
    """Name of a tenant's hash."""
    return f"th:tenant:{name}"


def keys_entry(tenant: str) -> str:
    """Name of the set of a tenant's key ids."""
    return f"th:keys:{tenant}"


def key_id_entry(key_id: str) -> str:
    """Name of what leads from a key id to the digest."""
    return f"th:keyid:{key_id}"


def key_entry(digest: str) -> str:
    """Name of a key's hash."""
    return f"th:key:{digest}"


def source_entry(source: str) -> str:
    """Name of the set of key ids imported from a source."""
    return f"th:source:{source}"


def request_entry(tenant: str, request_id: str) -> str:
    """Name of what leads from a request to the key it made."""
    return f"th:request:{tenant}:{request_id}"


def to_tenant(name: str, fields: Mapping[str, str]) -> Tenant:
    """Read a tenant's hash. Raises ProtocolError for what can't be read."""
    try:
        return Tenant(
            name,
            fields["plan"],
            fields["state"],
            float(fields["created_at"]),
            decode_overrides(fields.get("limits", "")),
            fields.get("reason", ""),
        )
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"tenant {name} can't be read: {error}") from error


def from_tenant(tenant: Tenant) -> dict[str, str]:
    """Write a tenant's hash."""
    return {
        "plan": tenant.plan,
        "state": tenant.state,
        "reason": tenant.reason,
        "created_at": repr(tenant.created_at),
        "limits": tenant.overrides.encode(),
    }


def to_key(digest: str, fields: Mapping[str, str]) -> ApiKey:
    """Read a key's hash. Raises ProtocolError for what can't be read."""
    try:
        return ApiKey(
            key_id=fields["key_id"],
            tenant=fields["tenant"],
            plan=fields["plan"] or None,
            scopes=fields["scopes"],
            networks=fields.get("networks", ""),
            labels=_to_labels(fields),
            created_at=float(fields["created_at"]),
            expires_at=float(fields["expires_at"]) if fields["expires_at"] else None,
            revoked_at=float(fields["revoked_at"]) if fields["revoked_at"] else None,
            rotated_from=fields.get("rotated_from") or None,
            rotated_to=fields.get("rotated_to") or None,
            source=fields.get("source") or None,
            pepper=version_of(digest),
            override=decode_overrides(fields.get("limits", "")).key,
        )
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"a key's record can't be read: {error}") from error


def from_key(key: ApiKey) -> dict[str, str]:
    """Write a key's hash."""
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "plan": key.plan or "",
        "scopes": key.scopes,
        "networks": key.networks,
        "labels": msgspec.json.encode(key.labels).decode() if key.labels else "",
        "created_at": repr(key.created_at),
        "expires_at": "" if key.expires_at is None else repr(key.expires_at),
        "revoked_at": "" if key.revoked_at is None else repr(key.revoked_at),
        "rotated_from": key.rotated_from or "",
        "rotated_to": key.rotated_to or "",
        "source": key.source or "",
        "limits": Overrides(key=key.override).encode(),
    }


def iso(unix: float | None) -> str | None:
    """A time as ISO 8601 in UTC, to the second; None stays None."""
    if unix is None:
        return None
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def public_tenant(tenant: Tenant) -> dict[str, object]:
    """All that is known of a tenant, for people and programs."""
    return {
        "name": tenant.name,
        "plan": tenant.plan,
        "state": tenant.state,
        "reason": tenant.reason or None,
        "time_zone": tenant.overrides.zone,
        "created_at": iso(tenant.created_at),
        "limits": public_limits(tenant.overrides.tenant),
        "model_limits": {
            model: public_limits(override)
            for model, override in sorted(tenant.overrides.models.items())
        },
    }


def public_key(key: ApiKey) -> dict[str, object]:
    """All that is known of a key but its digest, for people and programs."""
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "plan": key.plan,
        "scopes": key.scopes.split(),
        "networks": key.networks.split(),
        "labels": list(key.labels),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "revoked_at": iso(key.revoked_at),
        "rotated_from": key.rotated_from,
        "rotated_to": key.rotated_to,
        "source": key.source,
        "pepper": key.pepper,
        "limits": public_limits(key.override),
    }


def public_limits(override: Override) -> dict[str, object]:
    """What differs from the plan; `none` is no such limit, money is text."""
    return {
        field: _public_limit(field, value)
        for field, value in msgspec.structs.asdict(override).items()
        if value is not None
    }


def _public_limit(field: str, value: float | bool | str) -> object:  # noqa: FBT001
    if value == "unlimited":
        return "none"
    if field.startswith("money_"):
        # Every digit there is, two at least: 0.0001, 12.50.
        whole, _, places = f"{Decimal(value) / MONEY:f}".partition(".")
        return f"{whole}.{places:0<2}"
    return value


def _to_labels(fields: Mapping[str, str]) -> tuple[str, ...]:
    text = fields.get("labels")
    if not text:
        old = fields.get("label")
        return (old,) if old else ()
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.DecodeError as error:
        raise ProtocolError(f"labels can't be read: {error}") from error
