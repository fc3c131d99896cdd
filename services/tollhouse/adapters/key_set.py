"""The public keys of an issuer: a JWK set (RFC 7517), read with suspicion.

A key verifies what it is fit for and nothing else: type, curve, `alg`, `use` and
`key_ops` decide which algorithms, and a token's header only chooses among these.
"""

import json
from collections import Counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWS, PyJWTError

from tollhouse.core.issuer import Algorithm

MOST_BYTES = 1 << 20
MOST_KEYS = 100

_RSA_BITS = range(2048, 8193)
"""Shorter ones can be broken (NIST SP 800-131A); longer ones cost 1 ms a token."""
_RSA_EXPONENTS = range(3, 1 << 32, 2)

_BY_TYPE = {
    ("RSA", None): (
        Algorithm.RS256,
        Algorithm.RS384,
        Algorithm.RS512,
        Algorithm.PS256,
        Algorithm.PS384,
        Algorithm.PS512,
    ),
    ("EC", "P-256"): (Algorithm.ES256,),
    ("EC", "P-384"): (Algorithm.ES384,),
    ("EC", "P-521"): (Algorithm.ES512,),
    ("OKP", "Ed25519"): (Algorithm.EDDSA,),
}
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_jws = PyJWS(algorithms=[str(it) for it in Algorithm])


class KeySetError(Exception):
    """A set can't be used; the text says why and shows nothing of it."""


class PublicKey:
    """A key, for one algorithm it is fit for."""

    def __init__(
        self, name: str | None, algorithm: Algorithm, members: dict[str, str]
    ) -> None:
        """Take the members of a JWK. Raises PyJWTError, ValueError, TypeError."""
        self.name = name
        self.algorithm = algorithm
        self.jwk = PyJWK(members, str(algorithm))
        self._signature_length = _signature_length(self.jwk.key)

    def has_signed(self, token: str) -> bool:
        """Whether the signature of a token is one of this key and algorithm."""
        # OpenSSL takes RSA-PSS without its leading zeros, against RFC 8017 §8.1.2.
        if len(token) - token.rindex(".") - 1 != self._signature_length:
            return False
        try:
            _jws.decode_complete(
                token,
                self.jwk,
                algorithms=[str(self.algorithm)],
                options={"verify_signature": True, "enforce_minimum_key_length": True},
            )
        except PyJWTError:
            return False
        return True


class KeySet:
    """The keys of an issuer that can be used."""

    def __init__(self, content: bytes) -> None:
        """Read a JWK set; a key that can't be used is passed over.

        Raises KeySetError where none is left, or the set is none.
        """
        self._keys: dict[Algorithm, list[PublicKey]] = {}
        self.passed_over: Counter[str] = Counter()
        """Why keys are not used, and how many."""
        self.size = 0
        for item in _listed(content):
            try:
                keys = _read_key(item)
            except KeySetError as error:
                self.passed_over[str(error)] += 1
                continue
            self.size += 1
            for key in keys:
                self._keys.setdefault(key.algorithm, []).append(key)
        if not self.size:
            reasons = ", ".join(self.passed_over) or "it is empty"
            raise KeySetError(f"no key of it can be used: {reasons}")

    def find(self, name: str | None, algorithm: Algorithm) -> PublicKey | None:
        """The one key that has the name and is fit; without a name: that is fit.

        None where there is no such key or are several: none is tried out.
        """
        fit = self._keys.get(algorithm, [])
        found = [key for key in fit if name is None or key.name == name]
        return found[0] if len(found) == 1 else None

    def lacks(self, name: str | None, algorithm: Algorithm) -> bool:
        """Whether a newer set may have what `find` looks for, and this has nothing."""
        if name is None:
            return algorithm not in self._keys
        return all(key.name != name for keys in self._keys.values() for key in keys)


def _listed(content: bytes) -> list[Any]:
    if len(content) > MOST_BYTES:
        raise KeySetError(f"it is larger than {MOST_BYTES} bytes")
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        raise KeySetError("it is no JSON") from None
    listed = whole.get("keys") if isinstance(whole, dict) else None
    if not isinstance(listed, list):
        raise KeySetError("it is no JWK set: an object with a list `keys`")
    if len(listed) > MOST_KEYS:
        raise KeySetError(f"it has more than {MOST_KEYS} keys")
    return listed


def _read_key(item: Any) -> list[PublicKey]:
    """Read a key, once for each algorithm it is fit for. Raises KeySetError."""
    members = _public_members(item)
    name = item.get("kid")
    if not isinstance(name, str | None):
        raise KeySetError("a kid is no text")
    algorithms = _fit(item)
    if not algorithms:
        raise KeySetError("one is for another use")
    try:
        keys = [PublicKey(name, it, members) for it in algorithms]
    except (PyJWTError, ValueError, TypeError):
        raise KeySetError("a member is wrong") from None
    if isinstance(keys[0].jwk.key, RSAPublicKey):
        _check_rsa(keys[0].jwk.key)
    return keys


def _public_members(item: Any) -> dict[str, str]:
    """Take what makes the public key, and nothing else, out of a JWK."""
    if not isinstance(item, dict):
        raise KeySetError("one is no object")
    type_ = item.get("kty")
    if type_ == "oct":
        raise KeySetError("one is a shared secret")
    if not _PRIVATE.isdisjoint(item):
        raise KeySetError("one is a private key")
    if not isinstance(type_, str) or type_ not in _PUBLIC:
        raise KeySetError("one is of another type")
    members = {"kty": type_}
    for member in _PUBLIC[type_]:
        value = item.get(member)
        if not isinstance(value, str):
            raise KeySetError("a member is missing")
        members[member] = value
    return members


def _fit(item: dict[str, Any]) -> list[Algorithm]:
    curve = item.get("crv") if item["kty"] != "RSA" else None
    operations = item.get("key_ops", ["verify"])
    if item.get("use", "sig") != "sig" or not isinstance(operations, list):
        return []
    if not isinstance(curve, str | None) or "verify" not in operations:
        return []
    return [
        it for it in _BY_TYPE.get((item["kty"], curve), ()) if item.get("alg", it) == it
    ]


def _signature_length(key: Any) -> int:
    """How many letters of base64url a signature has."""
    match key:
        case RSAPublicKey():
            size = (key.key_size + 7) // 8
        case EllipticCurvePublicKey():
            size = 2 * ((key.key_size + 7) // 8)
        case _:
            size = 64  # Ed25519
    return (size * 4 + 2) // 3


def _check_rsa(key: RSAPublicKey) -> None:
    if key.key_size not in _RSA_BITS:
        raise KeySetError("one is too short or too long")
    if key.public_numbers().e not in _RSA_EXPONENTS:
        raise KeySetError("an exponent is out of range")
