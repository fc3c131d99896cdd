"""Changes of tenants and keys: each one transaction, with its entry in the audit log.

A change reads what it needs, and whatever it read is watched: if that moved meanwhile,
the change begins again. Then all it writes, its audit entries and the messages about it
go to Redis as one MULTI. A change that changes nothing writes nothing.
"""

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.audit import (
    AuditLog,
    changes_of,
    from_changes,
    last_id,
    time_of,
)
from tollhouse.adapters.redis.blocking import open_blocking, translated
from tollhouse.adapters.redis.changes import CHANGED, key_changed, tenant_changed
from tollhouse.adapters.redis.records import (
    AUDIT,
    ApiKey,
    Tenant,
    from_key,
    from_tenant,
    key_entry,
    key_id_entry,
    keys_entry,
    public_key,
    public_tenant,
    source_entry,
    tenant_entry,
    to_key,
    to_tenant,
)

AT_ONCE: Final = 200
"""Keys changed in one transaction: Redis is held for about 10 ms."""
_CHUNK = 1000
"""Records read at once."""
_MOST_AHEAD_SECONDS: Final = 86_400.0
"""By how much the audit log may be ahead of Redis' clock, which may be set back."""

_Result = TypeVar("_Result")


class KeyringError(Exception):
    """What was asked for can't be done; one line, ready to print.

    `what` is the reason, and `remedy` what to do about it on the command line.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class NotThereError(KeyringError):
    """There is no such tenant or key."""


class TakenError(KeyringError):
    """It is there already, and not as it was asked for."""


class Look:
    """Reads without a transaction: what it says may change at once."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def texts(self, entries: Sequence[str]) -> list[str | None]:
        """Read many plain values."""
        found: list[str | None] = []
        for start in range(0, len(entries), _CHUNK):
            found += self._redis.mget(entries[start : start + _CHUNK])
        return found

    def many_fields(self, entries: Sequence[str]) -> list[dict[str, str]]:
        """Read many hashes, an empty one where there is none."""
        return read_hashes(self._redis, entries)


class Change(Look):
    """One transaction while it is made up: what it read, and what it will write.

    All it reads is watched. Redis compares each watched entry with all before it, so
    that some hundred are quick, and ten thousand hold everybody up for seconds.
    """

    def __init__(self, pipe: Any, redis: Any, who: str) -> None:
        super().__init__(redis)
        self._pipe = pipe
        self._who = who
        self._writes: list[tuple[str, ...]] = []

    def text(self, entry: str) -> str | None:
        """Read a plain value."""
        self._pipe.watch(entry)
        text: str | None = self._pipe.get(entry)
        return text

    def texts(self, entries: Sequence[str]) -> list[str | None]:
        """Read many plain values."""
        if entries:
            self._pipe.watch(*entries)
        # By another connection, as it takes many at once; what moves after the watch
        # began fails the transaction all the same.
        return super().texts(entries)

    def fields(self, entry: str) -> dict[str, str]:
        """Read a hash; empty where there is none."""
        self._pipe.watch(entry)
        fields: dict[str, str] = self._pipe.hgetall(entry)
        return fields

    def many_fields(self, entries: Sequence[str]) -> list[dict[str, str]]:
        """Read many hashes, an empty one where there is none."""
        if entries:
            self._pipe.watch(*entries)
        return super().many_fields(entries)

    def members(self, entry: str) -> set[str]:
        """Read a set."""
        self._pipe.watch(entry)
        members: set[str] = self._pipe.smembers(entry)
        return members

    def tenant(self, name: str) -> Tenant:
        """Read a tenant, deleted ones too. Raises NotThereError."""
        fields = self.fields(tenant_entry(name))
        if not fields:
            raise no_tenant(name)
        return to_tenant(name, fields)

    def key(self, key_id: str) -> tuple[str, ApiKey]:
        """Read a key and its digest. Raises NotThereError."""
        digest = self.text(key_id_entry(key_id))
        fields = self.fields(key_entry(digest)) if digest else {}
        if not digest or not fields:
            raise no_key(key_id)
        return digest, to_key(digest, fields)

    def write(self, *command: str) -> None:
        """Have a command in the transaction."""
        self._writes.append(command)

    def put_tenant(self, action: str, old: Tenant | None, new: Tenant) -> bool:
        """Write a tenant, record it and tell it; False: nothing would change."""
        changed = _differing(from_tenant(old) if old else {}, from_tenant(new))
        if not changed:
            return False
        self._put(tenant_entry(new.name), changed)
        changes = changes_of(public_tenant(old) if old else {}, public_tenant(new))
        self._record(action, new.name, "", changes)
        self.write("PUBLISH", CHANGED, tenant_changed(new.name))
        return True

    def put_key(
        self, action: str, digest: str, old: ApiKey | None, new: ApiKey
    ) -> bool:
        """Write a key, record it and tell it; False: nothing would change."""
        changed = _differing(from_key(old) if old else {}, from_key(new))
        if not changed:
            return False
        self._put(key_entry(digest), changed)
        if old is None:
            self.write("SET", key_id_entry(new.key_id), digest)
            self.write("SADD", keys_entry(new.tenant), new.key_id)
        if new.source and (old is None or old.source != new.source):
            self.write("SADD", source_entry(new.source), new.key_id)
        changes = changes_of(public_key(old) if old else {}, public_key(new))
        self._record(action, new.tenant, new.key_id, changes)
        self.write("PUBLISH", CHANGED, key_changed(new.key_id))
        return True

    def move_key(self, old: str, new: str, key: ApiKey, pepper: str) -> None:
        """Keep a key under another digest, record it and tell it."""
        self.write("RENAME", key_entry(old), key_entry(new))
        self.write("SET", key_id_entry(key.key_id), new)
        changes = {"pepper": {"from": key.pepper, "to": pepper}}
        self._record("key.moved", key.tenant, key.key_id, changes)
        self.write("PUBLISH", CHANGED, key_changed(key.key_id))

    def flush(self) -> None:
        """Hand all that is to be written to the transaction. Raises KeyringError."""
        if self._writes:
            self._check_log()
        self._pipe.multi()
        for command in self._writes:
            self._pipe.execute_command(*command)

    def _put(self, entry: str, fields: Mapping[str, str]) -> None:
        self.write("HSET", entry, *(it for pair in fields.items() for it in pair))

    def _check_log(self) -> None:
        """Refuse what the log could not record: EXEC goes on past an XADD that fails.

        Watched late: whatever else is recorded meanwhile begins this change again.
        """
        self._pipe.watch(AUDIT)
        last = last_id(self._pipe)
        now, _ = self._pipe.time()
        if time_of(last) > now + _MOST_AHEAD_SECONDS:
            raise KeyringError(
                f"the audit log has an entry of the future, {last}: what is changed "
                "could not be recorded, so nothing is",
                "see: A spoiled audit log, in docs/identity.md",
            )

    def _record(
        self, action: str, tenant: str, key_id: str, changes: Mapping[str, object]
    ) -> None:
        self.write(
            *("XADD", AUDIT, "*", "who", self._who, "action", action),
            *("tenant", tenant, "key_id", key_id),
            *("changes", from_changes(changes)),
        )


