"""Credentials by digest, as authz looks them up; `records` says what is read here."""

import contextlib
from collections.abc import Sequence

import structlog

from tollhouse.adapters.pepper import is_older
from tollhouse.adapters.redis.changes import MOVED, key_seen
from tollhouse.adapters.redis.client import Redis, RedisReplyError, Reply
from tollhouse.adapters.redis.records import ACTIVE, DELETED, key_entry, tenant_entry
from tollhouse.core.assertion import Assertion
from tollhouse.core.entitlement import combined
from tollhouse.core.identity import (
    Credential,
    Principal,
    parse_networks,
    parse_scopes,
)
from tollhouse.core.problems import ProtocolError, Unavailable

_KEY_FIELDS = (
    "key_id",
    "tenant",
    "plan",
    "scopes",
    "expires_at",
    "revoked_at",
    "limits",
    "networks",
)
_TENANT_FIELDS = ("plan", "state", "limits")

_log = structlog.get_logger()


class Credentials:
    """Looks keys, and the tenants of tokens, up in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._misplaced: set[str] = set()

    async def find(
        self, key_id: str, digests: Sequence[str], tenant: str | None = None
    ) -> Credential | None:
        """The credential of a key, None if there is none or it was revoked.

        `digests` are all the key may be kept under, that of new keys first; one found
        under an older pepper's is announced, so that it is moved there. `tenant` is
        whose key it was when last seen; it saves the second round trip and decides
        nothing. Raises Unavailable when Redis does not answer, ProtocolError for a
        record that can't be read.
        """
        # From old to new: a key that is moved meanwhile is met under one of them.
        tried = list(reversed(digests))
        commands: list[tuple[str, ...]] = [
            ("HMGET", key_entry(digest), *_KEY_FIELDS) for digest in tried
        ]
        if tenant is not None:
            commands.append(_read_tenant(tenant))
        replies = await self._read(commands)
        at, key = next(
            ((at, it) for at, it in enumerate(replies[: len(tried)]) if it[0]),
            (0, None),
        )
        if key is None:
            return None
        found_id, tenant_now, plan, scopes, expires_at, revoked_at, limits, networks = (
            key
        )
        if found_id != key_id:  # led here from another key's digest
            self._note_misplaced(found_id, key_id)
            return None
        if revoked_at:
            return None
        owner = replies[-1] if tenant_now == tenant else await self._owner(tenant_now)
        tenant_plan, state, tenant_limits = owner
        if not tenant_plan or state == DELETED:  # its keys open nothing
            return None
        # Never back: while a new pepper is rolled out, workers differ in their first.
        if is_older(tried[at], digests[0]):
            await self._announce(tried[at], digests[0])
        try:
            return Credential(
                Principal(
                    tenant_now,
                    key_id,
                    plan or tenant_plan,
                    parse_scopes(scopes),
                    combined(limits, tenant_limits),
                ),
                expires_at=float(expires_at) if expires_at else None,
                is_suspended=state != ACTIVE,
                networks=parse_networks(networks),
            )
        except (ValueError, ProtocolError) as error:
            raise ProtocolError(f"key {key_id} can't be read: {error}") from error

    async def of_jwt(self, assertion: Assertion) -> Credential | None:
        """The credential of a verified token, None if its tenant is not one of ours.

        Raises as `find` does.
        """
        plan, state, limits = await self._owner(assertion.tenant)
        if not plan or state == DELETED:
            return None
        try:
            overrides = combined("", limits)
        except ProtocolError as error:
            raise ProtocolError(
                f"tenant {assertion.tenant} can't be read: {error}"
            ) from error
        return Credential(
            Principal(
                assertion.tenant,
                assertion.subject_id,
                assertion.plan or plan,
                assertion.scopes,
                overrides,
            ),
            expires_at=assertion.expires_at,
            is_suspended=state != ACTIVE,
        )

    def _note_misplaced(self, found_id: str, key_id: str) -> None:
        """Tell the log once of each record: who tries keys must not fill the disk."""
        if found_id not in self._misplaced:
            self._misplaced.add(found_id)
            _log.error(
                "credential.misread",
                reason=f"the record of key {found_id} is kept as key {key_id}'s",
            )

    async def _owner(self, tenant: str) -> list[str]:
        (owner,) = await self._read([_read_tenant(tenant)])
        return owner

    async def _announce(self, old: str, new: str) -> None:
        # Whoever can't be told, or must not be, is told at the next look-up.
        with contextlib.suppress(Unavailable, RedisReplyError):
            await self._redis.call("PUBLISH", MOVED, key_seen(old, new))

    async def _read(self, commands: list[tuple[str, ...]]) -> list[list[str]]:
        replies = await self._redis.call_many(commands)
        return [_texts(reply) for reply in replies]


def _read_tenant(tenant: str) -> tuple[str, ...]:
    return ("HMGET", tenant_entry(tenant), *_TENANT_FIELDS)


def _texts(reply: Reply | RedisReplyError) -> list[str]:
    if isinstance(reply, RedisReplyError):
        raise Unavailable(f"Redis answered {reply.code}") from reply
    if not isinstance(reply, list):
        raise ProtocolError(f"HMGET answered {type(reply).__name__}")
    return [it.decode() if isinstance(it, bytes) else "" for it in reply]
