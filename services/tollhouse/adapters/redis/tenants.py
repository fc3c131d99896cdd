"""Tenants, as an operator keeps them: create, change, suspend, resume, delete."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec

from tollhouse.adapters.redis.blocking import translated
from tollhouse.adapters.redis.records import (
    ACTIVE,
    DELETED,
    SUSPENDED,
    TENANTS,
    Tenant,
    key_entry,
    key_id_entry,
    keys_entry,
    tenant_entry,
    to_key,
    to_tenant,
)
from tollhouse.adapters.redis.ring import (
    AT_ONCE,
    Change,
    KeyringError,
    Ring,
    TakenError,
    no_tenant,
    read_hashes,
)
from tollhouse.core import identity
from tollhouse.core.entitlement import AS_PLANNED, UTC, Override, Overrides
from tollhouse.core.key_terms import check_plan, check_reason
from tollhouse.core.periods import check_zone


class Tenants(Ring):
    """The tenants of one Redis. Every method raises Unavailable without it."""

    def create_tenant(
        self, name: str, plan: str, time_zone: str | None = None
    ) -> tuple[Tenant, bool]:
        """Create a tenant, or find it as asked for; True if it is new.

        Raises TakenError when it exists on another plan or in another time zone:
        changing what somebody pays is not what `create` is for. Also when it was
        deleted, because bills carry the name. ValueError for a name, plan or time zone
        that is none.
        """
        identity.check_tenant(name)
        check_plan(plan)
        zone = UTC if time_zone is None else check_zone(time_zone)
        new = Tenant(name, plan, ACTIVE, self._clock(), Overrides(zone=zone))

        def create(change: Change) -> tuple[Tenant, bool]:
            fields = change.fields(tenant_entry(name))
            if fields:
                return to_tenant(name, fields), False
            change.put_tenant("tenant.created", None, new)
            change.write("SADD", TENANTS, name)
            return new, True

        tenant, is_new = self._change(create)
        _check_as_asked(tenant, plan, None if time_zone is None else zone)
        return tenant, is_new

    def change_tenant(
        self, name: str, *, plan: str | None = None, time_zone: str | None = None
    ) -> Tenant:
        """Put a tenant on another plan, or its budgets into another time zone.

        Raises KeyringError for an unknown or deleted tenant, ValueError for a plan or
        zone that is none.
        """
        if plan is not None:
            check_plan(plan)
        if time_zone is not None:
            check_zone(time_zone)

        def change(tenant: Tenant) -> Tenant:
            zone = tenant.overrides.zone if time_zone is None else time_zone
            return replace(
                tenant,
                plan=tenant.plan if plan is None else plan,
                overrides=msgspec.structs.replace(tenant.overrides, zone=zone),
            )

        return self._change_tenant(name, "tenant.changed", change)[0]

    def override_tenant(
        self, name: str, model: str | None, change: Callable[[Override], Override]
    ) -> Tenant:
        """Change where a tenant's limits, or those on one model, differ from its plan.

        Raises KeyringError for an unknown or deleted tenant.
        """

        def override(tenant: Tenant) -> Tenant:
            old = tenant.overrides
            if model is None:
                new = msgspec.structs.replace(old, tenant=change(old.tenant))
            else:
                changed = change(old.models.get(model, AS_PLANNED))
                models = {**old.models, model: changed}
                if changed == AS_PLANNED:
                    del models[model]
                new = msgspec.structs.replace(old, models=models)
            return replace(tenant, overrides=new)

        return self._change_tenant(name, "tenant.changed", override)[0]

    def suspend_tenant(self, name: str, reason: str = "") -> tuple[Tenant, bool]:
        """Refuse all requests of a tenant until it is resumed; False if it was so.

        Raises KeyringError for an unknown or deleted tenant, ValueError for a reason
        that can't be kept.
        """
        check_reason(reason)

        def suspend(tenant: Tenant) -> Tenant:
            if tenant.state == SUSPENDED:
                return tenant
            return replace(tenant, state=SUSPENDED, reason=reason)

        return self._change_tenant(name, "tenant.suspended", suspend)

    def resume_tenant(self, name: str) -> tuple[Tenant, bool]:
        """Let a suspended tenant's requests in again; False if they were.

        Raises KeyringError for an unknown or deleted tenant.
        """
        return self._change_tenant(
            name,
            "tenant.resumed",
            lambda tenant: replace(tenant, state=ACTIVE, reason=""),
        )

    def delete_tenant(self, name: str) -> tuple[Tenant, int, bool]:
        """Delete a tenant for good and revoke its keys; False if it was deleted.

        The number is of keys that were revoked by it. Its name stays taken. From the
        first transaction on no key of it opens anything, or is made; that one revokes
        as many as it can, the next ones the rest. Raises NotThereError for an unknown
        tenant.
        """
        identity.check_tenant(name)
        now = self._clock()

        def delete(change: Change) -> tuple[Tenant, bool, list[str], int]:
            old = change.tenant(name)
            new = replace(old, state=DELETED, reason="")
            is_new = change.put_tenant("tenant.deleted", old, new)
            ids = sorted(change.members(keys_entry(name)))
            return new, is_new, ids[AT_ONCE:], _revoke(change, ids[:AT_ONCE], now)

        tenant, is_new, rest, revoked = self._change(delete)
        for start in range(0, len(rest), AT_ONCE):
            ids = rest[start : start + AT_ONCE]
            revoked += self._change(partial(_revoke, key_ids=ids, now=now))
        return tenant, revoked, is_new

    def tenant(self, name: str) -> Tenant:
        """One tenant, deleted ones too. Raises NotThereError, ValueError."""
        identity.check_tenant(name)
        with translated():
            fields = self._redis.hgetall(tenant_entry(name))
            if not fields:
                raise no_tenant(name)
            return to_tenant(name, fields)

    def tenants(
        self, *, after: str = "", limit: int | None = None, deleted: bool = False
    ) -> list[Tenant]:
        """Tenants by name, those behind a name only; deleted ones where asked for."""
        found: list[Tenant] = []
        with translated():
            names = sorted(it for it in self._redis.smembers(TENANTS) if it > after)
            step = len(names) if limit is None else limit
            while names and (limit is None or len(found) < limit):
                now, names = names[:step], names[step:]
                read = read_hashes(self._redis, map(tenant_entry, now))
                found += [
                    tenant
                    for name, fields in zip(now, read, strict=True)
                    if fields
                    and (
                        (tenant := to_tenant(name, fields)).state != DELETED or deleted
                    )
                ]
        return found[:limit]

    def _change_tenant(
        self, name: str, action: str, change_to: Callable[[Tenant], Tenant]
    ) -> tuple[Tenant, bool]:
        identity.check_tenant(name)

        def steps(change: Change) -> tuple[Tenant, bool]:
            old = live_tenant(change, name)
            new = change_to(old)
            return new, change.put_tenant(action, old, new)

        return self._change(steps)


def live_tenant(change: Change, name: str) -> Tenant:
    """Read a tenant that is not deleted. Raises KeyringError."""
    tenant = change.tenant(name)
    if tenant.state == DELETED:
        raise KeyringError(f"tenant {name} was deleted")
    return tenant


def _revoke(change: Change, key_ids: list[str], now: float) -> int:
    """End those keys that were not; how many."""
    digests = [it for it in change.texts([*map(key_id_entry, key_ids)]) if it]
    found = change.many_fields([*map(key_entry, digests)])
    revoked = 0
    for digest, fields in zip(digests, found, strict=True):
        key = to_key(digest, fields) if fields else None
        if key is not None and key.revoked_at is None:
            ended = replace(key, revoked_at=now)
            revoked += change.put_key("key.revoked", digest, key, ended)
    return revoked


def _check_as_asked(tenant: Tenant, plan: str, zone: str | None) -> None:
    name = tenant.name
    change = f"to change it: tollhouse tenants set {name}"
    if tenant.state == DELETED:
        raise TakenError(
            f"tenant {name} was deleted, and bills carry its name", "choose another one"
        )
    if tenant.plan != plan:
        raise TakenError(
            f"tenant {name} exists and is on plan {tenant.plan}, not {plan}",
            f"{change} --plan {plan}",
        )
    if zone is not None and tenant.overrides.zone != zone:
        raise TakenError(
            f"tenant {name} exists and is in {tenant.overrides.zone}, not {zone}",
            f"{change} --time-zone {zone}",
        )
