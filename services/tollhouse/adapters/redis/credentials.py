"""Credentials by digest, as authz looks them up; `records` says what is read here."""

from tollhouse.adapters.redis.client import Redis, RedisReplyError, Reply
from tollhouse.adapters.redis.records import ACTIVE, key_entry, tenant_entry
from tollhouse.core.entitlement import combined
from tollhouse.core.identity import Credential, Principal, parse_scopes
from tollhouse.core.problems import ProtocolError, Unavailable

_KEY_FIELDS = (
    "key_id",
    "tenant",
    "plan",
    "scopes",
    "expires_at",
    "revoked_at",
    "limits",
)
_TENANT_FIELDS = ("plan", "state", "limits")


class Credentials:
    """Looks keys up in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def find(self, digest: str, tenant: str | None = None) -> Credential | None:
        """The credential behind a digest, None if there is none or it was revoked.

        `tenant` is whose key it was when last seen; it saves the second round trip
        and decides nothing. Raises Unavailable when Redis does not answer,
        ProtocolError for a record that can't be read.
        """
        commands: list[tuple[str, ...]] = [("HMGET", key_entry(digest), *_KEY_FIELDS)]
        if tenant is not None:
            commands.append(_read_tenant(tenant))
        key, *owners = await self._read(commands)
        key_id, tenant_now, plan, scopes, expires_at, revoked_at, limits = key
        if not key_id or revoked_at:
            return None
        if tenant_now != tenant:
            owners = await self._read([_read_tenant(tenant_now)])
        tenant_plan, state, tenant_limits = owners[0]
        if not tenant_plan:  # the tenant was removed: its keys open nothing
            return None
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
            )
        except (ValueError, ProtocolError) as error:
            raise ProtocolError(f"key {key_id} can't be read: {error}") from error

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
