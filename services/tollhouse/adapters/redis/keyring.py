"""Tenants and keys, as an operator keeps them: create, list, revoke.

In Redis, all made and read here and in `credentials`:

    th:tenants           set of tenant names
    th:tenant:<name>     hash: plan, state (active, suspended), created_at
    th:keys:<tenant>     set of key ids
    th:keyid:<key id>    digest of the key
    th:key:<digest>      hash: key_id, tenant, plan, scopes, label, created_at,
                         expires_at, revoked_at; an empty field is none

Times are Unix seconds. The key itself is in none of them: only its digest, which is
worth nothing without the pepper. Blocking: for the command line, not for services.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import redis

from tollhouse.adapters.pepper import Pepper
from tollhouse.core import identity
from tollhouse.core.problems import Unavailable

ACTIVE: Final = "active"
SUSPENDED: Final = "suspended"

_TIMEOUT_SECONDS = 3.0
_LONGEST_LABEL = 64

_Result = TypeVar("_Result")


class KeyringError(Exception):
    """What was asked for can't be done; one line, ready to print."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is billed."""

    name: str
    plan: str
    state: str
    created_at: float


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

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`; `now` is Unix seconds."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        return ACTIVE


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

        Raises ValueError for a URL that can't be one or holds a password.

        Without a pepper all is there but `create_key` and `find`, which raise
        KeyringError.
        """
        if urlsplit(url).password is not None:
            raise ValueError("a Redis URL must not hold a password")
        # Any: redis-py's types hold for both kinds of replies at once.
        self._redis: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
        )
        self._pepper = pepper
        self._clock = clock

    def close(self) -> None:
        """Give the connection back."""
        self._redis.close()

    def create_tenant(self, name: str, plan: str) -> tuple[Tenant, bool]:
        """Create a tenant, or find it as asked for; True if it is new.

        Raises KeyringError when it exists on another plan: changing what somebody
        pays is not what `create` is for.
        """
        identity.check_tenant(name)
        created_at = self._clock()

        def create(pipe: Any) -> tuple[Tenant, bool]:
            fields = pipe.hgetall(_tenant(name))
            if fields:
                return _to_tenant(name, fields), False
            pipe.multi()
            pipe.hset(
                _tenant(name),
                mapping={"plan": plan, "state": ACTIVE, "created_at": created_at},
            )
            pipe.sadd("th:tenants", name)
            return Tenant(name, plan, ACTIVE, created_at), True

        tenant, is_new = self._transaction(create, _tenant(name))
        if tenant.plan != plan:
            raise KeyringError(
                f"tenant {name} exists and is on plan {tenant.plan}, not {plan}"
            )
        return tenant, is_new

    def tenants(self) -> list[Tenant]:
        """All tenants by name."""
        with _translated():
            names = sorted(self._redis.smembers("th:tenants"))
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.hgetall(_tenant(name))
            answers = pipe.execute()
        return [
            _to_tenant(name, fields)
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
            if not pipe.exists(_tenant(tenant)):
                raise KeyringError(
                    f"no tenant {tenant}; create it first: "
                    f"tollhouse tenants create {tenant} --plan PLAN"
                )
            pipe.multi()
            pipe.hset(_key(digest), mapping=fields)
            pipe.set(_key_id(key_id), digest)
            pipe.sadd(_keys(tenant), key_id)

        self._transaction(create, _tenant(tenant), _key_id(key_id))
        return key, ApiKey(
            key_id, tenant, plan, checked, label, now, expires_at, revoked_at=None
        )

    def keys(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys, or one tenant's, oldest first; revoked and expired ones too."""
        if tenant is not None:
            identity.check_tenant(tenant)
        with _translated():
            if tenant is not None and not self._redis.exists(_tenant(tenant)):
                raise KeyringError(f"no tenant {tenant}; see: tollhouse tenants list")
            names = [tenant] if tenant else sorted(self._redis.smembers("th:tenants"))
            ids = [it for name in names for it in self._redis.smembers(_keys(name))]
            digests = self._redis.mget([_key_id(it) for it in ids]) if ids else []
            pipe = self._redis.pipeline(transaction=False)
            for digest in digests:
                pipe.hgetall(_key(digest))
            answers = pipe.execute()
        found = [_to_key(fields) for fields in answers if fields]
        return sorted(found, key=lambda key: (key.tenant, key.created_at, key.key_id))

    def find(self, key: str) -> ApiKey | None:
        """The key's record, None if this Redis and pepper don't know it."""
        with _translated():
            fields = self._redis.hgetall(_key(self._digest(key)))
        return _to_key(fields) if fields else None

    def revoke(self, key_id: str) -> tuple[ApiKey, bool]:
        """End a key for good; False if it was ended before.

        Every worker refuses it once what it remembers is two seconds old.
        """
        identity.check_key_id(key_id)
        now = self._clock()

        def revoke(pipe: Any) -> tuple[ApiKey, bool]:
            digest = pipe.get(_key_id(key_id))
            fields = pipe.hgetall(_key(digest)) if digest else {}
            if not fields:
                raise KeyringError(f"no key {key_id}; see: tollhouse keys list")
            pipe.multi()
            if fields["revoked_at"]:
                return _to_key(fields), False
            pipe.hset(_key(digest), "revoked_at", now)
            return _to_key({**fields, "revoked_at": now}), True

        return self._transaction(revoke, _key_id(key_id))

    def _digest(self, key: str) -> str:
        if self._pepper is None:
            raise KeyringError("keys can't be made or found without the pepper")
        return self._pepper.digest(key)

    def _transaction(self, steps: Callable[[Any], _Result], *watched: str) -> _Result:
        """Run steps as one change; again from the start if a watched key moved."""
        with _translated():
            result: _Result = self._redis.transaction(
                steps, *watched, value_from_callable=True
            )
        return result


@contextmanager
def _translated() -> Iterator[None]:
    """Keep the vendor's exceptions in here."""
    try:
        yield
    except redis.ConnectionError as error:
        raise Unavailable(f"Redis can't be reached: {error}") from error
    except redis.TimeoutError as error:
        raise Unavailable("Redis does not answer") from error
    except redis.RedisError as error:
        raise Unavailable(f"Redis refused: {error}", transient=False) from error


def _draw() -> tuple[str, str]:
    """Draw a key id and the key around it."""
    key_id = _letters(identity.KEY_ID_LETTERS, identity.KEY_ID_LENGTH)
    return key_id, f"th_{key_id}_" + _letters(
        identity.SECRET_LETTERS, identity.SECRET_LENGTH
    )


def _letters(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _tenant(name: str) -> str:
    return f"th:tenant:{name}"


def _keys(tenant: str) -> str:
    return f"th:keys:{tenant}"


def _key_id(key_id: str) -> str:
    return f"th:keyid:{key_id}"


def _key(digest: str) -> str:
    return f"th:key:{digest}"


def _to_tenant(name: str, fields: dict[str, Any]) -> Tenant:
    return Tenant(name, fields["plan"], fields["state"], float(fields["created_at"]))


def _to_key(fields: dict[str, Any]) -> ApiKey:
    return ApiKey(
        key_id=fields["key_id"],
        tenant=fields["tenant"],
        plan=fields["plan"] or None,
        scopes=fields["scopes"],
        label=fields["label"],
        created_at=float(fields["created_at"]),
        expires_at=float(fields["expires_at"]) if fields["expires_at"] else None,
        revoked_at=float(fields["revoked_at"]) if fields["revoked_at"] else None,
    )
