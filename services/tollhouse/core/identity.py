"""Who is calling and what that allows: keys, scopes, principals.

A key is `th_<key id>_<secret>`. Its key id is public and names it in lists, logs and
usage; the whole text is a secret that nothing here keeps.

A scope is `operation:action`, or `operation:action=pattern` for some models only. In
a pattern `*` stands for any run of characters, none included; everything else stands
for itself: `chat:write=tiny-*` covers `tiny-chat` and `tiny-`, not `my-tiny-chat`.
There is no other wildcard and no way to exclude a model. Scopes only ever add.

A credential may be bound to networks: then it opens nothing from elsewhere.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

KEY_ID_LENGTH: Final = 12
KEY_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
SUBJECT_PREFIX: Final = "jwt"
"""Ids of tokens' subjects begin so, those of keys never."""
SECRET_LENGTH: Final = 43  # of 62 letters: 256 bits
SECRET_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"  # noqa: S105

_KEY = re.compile(r"th_[a-z0-9]{12}_[A-Za-z0-9]{43}")
_KEY_ID = re.compile(r"[a-z0-9]{12}")
# RFC 6750 §2.1 b64token, bounded: a JWT is long. Envoy joins repeated headers with a
# comma, which is not among these letters, so two credentials are none.
_CREDENTIAL = re.compile(r"[A-Za-z0-9._~+/=-]{20,4096}")
_BEARER = re.compile(f"Bearer ({_CREDENTIAL.pattern})")
# RFC 4291 §2.5.5.2: an IPv4 address behind ::ffff:0:0/96.
_MAPPED_PREFIX = 96
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SCOPE = re.compile(r"([a-z]+):([a-z]+)(?:=([A-Za-z0-9*][A-Za-z0-9._:/*-]{0,127}))?")


class Permission(StrEnum):
    """What a scope may name: every operation and action there is."""

    CHAT_WRITE = "chat:write"
    COMPLETIONS_WRITE = "completions:write"
    EMBEDDINGS_WRITE = "embeddings:write"
    INFER_WRITE = "infer:write"
    MODELS_READ = "models:read"
    USAGE_READ = "usage:read"


