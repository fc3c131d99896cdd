"""What an identity provider says of a caller, once its signature is verified."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from tollhouse.core.identity import (
    KEY_ID_LENGTH,
    KEY_ID_LETTERS,
    SUBJECT_PREFIX,
    Permission,
    Scope,
    check_tenant,
    parse_scopes,
)
from tollhouse.core.issuer import Claim, Issuer, PlanFrom, ScopesFrom, TenantFrom

_SUBJECT_DIGITS: Final = KEY_ID_LENGTH - len(SUBJECT_PREFIX)
_LATEST: Final = 253_402_300_799  # the end of the year 9999
_PERMISSIONS: Final = frozenset(map(str, Permission))

Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Assertion:
    """Who a token speaks for; `subject_id` stands where a key has its key id.

    `expires_at` is Unix seconds; the issuer's leeway is in it.
    """

    tenant: str
    subject_id: str
    plan: str | None
    scopes: tuple[Scope, ...]
    expires_at: float


def assertion_of(issuer: Issuer, claims: Claims, now: float) -> Assertion:
    """Read the claims of a token whose signature is good; `now` is Unix seconds.

    Raises ValueError where it must not be believed, or not now, or not by us. The text
    names the claim and never says what is in it.
    """
    if claims.get("iss") != issuer.identifier:
        raise ValueError("claim iss is another issuer's")
    if issuer.audiences.isdisjoint(_audiences(claims)):
        raise ValueError("claim aud does not name us")
    if "cnf" in claims:  # RFC 7800: only for who proves to hold a key, a bearer can't
        raise ValueError("claim cnf binds the token to a key")
    expires_at = _moment(claims, "exp") + issuer.leeway_seconds
    if now >= expires_at:
        raise ValueError("claim exp is over")
    for name in ("nbf", "iat"):
        if name in claims and _moment(claims, name) > now + issuer.leeway_seconds:
            raise ValueError(f"claim {name} is in the future")
    return Assertion(
        tenant=_tenant(issuer.tenant, claims),
        subject_id=subject_id(issuer.identifier, _text(claims, ("sub",))),
        plan=_plan(issuer.plan, claims),
        scopes=_scopes(issuer.scopes, claims),
        expires_at=expires_at,
    )


def subject_id(issuer: str, subject: str) -> str:
    """Name a subject of an issuer: always alike, in the form of a key id.

    A pseudonym and no secret: who knows a subject can work it out. Raises ValueError
    for a subject that is no text.
    """
    try:
        name = f"{len(issuer)}:{issuer}{subject}".encode()
    except UnicodeEncodeError:  # half a surrogate pair; the error would show it
        raise ValueError("claim sub is no text") from None
    number = int.from_bytes(blake2b(name, digest_size=16).digest())
    letters = []
    for _ in range(_SUBJECT_DIGITS):
        number, digit = divmod(number, len(KEY_ID_LETTERS))
        letters.append(KEY_ID_LETTERS[digit])
    return SUBJECT_PREFIX + "".join(letters)


def _audiences(claims: Claims) -> frozenset[str]:
    match claims.get("aud"):
        case str(audience):
            return frozenset((audience,))
        case list(audiences) if all(isinstance(it, str) for it in audiences):
            return frozenset(audiences)
        case _:
            raise ValueError("claim aud is neither text nor a list of texts")


def _moment(claims: Claims, name: str) -> float:
    """Read a NumericDate (RFC 7519 §2) of Unix seconds."""
    match claims.get(name):
        case bool():
            pass
        case int(value) | float(value) if 0 <= value <= _LATEST:  # not NaN either
            return float(value)
    raise ValueError(f"claim {name} is no time")


def _tenant(source: TenantFrom | str, claims: Claims) -> str:
    if isinstance(source, str):
        return source
    name = _text(claims, source.claim)
    if source.names is not None:
        if name not in source.names:
            raise ValueError(f"claim {_path(source.claim)} names no tenant of the map")
        return source.names[name]
    try:
        return check_tenant(name)
    except ValueError:
        raise ValueError(f"claim {_path(source.claim)} is no tenant name") from None


def _plan(source: PlanFrom | None, claims: Claims) -> str | None:
    if source is None or _find(claims, source.claim) is None:
        return None
    plan = _text(claims, source.claim)
    if plan not in source.allowed:
        raise ValueError(f"claim {_path(source.claim)} names a plan it may not")
    return plan


def _scopes(
    source: ScopesFrom | tuple[Scope, ...], claims: Claims
) -> tuple[Scope, ...]:
    """Read what is meant for us; a scope that is not ours allows nothing."""
    if isinstance(source, tuple):
        return source
    found: dict[Scope, None] = {}
    for value in _texts(claims, source.claim):
        if not value.startswith(source.prefix):
            continue
        name = value.removeprefix(source.prefix)
        granted = _known(name) if source.grants is None else source.grants.get(name, ())
        found.update(dict.fromkeys(granted))
    return tuple(found)


def _known(name: str) -> tuple[Scope, ...]:
    if len(name.split()) != 1:
        return ()
    try:
        (scope,) = parse_scopes(name)
    except ValueError:
        return ()
    return (scope,) if scope.permission in _PERMISSIONS else ()


def _texts(claims: Claims, claim: Claim) -> list[str]:
    match _find(claims, claim):
        case None:
            return []
        case str(text):
            return text.split(" ")
        case list(texts) if all(isinstance(it, str) for it in texts):
            return texts
        case _:
            raise ValueError(
                f"claim {_path(claim)} is neither text nor a list of texts"
            )


def _text(claims: Claims, claim: Claim) -> str:
    value = _find(claims, claim)
    if value is None:
        raise ValueError(f"claim {_path(claim)} is missing")
    if not isinstance(value, str) or not value:
        raise ValueError(f"claim {_path(claim)} is no text")
    return value


def _find(claims: Claims, claim: Claim) -> object:
    """Go down to a value; None where there is none."""
    found: object = claims
    for name in claim:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def _path(claim: Claim) -> str:
    return ".".join(claim)
