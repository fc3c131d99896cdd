"""Keys, as an operator keeps them: list, revoke, change, move."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from tollhouse.adapters.pepper import is_older
from tollhouse.adapters.redis.blocking import translated
from tollhouse.adapters.redis.records import (
    TENANTS,
    ApiKey,
    key_entry,
    key_id_entry,
    keys_entry,
    tenant_entry,
    to_key,
)
from tollhouse.adapters.redis.ring import (
    Change,
    Ring,
    no_key,
    no_tenant,
    read_hashes,
)
from tollhouse.core import identity
from tollhouse.core.entitlement import Override
from tollhouse.core.key_terms import check_digest, version_of


class Keys(Ring):
    """The keys of one Redis. Every method raises Unavailable without it."""

    def revoke(self, key_id: str) -> tuple[ApiKey, bool]:
        """End a key for good; False if it was ended before.

        Raises NotThereError for an unknown key.
        """
        now = self._clock()

        def revoke(key: ApiKey) -> ApiKey:
            return key if key.revoked_at is not None else replace(key, revoked_at=now)

        return self._change_key(key_id, "key.revoked", revoke)

    def override_key(
        self, key_id: str, change: Callable[[Override], Override]
    ) -> ApiKey:
        """Change where a key's limits differ from its plan.

        Raises NotThereError for an unknown key.
        """

        def override(key: ApiKey) -> ApiKey:
            return replace(key, override=change(key.override))

        return self._change_key(key_id, "key.changed", override)[0]

    def move(self, old: str, new: str) -> ApiKey | None:
        """Keep a key, known by an older pepper's digest, by the current one's.

        None where there is nothing to move: it was moved before, or is not what it is
        said to be. Raises ValueError for what is no digest, or not by our pepper.
        """
        check_digest(old)
        check_digest(new)
        pepper = self._current_pepper()
        if pepper is not None and version_of(new) != pepper.versions[0]:
            raise ValueError(f"{version_of(new)} is not the pepper of new digests")

        if not is_older(old, new):  # else whoever may say so could swap keys at will
            return None

        def move(change: Change) -> ApiKey | None:
            fields = change.fields(key_entry(old))
            if not fields or change.fields(key_entry(new)):
                return None
            key = to_key(old, fields)
            if change.text(key_id_entry(key.key_id)) != old:
                return None
            change.move_key(old, new, key, version_of(new))
            return replace(key, pepper=version_of(new))

        return self._change(move)

    def key(self, key_id: str) -> ApiKey:
        """One key. Raises NotThereError, ValueError."""
        identity.check_key_id(key_id)
        with translated():
            digest = self._redis.get(key_id_entry(key_id))
            fields = self._redis.hgetall(key_entry(digest)) if digest else {}
            if not fields:
                raise no_key(key_id)
            return to_key(digest, fields)

    def keys(
        self,
        tenant: str | None = None,
        *,
        label: str | None = None,
        state: str | None = None,
        pepper: str | None = None,
    ) -> list[ApiKey]:
        """All keys, or those asked for, oldest first; revoked and expired ones too.

        Raises NotThereError for an unknown tenant.
        """
        now = self._clock()
        with translated():
            found = [
                key
                for key in self._read(list(self._ids(tenant)))
                if label in (None, *key.labels)
                and state in (None, key.state(now))
                and pepper in (None, key.pepper)
            ]
        return sorted(found, key=lambda key: (key.tenant, key.created_at, key.key_id))

    def keys_page(
        self, tenant: str | None, *, after: tuple[str, str], limit: int
    ) -> list[ApiKey]:
        """So many keys by tenant and id, behind one of those.

        Reads the ids of the tenants that are on the page, and of no others.
        """
        found: list[ApiKey] = []
        with translated():
            ids = (it for it in self._ids(tenant, after[0]) if it > after)
            # Not every id has a record, and a short page is the last one.
            while more := list(islice(ids, limit - len(found))):
                found += self._read(more)
        return found

    def find(self, key: str) -> ApiKey | None:
        """The key's record, None if this Redis and its peppers don't know it."""
        digests = self._peppered().digests(key)
        with translated():
            found = read_hashes(self._redis, map(key_entry, digests))
            return next(
                (
                    to_key(digest, fields)
                    for digest, fields in zip(digests, found, strict=True)
                    if fields
                ),
                None,
            )

    def _ids(self, tenant: str | None, since: str = "") -> Iterator[tuple[str, str]]:
        """Tenant and id of keys, in that order, from this tenant on."""
        if tenant is None:
            names = sorted(it for it in self._redis.smembers(TENANTS) if it >= since)
        else:
            identity.check_tenant(tenant)
            if not self._redis.exists(tenant_entry(tenant)):
                raise no_tenant(tenant)
            names = [tenant]
        for name in names:
            for key_id in sorted(self._redis.smembers(keys_entry(name))):
                yield name, key_id

    def _read(self, ids: list[tuple[str, str]]) -> list[ApiKey]:
        if not ids:
            return []
        entries = [key_id_entry(key_id) for _, key_id in ids]
        digests = [it for it in self._redis.mget(entries) if it]
        found = read_hashes(self._redis, map(key_entry, digests))
        return [
            to_key(digest, fields)
            for digest, fields in zip(digests, found, strict=True)
            if fields
        ]

    def _change_key(
        self, key_id: str, action: str, change_to: Callable[[ApiKey], ApiKey]
    ) -> tuple[ApiKey, bool]:
        identity.check_key_id(key_id)

        def steps(change: Change) -> tuple[ApiKey, bool]:
            digest, old = change.key(key_id)
            new = change_to(old)
            return new, change.put_key(action, digest, old, new)

        return self._change(steps)
