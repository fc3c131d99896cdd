"""New keys: made for a tenant, or in the place of another key."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from tollhouse.adapters.redis.records import (
    ACTIVE,
    ApiKey,
    key_id_entry,
    request_entry,
)
from tollhouse.adapters.redis.ring import (
    Change,
    KeyringError,
    NotThereError,
    Ring,
    TakenError,
)
from tollhouse.adapters.redis.tenants import live_tenant
from tollhouse.core import identity
from tollhouse.core.key_terms import TermsError, check_terms, version_of

DEFAULT_GRACE_SECONDS: Final = 86_400.0
LONGEST_GRACE_SECONDS: Final = 365 * 86_400.0
_REQUEST_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Rotation:
    """The key that takes another's place, there is no other copy, and both records."""

    key: str
    new: ApiKey
    old: ApiKey


class NewKeys(Ring):
    """Makes the keys of one Redis. Every method raises Unavailable without it."""

    def create_key(
        self,
        tenant: str,
        *,
        scopes: str = identity.DEFAULT_SCOPES,
        plan: str | None = None,
        expires_at: float | None = None,
        networks: Iterable[str] = (),
        labels: Iterable[str] = (),
        request_id: str | None = None,
    ) -> tuple[str, ApiKey]:
        """Create a key; the first value is the key itself, and there is no other copy.

        The same `request_id` makes no second key of the tenant within a day: then
        TakenError names the first. Raises KeyringError for an unknown or deleted
        tenant, TermsError for what can't be meant.
        """
        identity.check_tenant(tenant)
        now = self._clock()
        terms = check_terms(
            scopes=[scopes],
            plan=plan,
            expires_at=expires_at,
            networks=networks,
            labels=labels,
            now=now,
        )
        key_id, key = draw_key()
        digest = self._peppered().digest(key)
        record = ApiKey(
            key_id,
            tenant,
            terms.plan,
            terms.scopes,
            terms.networks,
            terms.labels,
            created_at=now,
            expires_at=terms.expires_at,
            revoked_at=None,
            pepper=version_of(digest),
        )

        def create(change: Change) -> None:
            if _is_made(change, key_id, digest):
                return
            try:
                live_tenant(change, tenant)
            except NotThereError as error:
                raise NotThereError(
                    error.what,
                    f"create it first: tollhouse tenants create {tenant} --plan PLAN",
                ) from error
            if request_id is not None:
                _note_request(change, request_entry(tenant, request_id), key_id)
            change.put_key("key.created", digest, None, record)

        self._change(create)
        return key, record

    def rotate(
        self,
        key_id: str,
        *,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
        expires_at: float | None = None,
        again: bool = False,
    ) -> Rotation:
        """Make a key that takes another's place; both work until the grace is over.

        The new one allows what the old one does and ends when that did before it was
        ever rotated, or at `expires_at`. Raises KeyringError for a key that is unknown,
        over, imported, or (without `again`) has a successor already; ValueError for a
        time that can't be meant.
        """
        identity.check_key_id(key_id)
        if not 0 <= grace_seconds <= LONGEST_GRACE_SECONDS:
            raise TermsError([("grace", "grace: from 0 seconds to 1 year")])
        now = self._clock()
        check_terms(expires_at=expires_at, now=now)
        new_id, key = draw_key()
        new_digest = self._peppered().digest(key)

        def rotate(change: Change) -> Rotation:
            digest, old = change.key(key_id)
            if _is_made(change, new_id, new_digest):
                return Rotation(key, change.key(new_id)[1], old)
            live_tenant(change, old.tenant)
            _check_rotatable(old, now, again=again)
            last = _end_of(change, old, now) if expires_at is None else expires_at
            new = replace(
                old,
                key_id=new_id,
                created_at=now,
                expires_at=last,
                rotated_from=key_id,
                rotated_to=None,
                pepper=version_of(new_digest),
            )
            end = now + grace_seconds
            ended = replace(
                old,
                expires_at=end if old.expires_at is None else min(old.expires_at, end),
                rotated_to=new_id,
            )
            change.put_key("key.created", new_digest, None, new)
            change.put_key("key.rotated", digest, old, ended)
            return Rotation(key, new, ended)

        return self._change(rotate)


def _letters(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def draw_key(letters: Callable[[str, int], str] = _letters) -> tuple[str, str]:
    """Draw a key id and the key around it; `letters` draws so many of an alphabet."""
    key_id = identity.SUBJECT_PREFIX
    while key_id.startswith(identity.SUBJECT_PREFIX):
        key_id = letters(identity.KEY_ID_LETTERS, identity.KEY_ID_LENGTH)
    secret = letters(identity.SECRET_LETTERS, identity.SECRET_LENGTH)
    return key_id, f"th_{key_id}_{secret}"


def _is_made(change: Change, key_id: str, digest: str) -> bool:
    """Whether this very key is there: the answer to an EXEC before was lost."""
    made = change.text(key_id_entry(key_id))
    if made not in (None, digest):  # one in 10^18
        raise KeyringError(f"key id {key_id} was drawn twice", "try again")
    return made is not None


def _end_of(change: Change, key: ApiKey, now: float) -> float | None:
    """When a key was to end: of one that was rotated only its successor knows."""
    last = key
    while last.rotated_to is not None:
        _, last = change.key(last.rotated_to)
    end = last.expires_at
    if end is not None and now >= end:  # revoked or not
        raise KeyringError(
            f"key {last.key_id}, which took the place of {key.key_id}, is expired",
            "say until when the new one is good: --expires",
        )
    return end


def _note_request(change: Change, entry: str, key_id: str) -> None:
    made = change.text(entry)
    if made is not None:
        raise TakenError(
            f"this request made key {made}, which only its first answer held",
            "revoke or rotate that key where the answer was lost",
        )
    change.write("SET", entry, key_id, "EX", str(_REQUEST_SECONDS))


def _check_rotatable(key: ApiKey, now: float, *, again: bool) -> None:
    state = key.state(now)
    if state != ACTIVE:
        raise KeyringError(f"key {key.key_id} is {state}", "create a new one")
    if key.source is not None:
        raise KeyringError(
            f"key {key.key_id} is imported from {key.source}",
            "add a new one there (tollhouse keys digest --new), then take this one out",
        )
    if key.rotated_to is not None and not again:
        raise KeyringError(
            f"key {key.key_id} was rotated: {key.rotated_to} takes its place",
            "--again makes another one; revoke the first if its key is lost",
        )
