"""The audit log: every change of a tenant or key, who made it, and when.

An entry is written in the transaction of its change: there is none without the other.
The time is Redis' own, in the entry's id. An entry holds no secret and no digest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import redis

from tollhouse.adapters.redis.blocking import translated
from tollhouse.adapters.redis.records import AUDIT
from tollhouse.core.key_terms import LATEST

UNREADABLE: Final = "unreadable"
"""The action of an entry that is none of ours; all but its id and time is empty."""

_BATCH = 500
_START = "0-0"
# In the entry these are its subject or follow from it.
_UNSAID = frozenset({"name", "key_id", "tenant", "created_at"})
# As deep as a tenant's limits by model, so that whatever is read can be shown.
_Scalar = str | int | float | bool | None
_Value = _Scalar | list[_Scalar] | dict[str, _Scalar | dict[str, _Scalar]]
_Changes = dict[str, dict[str, _Value]]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `at` is Unix seconds; `key_id` is empty where a tenant changed.

    `action` may be `UNREADABLE`.

    `changes` has of each field that changed what it was and is: `from`, `to`, either
    left out where there was none.
    """

    id: str
    at: float
    who: str
    action: str
    tenant: str
    key_id: str
    changes: Mapping[str, Mapping[str, object]]


class AuditLog:
    """Reads the log of one Redis. Every method raises Unavailable without it."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def latest(
        self,
        limit: int,
        *,
        tenant: str | None = None,
        key_id: str | None = None,
        since: float | None = None,
        before: str | None = None,
        through: str | None = None,
        most_read: int | None = None,
    ) -> tuple[list[AuditEntry], str]:
        """The newest entries that match, newest first, and where to go on, if anywhere.

        `since` is Unix seconds, `before` and `through` (the last) are entries' ids. At
        most `most_read` entries are looked at: fewer than `limit` are then no sign of
        the end, only an empty second value is.
        """
        found: list[AuditEntry] = []
        first = _START if since is None else f"{max(0, int(since * 1000))}-0"
        last = (through or "+") if before is None else f"({before}"
        looked_at = 0
        while True:
            count = _BATCH if most_read is None else min(_BATCH, most_read - looked_at)
            with translated():
                replies = self._redis.xrevrange(AUDIT, last, first, count=count)
                entries = [to_entry(*reply) for reply in replies]
            for entry in entries:
                if _matches(entry, tenant, key_id):
                    found.append(entry)
                    if len(found) == limit:
                        return found, entry.id
            looked_at += len(entries)
            if len(entries) < count:
                return found, ""
            if looked_at == most_read:
                return found, entries[-1].id
            last = f"({entries[-1].id}"

    def last_id(self) -> str:
        """The newest entry's id; one that is before all others where there is none."""
        with translated():
            return last_id(self._redis)

    def after(self, id_: str, *, wait_seconds: float = 0.5) -> list[AuditEntry]:
        """Entries after one, oldest first; waits for the first of them, so long."""
        with translated():
            replies = self._redis.xread(
                {AUDIT: id_}, count=_BATCH, block=max(1, int(wait_seconds * 1000))
            )
            return [to_entry(*it) for _, entries in replies or () for it in entries]

    def follow(
        self, id_: str, *, tenant: str | None = None, key_id: str | None = None
    ) -> Iterator[AuditEntry]:
        """Yield entries after one as they come; never ends."""
        while True:
            for entry in self.after(id_, wait_seconds=1.0):
                id_ = entry.id
                if _matches(entry, tenant, key_id):
                    yield entry


def changes_of(
    before: Mapping[str, object], after: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    """What differs between two public forms of a tenant or key, field by field."""
    found = {}
    for field in after:
        old, new = before.get(field), after[field]
        if field in _UNSAID or (old or None) == (new or None):
            continue
        change = {"from": old} if old else {}
        found[field] = {**change, "to": new} if new else change
    return found


def from_changes(changes: Mapping[str, object]) -> str:
    """Write what differs as it is kept."""
    return msgspec.json.encode(changes).decode()


def to_entry(id_: str, fields: Mapping[str, str]) -> AuditEntry:
    """Read an entry. One that can't be read is `UNREADABLE`: it must hide no other."""
    at = min(time_of(id_), LATEST)
    try:
        return AuditEntry(
            id=id_,
            at=at,
            who=fields["who"],
            action=fields["action"],
            tenant=fields["tenant"],
            key_id=fields["key_id"],
            changes=msgspec.json.decode(fields["changes"], type=_Changes),
        )
    except (KeyError, ValueError):  # msgspec's are such
        return AuditEntry(
            id=id_, at=at, who="", action=UNREADABLE, tenant="", key_id="", changes={}
        )


def time_of(id_: str) -> float:
    """When an entry was made by its id: Unix seconds, however far in the future."""
    return int(id_.partition("-")[0]) / 1000


def last_id(client: Any) -> str:
    """The last id that was given, also where its entry is gone; `0-0` for none yet."""
    try:
        last: str = client.xinfo_stream(AUDIT)["last-generated-id"]
    except redis.ResponseError as error:
        if "no such key" in str(error):
            return _START
        raise
    return last


def _matches(entry: AuditEntry, tenant: str | None, key_id: str | None) -> bool:
    return tenant in (None, entry.tenant) and key_id in (None, entry.key_id)