DEFAULT_SCOPES: Final = (
    f"{Permission.CHAT_WRITE} {Permission.COMPLETIONS_WRITE} "
    f"{Permission.EMBEDDINGS_WRITE} {Permission.MODELS_READ}"
)
"""OpenAI's APIs. Triton's own, which goes past chat templates, is asked for."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One permission, for every model or for those a pattern covers."""

    operation: str
    action: str
    pattern: str | None = None

    def __str__(self) -> str:
        limited = "" if self.pattern is None else f"={self.pattern}"
        return f"{self.permission}{limited}"

    @property
    def permission(self) -> str:
        """The scope without its pattern."""
        return f"{self.operation}:{self.action}"

    def covers(self, model: str) -> bool:
        """Whether the scope reaches this model."""
        return self.pattern is None or _matches(self.pattern, model)


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller.

    `overrides`: where its limits differ from the plan's (core.entitlement), empty for
    nowhere.
    """

    tenant: str
    key_id: str
    plan: str
    scopes: tuple[Scope, ...]
    overrides: str = ""


Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Credential:
    """A key or token that is good, as it was when it was looked up.

    `expires_at` is Unix seconds, None for never. `networks` are where it may be used
    from, none of them meaning anywhere.
    """

    principal: Principal
    expires_at: float | None
    is_suspended: bool
    networks: tuple[Network, ...] = ()

    def is_expired(self, now: float) -> bool:
        """Whether the key is no longer good; `now` is Unix seconds."""
        return self.expires_at is not None and now >= self.expires_at

    def admits(self, address: str) -> bool:
        """Whether it may be used by a peer of this address.

        An IPv6 address that stands for an IPv4 one (RFC 4291 §2.5.5.2) counts as that.
        What is no address (a Unix socket's path) is in no network.
        """
        if not self.networks:
            return True
        peer = _parse_address(address)
        return peer is not None and any(peer in network for network in self.networks)


def may(principal: Principal, permission: str) -> bool:
    """Whether the principal holds a permission, for whatever models."""
    return any(scope.permission == permission for scope in principal.scopes)


def covers(principal: Principal, permission: str, model: str) -> bool:
    """Whether the principal holds a permission for a model."""
    return any(
        scope.permission == permission and scope.covers(model)
        for scope in principal.scopes
    )


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Read space-separated scopes. Raises ValueError naming the one that is wrong.

    A permission we don't know is kept and allows nothing: a worker of an older
    release reads keys that a newer one made.
    """
    return tuple(_parse_scope(part) for part in text.split())


def check_scopes(scopes: Iterable[str]) -> str:
    """Join scopes for a new key. Raises ValueError for one that can't be meant."""
    known = [str(permission) for permission in Permission]
    parsed = [_parse_scope(part) for text in scopes for part in text.split()]
    for scope in parsed:
        if scope.permission not in known:
            raise ValueError(
                f"unknown scope {scope.permission!r}; known: {', '.join(known)}"
            )
    if not parsed:
        raise ValueError(f"a key needs at least one scope; known: {', '.join(known)}")
    return " ".join(dict.fromkeys(str(scope) for scope in parsed))


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read space-separated networks. Raises ValueError naming the one that is wrong."""
    return tuple(_parse_network(part) for part in text.split())


def check_networks(networks: Iterable[str]) -> str:
    """Join networks for a new key, each in its shortest form.

    Raises ValueError for one that can't be meant: bits of a host behind the prefix, or
    a network of everybody, which is what a key without networks has.
    """
    parsed = [_parse_network(part) for text in networks for part in text.split()]
    for network in parsed:
        if not network.prefixlen:
            raise ValueError(f"network {network} is everybody: leave it out")
    return " ".join(dict.fromkeys(map(str, parsed)))


def bearer_of(authorization: str) -> str | None:
    """The bearer credential in an Authorization header's value, None if there is none.

    Never takes one of several, never trims: what is not exactly `Bearer <credential>`
    is none.
    """
    bearer = _BEARER.fullmatch(authorization)
    return None if bearer is None else bearer[1]


def credential_of(authorization: str | None, api_key: str | None) -> str | None:
    """The credential in the values of two headers, None if there is none.

    `api_key` is X-API-Key's, where the API takes that. As strict as `bearer_of`; where
    both headers are there, they say the same or nothing.
    """
    if api_key is None:
        return bearer_of(authorization or "")
    if authorization not in (None, f"Bearer {api_key}"):
        return None
    return api_key if _CREDENTIAL.fullmatch(api_key) else None


def is_key(bearer: str) -> bool:
    """Whether a bearer credential has the form of an API key."""
    return _KEY.fullmatch(bearer) is not None


def key_id_of(key: str) -> str:
    """The public part of what `is_key`."""
    return key[3 : 3 + KEY_ID_LENGTH]


def check_key_id(text: str) -> str:
    """Return a key id. Raises ValueError; a whole key given by mistake is not shown."""
    if _KEY_ID.fullmatch(text) is None:
        raise ValueError(
            "a key id is 12 of [a-z0-9]: the part of the key between its underscores"
        )
    return text


def check_tenant(name: str) -> str:
    """Return a tenant name. Raises ValueError for one that breaks the rule."""
    if _TENANT.fullmatch(name) is None:
        raise ValueError(
            f"tenant name {name!r}: use 1 to 64 of a-z, 0-9 and -, not - first"
        )
    return name


def _parse_network(text: str) -> Network:
    try:
        return _as_peers_are(ip_network(text))
    except ValueError:
        pass
    try:
        loose = _as_peers_are(ip_network(text, strict=False))
    except ValueError:
        raise ValueError(
            f"network {text!r}: write an address or a prefix, as 203.0.113.7, "
            "203.0.113.0/24 or 2001:db8::/32"
        ) from None
    raise ValueError(f"network {text!r} has bits behind its prefix: write {loose}")


def _as_peers_are(network: Network) -> Network:
    """Write a network of IPv4 addresses in IPv6's form as what peers are held to."""
    mapped = network.network_address
    if not isinstance(mapped, IPv6Address) or mapped.ipv4_mapped is None:
        return network
    return IPv4Network((mapped.ipv4_mapped, network.prefixlen - _MAPPED_PREFIX))


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parse_scope(text: str) -> Scope:
    match = _SCOPE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"scope {text!r}: write operation:action or operation:action=pattern, "
            "for example chat:write=tiny-*"
        )
    return Scope(match[1], match[2], match[3])


def _matches(pattern: str, name: str) -> bool:
    """Match a glob of `*` only, in time linear in both (no backtracking)."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first):
        return False
    position = len(first)
    for part in middle:
        found = name.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return len(name) - position >= len(last) and name.endswith(last)