class Ring:
    """One Redis of tenants and keys, and on whose behalf it is changed."""

    def __init__(
        self,
        place: RedisAccess | str,
        pepper: Pepper | Callable[[], Pepper] | None,
        *,
        who: str = "unnamed",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Connect on first use; `clock` gives Unix seconds.

        `who` stands in the audit log, as `cli:root@host` or `api:ci`. Raises ValueError
        for a URL that can't be one, holds a password or names a cluster.

        `pepper` may say which one it is at the moment. Without one all is there but
        what makes keys or looks them up, which raises KeyringError.
        """
        self._redis = open_blocking(place)
        self._pepper = pepper
        self._who = who
        self._clock = clock

    @property
    def log(self) -> AuditLog:
        """The audit log of this Redis."""
        return AuditLog(self._redis)

    def by(self, who: str) -> Self:
        """The same, changed on behalf of somebody else; shares the connections."""
        other = copy.copy(self)
        other._who = who  # noqa: SLF001 - one of us
        return other

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def _change(self, steps: Callable[[Change], _Result]) -> _Result:
        """Run steps as one change; again from the start if what they read moved."""

        def run(pipe: Any) -> _Result:
            change = Change(pipe, self._redis, self._who)
            result = steps(change)
            change.flush()
            return result

        with translated():
            result: _Result = self._redis.transaction(run, value_from_callable=True)
        return result

    def _current_pepper(self) -> Pepper | None:
        return self._pepper() if callable(self._pepper) else self._pepper

    def _peppered(self) -> Pepper:
        if (pepper := self._current_pepper()) is None:
            raise KeyringError("keys can't be made or found without the pepper")
        return pepper


def read_hashes(redis: Any, entries: Iterable[str]) -> list[dict[str, str]]:
    """Read many hashes, an empty one where there is none."""
    wanted, found = list(entries), []
    for start in range(0, len(wanted), _CHUNK):
        pipe = redis.pipeline(transaction=False)
        for entry in wanted[start : start + _CHUNK]:
            pipe.hgetall(entry)
        found += pipe.execute()
    return found


def no_tenant(name: str) -> NotThereError:
    """What is raised where there is no such tenant."""
    return NotThereError(f"no tenant {name}", "see: tollhouse tenants list")


def no_key(key_id: str) -> NotThereError:
    """What is raised where there is no such key."""
    return NotThereError(f"no key {key_id}", "see: tollhouse keys list")


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Fields to write: an absent one is as good as an empty one."""
    return {
        field: text
        for field, text in new.items()
        if text != old.get(field, "") or not old
    }
