"""Tenants and keys, as an operator keeps them: create, change, list, revoke.

Blocking: for the command line, not for services.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.blocking import open_blocking, translated
from tollhouse.adapters.redis.records import (
    ACTIVE,
    TENANTS,
    ApiKey,
    Tenant,
    key_entry,
    key_id_entry,
    keys_entry,
    tenant_entry,
    to_key,
    to_tenant,
)
from tollhouse.core import identity
from tollhouse.core.entitlement import AS_PLANNED, UTC, Override, Overrides
from tollhouse.core.periods import check_zone

_LONGEST_LABEL = 64

_Result = TypeVar("_Result")


class KeyringError(Exception):
    """What was asked for can't be done; one line, ready to print."""


class Keyring:
    """Tenants and keys of one Redis. Every method raises Unavailable without it."""

    def __init__(
        self,
        url: str,
        pepper: Pepper | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Connect on first use; `clock` gives Unix seconds.

        Raises ValueError for a URL that can't be one, holds a password or names a
        cluster.

        Without a pepper all is there but `create_key` and `find`, which raise
        KeyringError.
        """
        self._redis = open_blocking(url)
        self._pepper = pepper
        self._clock = clock

    def close(self) -> None:
        """Give the connection back."""
        self._redis.close()

    def create_tenant(
        self, name: str, plan: str, time_zone: str | None = None
    ) -> tuple[Tenant, bool]:
        """Create a tenant, or find it as asked for; True if it is new.

        Raises KeyringError when it exists on another plan or in another time zone:
        changing what somebody pays is not what `create` is for. ValueError for a name
        or time zone that is none.
        """
        identity.check_tenant(name)
        zone = UTC if time_zone is None else check_zone(time_zone)
        created_at = self._clock()

        def create(pipe: Any) -> tuple[Tenant, bool]:
            fields = pipe.hgetall(tenant_entry(name))
            if fields:
                return to_tenant(name, fields), False
            overrides = Overrides(zone=zone)
            pipe.multi()
            pipe.hset(
                tenant_entry(name),
                mapping={
                    "plan": plan,
                    "state": ACTIVE,
                    "created_at": created_at,
                    "limits": overrides.encode(),
                },
            )
            pipe.sadd(TENANTS, name)
            return Tenant(name, plan, ACTIVE, created_at, overrides), True

        tenant, is_new = self._transaction(create, tenant_entry(name))
        if tenant.plan != plan:
            raise KeyringError(
                f"tenant {name} exists and is on plan {tenant.plan}, not {plan}; "
                f"to change it: tollhouse tenants set {name} --plan {plan}"
            )
        if time_zone is not None and tenant.overrides.zone != zone:
            raise KeyringError(
                f"tenant {name} exists and is in {tenant.overrides.zone}, not {zone}; "
                f"to change it: tollhouse tenants set {name} --time-zone {zone}"
            )
        return tenant, is_new

    def change_tenant(
        self, name: str, *, plan: str | None = None, time_zone: str | None = None
    ) -> Tenant:
        """Put a tenant on another plan, or its budgets into another time zone.

        Raises KeyringError for an unknown tenant, ValueError for a zone that is none.
        """
        if time_zone is not None:
            check_zone(time_zone)

        def change(tenant: Tenant) -> Tenant:
            zone = tenant.overrides.zone if time_zone is None else time_zone
            return replace(
                tenant,
                plan=tenant.plan if plan is None else plan,
                overrides=msgspec.structs.replace(tenant.overrides, zone=zone),
            )

        return self._change_tenant(name, change)

    def override_tenant(
        self, name: str, model: str | None, change: Callable[[Override], Override]
    ) -> Tenant:
        """Change where a tenant's limits, or those on one model, differ from its plan.

        Raises KeyringError for an unknown tenant.
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

        return self._change_tenant(name, override)

    def tenants(self) -> list[Tenant]:
        """All tenants by name."""
        with translated():
            names = sorted(self._redis.smembers(TENANTS))
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.hgetall(tenant_entry(name))
            answers = pipe.execute()
            return [
                to_tenant(name, fields)
                for name, fields in zip(names, answers, strict=True)
                if fields
            ]

    def create_key(
        self,
        tenant: str,
        *,
        scopes: str = identity.DEFAULT_SCOPES,
        plan: str | None = None,
        expires_at: float | None = None,
        label: str = "",
    ) -> tuple[str, ApiKey]:
        """Create a key; the first value is the key itself, and there is no other copy.

        Raises KeyringError for an unknown tenant, ValueError for scopes, a label or
        an expiry that can't be meant.
        """
        identity.check_tenant(tenant)
        checked = identity.check_scopes([scopes])
        if len(label) > _LONGEST_LABEL or not (label.isprintable() or not label):
            raise ValueError(f"label: up to {_LONGEST_LABEL} printable characters")
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise ValueError("the expiry is not in the future")
        key_id, key = _draw()
        digest = self._digest(key)
        fields = {
            "key_id": key_id,
            "tenant": tenant,
            "plan": plan or "",
            "scopes": checked,
            "label": label,
            "created_at": now,
            "expires_at": "" if expires_at is None else expires_at,
            "revoked_at": "",
        }

        def create(pipe: Any) -> None:
            if not pipe.exists(tenant_entry(tenant)):
                raise KeyringError(
                    f"no tenant {tenant}; create it first: "
                    f"tollhouse tenants create {tenant} --plan PLAN"
                )
            pipe.multi()
            pipe.hset(key_entry(digest), mapping=fields)
            pipe.set(key_id_entry(key_id), digest)
            pipe.sadd(keys_entry(tenant), key_id)

        self._transaction(create, tenant_entry(tenant), key_id_entry(key_id))
        return key, ApiKey(
            key_id, tenant, plan, checked, label, now, expires_at, revoked_at=None
        )

    def keys(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys, or one tenant's, oldest first; revoked and expired ones too."""
        if tenant is not None:
            identity.check_tenant(tenant)
        with translated():
            if tenant is not None and not self._redis.exists(tenant_entry(tenant)):
                raise KeyringError(f"no tenant {tenant}; see: tollhouse tenants list")
            names = [tenant] if tenant else sorted(self._redis.smembers(TENANTS))
            ids = [
                it for name in names for it in self._redis.smembers(keys_entry(name))
            ]
            digests = self._redis.mget([key_id_entry(it) for it in ids]) if ids else []
            pipe = self._redis.pipeline(transaction=False)
            for digest in digests:
                pipe.hgetall(key_entry(digest))
            found = [to_key(fields) for fields in pipe.execute() if fields]
        return sorted(found, key=lambda key: (key.tenant, key.created_at, key.key_id))

    def find(self, key: str) -> ApiKey | None:
        """The key's record, None if this Redis and pepper don't know it."""
        with translated():
            fields = self._redis.hgetall(key_entry(self._digest(key)))
            return to_key(fields) if fields else None

    def revoke(self, key_id: str) -> tuple[ApiKey, bool]:
        """End a key for good; False if it was ended before.

        Every worker refuses it once what it remembers is two seconds old.
        """
        now = self._clock()
        was_revoked = False

        def revoke(key: ApiKey) -> ApiKey:
            nonlocal was_revoked
            was_revoked = key.revoked_at is not None
            return key if was_revoked else replace(key, revoked_at=now)

        return self._change_key(key_id, revoke), not was_revoked

    def override_key(
        self, key_id: str, change: Callable[[Override], Override]
    ) -> ApiKey:
        """Change where a key's limits differ from its plan.

        Raises KeyringError for an unknown key.
        """
        return self._change_key(
            key_id, lambda key: replace(key, override=change(key.override))
        )

    def _change_tenant(self, name: str, change: Callable[[Tenant], Tenant]) -> Tenant:
        identity.check_tenant(name)

        def steps(pipe: Any) -> Tenant:
            fields = pipe.hgetall(tenant_entry(name))
            if not fields:
                raise KeyringError(f"no tenant {name}; see: tollhouse tenants list")
            tenant = change(to_tenant(name, fields))
            pipe.multi()
            limits = tenant.overrides.encode()
            pipe.hset(
                tenant_entry(name), mapping={"plan": tenant.plan, "limits": limits}
            )
            return tenant

        return self._transaction(steps, tenant_entry(name))

    def _change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        identity.check_key_id(key_id)

        def steps(pipe: Any) -> ApiKey:
            digest = pipe.get(key_id_entry(key_id))
            if digest:
                pipe.watch(key_entry(digest))
            fields = pipe.hgetall(key_entry(digest)) if digest else {}
            if not fields:
                raise KeyringError(f"no key {key_id}; see: tollhouse keys list")
            key = change(to_key(fields))
            revoked_at = "" if key.revoked_at is None else key.revoked_at
            limits = Overrides(key=key.override).encode()
            pipe.multi()
            pipe.hset(
                key_entry(digest), mapping={"revoked_at": revoked_at, "limits": limits}
            )
            return key

        return self._transaction(steps, key_id_entry(key_id))

    def _digest(self, key: str) -> str:
        if self._pepper is None:
            raise KeyringError("keys can't be made or found without the pepper")
        return self._pepper.digest(key)

    def _transaction(self, steps: Callable[[Any], _Result], *watched: str) -> _Result:
        """Run steps as one change; again from the start if a watched key moved."""
        with translated():
            result: _Result = self._redis.transaction(
                steps, *watched, value_from_callable=True
            )
        return result


def _draw() -> tuple[str, str]:
    """Draw a key id and the key around it."""
    key_id = _letters(identity.KEY_ID_LETTERS, identity.KEY_ID_LENGTH)
    return key_id, f"th_{key_id}_" + _letters(
        identity.SECRET_LETTERS, identity.SECRET_LENGTH
    )


def _letters(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
