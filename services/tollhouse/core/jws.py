"""A signed token taken apart, before anything in it is believed.

Only the compact form (RFC 7515 §3.1), and only one way to write it: a token that could
be read in two ways is none. Every refusal is a ValueError whose text says which rule
was broken and shows nothing of the token.
"""

import base64
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from tollhouse.core.issuer import Algorithm

LONGEST_TOKEN: Final = 4096
LONGEST_HEADER: Final = 2048
"""Letters of the header: room for a certificate chain, which we ignore."""
LONGEST_KEY_ID: Final = 256

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_ALGORITHMS: Final = {str(it): it for it in Algorithm}
# RFC 8725 §3.11: a token made for something else says so. An ID token does not.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
# What we would have to obey: extensions (RFC 7515 §4.1.11), a payload that is not
# encoded (RFC 7797), encrypted or compressed (RFC 7516).
_BINDING: Final = ("crit", "b64", "enc", "zip")


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says of itself: `key_id` is its `kid`, `issuer` its `iss`."""

    algorithm: Algorithm
    key_id: str | None
    issuer: str
    claims: dict[str, Any]


def is_jwt(bearer: str) -> bool:
    """Whether a bearer credential has the form of a signed token."""
    return len(bearer) <= LONGEST_TOKEN and _TOKEN.fullmatch(bearer) is not None


def take_apart(token: str) -> Unverified:
    """Read a token. Raises ValueError for what can't be verified, whoever made it."""
    parts = _TOKEN.fullmatch(token)
    if parts is None or len(token) > LONGEST_TOKEN:
        raise ValueError("not a signed token")
    if len(parts[1]) > LONGEST_HEADER:
        raise ValueError("the header is too long")
    header = _object(parts[1], "header")
    for name in _BINDING:
        if name in header:
            raise ValueError(f"the header has {name}")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise ValueError("the header's alg is none of ours")
    type_ = header.get("typ", "jwt")
    if not isinstance(type_, str) or type_.lower() not in _TYPES:
        raise ValueError("the header's typ is something else")
    key_id = header.get("kid")
    if "kid" in header and not (
        isinstance(key_id, str) and len(key_id) <= LONGEST_KEY_ID
    ):
        raise ValueError("the header's kid is no name")
    _decode(parts[3], "signature")
    claims = _object(parts[2], "payload")
    match claims.get("iss"):
        case str(issuer):
            return Unverified(_ALGORITHMS[algorithm], key_id, issuer, claims)
    raise ValueError("claim iss is missing or no text")


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        value = _strict(_decode(part, what).decode())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError(f"the {what} is no JSON") from None
    match value:
        case dict():
            return value
    raise ValueError(f"the {what} is no object")


def _decode(part: str, what: str) -> bytes:
    """Decode base64url as it is written, not as it may be guessed (RFC 4648 §3.5)."""
    if len(part) % 4 == 1:
        raise ValueError(f"the {what} is no base64url")
    decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part.encode():
        raise ValueError(f"the {what} is base64url written in another way")
    return decoded


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name is given twice")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _not_json(_: str) -> NoReturn:
    raise ValueError("a number is none")


_strict = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_not_json
).decode
