"""What Redis keeps of tenants and keys: names of the entries, and how they read.

    th:tenants           set of tenant names
    th:tenant:<name>     hash: plan, state (active, suspended), created_at, limits
    th:keys:<tenant>     set of key ids
    th:keyid:<key id>    digest of the key
    th:key:<digest>      hash: key_id, tenant, plan, scopes, label, created_at,
                         expires_at, revoked_at, limits; an empty field is none

`limits` is the JSON of `core.entitlement.Overrides`, each of its own: a tenant's has no
`key`, a key's nothing else. Times are Unix seconds. The key itself is in none of them:
only its digest, which is worth nothing without the pepper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tollhouse.core.entitlement import AS_PLANNED, Override, Overrides, decode_overrides

TENANTS: Final = "th:tenants"
ACTIVE: Final = "active"
NONE: Final = Overrides()


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is billed; `overrides` of its own and of its models, and its time zone."""

    name: str
    plan: str
    state: str
    created_at: float
    overrides: Overrides = NONE


@dataclass(frozen=True, slots=True)
class ApiKey:
    """All that is kept of a key. `plan` None: the tenant's."""

    key_id: str
    tenant: str
    plan: str | None
    scopes: str
    label: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
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


def to_tenant(name: str, fields: Mapping[str, str]) -> Tenant:
    """Read a tenant's hash. Raises ProtocolError for limits that can't be read."""
    return Tenant(
        name,
        fields["plan"],
        fields["state"],
        float(fields["created_at"]),
        decode_overrides(fields.get("limits", "")),
    )


def to_key(fields: Mapping[str, str]) -> ApiKey:
    """Read a key's hash. Raises ProtocolError for limits that can't be read."""
    return ApiKey(
        key_id=fields["key_id"],
        tenant=fields["tenant"],
        plan=fields["plan"] or None,
        scopes=fields["scopes"],
        label=fields["label"],
        created_at=float(fields["created_at"]),
        expires_at=float(fields["expires_at"]) if fields["expires_at"] else None,
        revoked_at=float(fields["revoked_at"]) if fields["revoked_at"] else None,
        override=decode_overrides(fields.get("limits", "")).key,
    )
