"""Signatures that are none, and keys that are not the issuer's.

Attacks that are known to have worked elsewhere (RFC 8725, Wycheproof). Nothing an
attacker names in a token is ever fetched.
"""

import base64
import datetime as dt
import hashlib
import hmac
import itertools
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from tests.integration.identity.attacking import Attacks
from tests.integration.identity.provider import (
    IDENTIFIER,
    Provider,
    decode,
    encode,
    jwk,
    private_key,
    serving,
    signed,
    verifying,
)
from tollhouse.core.issuer import Algorithm, KeysAt

# Of P-256: of its group, and of what its points are made of.
ORDER = int("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551", 16)
FIELD = int("FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF", 16)

ATTACKS = Attacks()


async def test_none_passes():
    """Each row, beside a good token."""
    assert await ATTACKS.passing() == []
    assert len(ATTACKS.rows) > 300


@pytest.mark.parametrize("brought", ["jku", "x5u", "jwk", "x5c"])
async def test_what_a_token_brings_along_is_not_looked_at(brought):
    """A good token stays good; some providers write such members."""
    them = Provider()
    async with serving(them.jwks()) as server, serving(b"") as evil:
        values = {"jku": evil.uri, "x5u": evil.uri, "jwk": {"kty": "oct"}, "x5c": [1]}
        async with verifying(them.issuer(KeysAt(uri=server.uri))) as tokens:
            token = them.token(header={brought: values[brought]})
            assert await tokens.identify(token) is not None
        assert evil.requests == []


HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def hs(secret, algorithm):
    """Sign with a shared secret."""
    return lambda text: hmac.digest(secret, text, HASHES[algorithm])


def parts(token):
    header, payload, signature = token.split(".")
    return header, payload, decode(signature)


def with_signature(them, signature, algorithm="ES256"):
    header, payload, own = parts(them.token(algorithm))
    changed = signature(own) if callable(signature) else signature
    return f"{header}.{payload}.{encode(changed)}"


def r_s(r, s):
    return r.to_bytes(32) + s.to_bytes(32)


# --- no signature, or one that everybody can make -------------------------------------

ATTACKS.each(
    "alg_none",
    ["none", "None", "NONE", "nOnE", "", None, "none ", 0, False, [], {}, ["none"]],
    lambda them, alg: signed(
        {"alg": alg, "kid": "RS256"}, them.claims(), lambda _: b"x"
    ),
)
ATTACKS.each(
    "alg_none_signature_dropped",
    ["none", "None", "RS256", "ES256"],
    lambda them, alg: signed({"alg": alg, "kid": alg}, them.claims(), lambda _: b""),
)
ATTACKS.each(
    "alg_unknown",
    [
        "rs256",
        "RS256 ",
        "RS1",
        "ES256K",
        "HS256",
        "A128KW",
        "dir",
        "RS256,none",
        "Ed25519",
    ],
    lambda them, alg: them.token(header={"alg": alg}),
)


def _public(them):
    """All that may be taken for a secret because the verifier has it."""
    key = them.key("RS256").public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    pkcs1 = serialization.PublicFormat.PKCS1
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    return [
        key.public_bytes(pem, spki),
        key.public_bytes(pem, spki).strip(),
        key.public_bytes(pem, pkcs1),
        key.public_bytes(der, spki),
        key.public_bytes(der, pkcs1),
        json.dumps(jwk(key, kid="RS256", use="sig", alg="RS256")).encode(),
        them.jwks(),
        decode(jwk(key)["n"]),
        b"RS256",
        b"",
    ]


ATTACKS.each(
    "public_key_as_secret",
    [(alg, at) for alg in HASHES for at in range(10)],
    lambda them, it: signed(
        {"alg": it[0], "kid": "RS256"}, them.claims(), hs(_public(them)[it[1]], it[0])
    ),
)

# --- the wrong key for the algorithm --------------------------------------------------

ATTACKS.each(
    "signed_as_another_algorithm",
    [(a, b) for a in Algorithm for b in Algorithm if a != b],
    lambda them, pair: them.token(
        pair[1], header={"alg": str(pair[0]), "kid": str(pair[1])}
    ),
)
ATTACKS.each(
    "kid_of_another_key",
    [(a, b) for a in Algorithm for b in Algorithm if a != b],
    lambda them, pair: them.token(pair[0], header={"kid": str(pair[1])}),
)
ATTACKS.each(
    "curve_too_large",
    ["ES384", "ES512"],
    lambda them, which: signed(
        {"alg": "ES256", "kid": which},
        them.claims(),
        lambda text: _p1363(
            private_key(which).sign(text, ec.ECDSA(hashes.SHA256())), which
        ),
    ),
)


def _p1363(der, which):
    r, s = decode_dss_signature(der)
    size = {"ES256": 32, "ES384": 48, "ES512": 66}[which]
    return r.to_bytes(size) + s.to_bytes(size)


@ATTACKS.one
def a_strangers_key(them, uri):
    return them.token(key=private_key("RS256", "stranger"))


ATTACKS.each(
    "a_strangers_key_under_every_kid",
    list(Algorithm),
    lambda them, alg: Provider(which="stranger").token(alg),
)

# --- the signature --------------------------------------------------------------------

ATTACKS.each(
    "signature_byte_flipped",
    [
        (a, at)
        for a in ("RS256", "PS256", "ES256", "ES512", "EdDSA")
        for at in (0, 1, 31, 32, 33, 63, -2, -1)
    ],
    lambda them, it: with_signature(them, lambda own: _flip(own, it[1]), it[0]),
)
ATTACKS.each(
    "signature_cut_or_longer",
    [
        (a, change)
        for a in ("RS256", "PS256", "ES256", "EdDSA")
        for change in (
            lambda it: it[:-1],
            lambda it: it[1:],
            lambda it: it[:1],
            lambda it: it + b"\0",
            lambda it: b"\0" + it,
            lambda it: it + it,
            lambda it: bytes(len(it)),
            lambda it: b"\xff" * len(it),
        )
    ],
    lambda them, it: with_signature(them, it[1], it[0]),
)
ATTACKS.each(
    "ecdsa_special_numbers",
    [
        r_s(r, s)
        for r in (0, 1, ORDER, FIELD, ORDER - 1)
        for s in (0, 1, ORDER, FIELD, ORDER - 1)
    ],
    with_signature,
)
ATTACKS.each(
    "ecdsa_other_forms",
    [
        lambda own: encode_dss_signature(
            int.from_bytes(own[:32]), int.from_bytes(own[32:])
        ),
        lambda own: own[32:] + own[:32],
        lambda own: r_s(
            (int.from_bytes(own[:32]) + ORDER) % (1 << 256), int.from_bytes(own[32:])
        ),
        lambda own: own[:32] + b"\0" + own[32:],
        lambda own: own.hex().encode(),
        base64.b64encode,
    ],
    with_signature,
)


@ATTACKS.one
def rsa_signature_not_reduced(them, uri):
    """The same number plus the modulus (Wycheproof)."""
    n = them.key("RS256").public_key().public_numbers().n
    return with_signature(
        them,
        lambda own: (int.from_bytes(own) + n).to_bytes(257),
        "RS256",
    )


@ATTACKS.one
def rsa_leading_zero_left_out(them, uri):
    """The same number in fewer bytes (RFC 8017 §8.1.2); OpenSSL takes it for PSS."""
    for number in itertools.count():
        header, payload, own = parts(them.token("PS256", jti=str(number)))
        if own[0] == 0:
            return f"{header}.{payload}.{encode(own[1:])}"
    raise AssertionError


@ATTACKS.one
def signature_of_another_token(them, uri):
    header, payload, _ = parts(them.token(org="acme"))
    return f"{header}.{payload}.{encode(parts(them.token(org='globex'))[2])}"


@ATTACKS.one
def payload_changed(them, uri):
    header, _, signature = parts(them.token())
    changed = encode(json.dumps(them.claims(org="globex")).encode())
    return f"{header}.{changed}.{encode(signature)}"


@ATTACKS.one
def header_changed(them, uri):
    _, payload, signature = parts(them.token())
    changed = encode(json.dumps({"alg": "RS256", "kid": "RS256"}).encode())
    return f"{changed}.{payload}.{encode(signature)}"


def _flip(own, at):
    changed = bytearray(own)
    changed[at] ^= 1
    return bytes(changed)


# --- keys that the token brings along -------------------------------------------------


def _brought(them, **header):
    stranger = private_key("RS256", "stranger")
    return them.token(key=stranger, header=header)


@ATTACKS.one
def jku(them, uri):
    return _brought(them, jku=uri, kid="evil")


@ATTACKS.one
def jku_with_a_known_kid(them, uri):
    return _brought(them, jku=uri)


@ATTACKS.one
def jku_that_begins_like_ours(them, uri):
    return _brought(them, jku=f"{IDENTIFIER}@{uri.removeprefix('http://')}")


@ATTACKS.one
def x5u(them, uri):
    return _brought(them, x5u=uri)


@ATTACKS.one
def jwk_in_the_header(them, uri):
    public = private_key("RS256", "stranger").public_key()
    return _brought(them, jwk=jwk(public, kid="evil"), kid="evil")


@ATTACKS.one
def jwk_in_the_header_with_a_known_kid(them, uri):
    return _brought(them, jwk=jwk(private_key("RS256", "stranger").public_key()))


@ATTACKS.one
def x5c(them, uri):
    key = private_key("ES256", "stranger")
    name = x509.Name([])
    now = dt.datetime.now(dt.UTC)
    chain = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, now, now + dt.timedelta(1)
        )
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    der = base64.b64encode(chain).decode()
    return them.token("ES256", key=key, header={"x5c": [der]})


@ATTACKS.one
def issuer_is_the_attackers_server(them, uri):
    return them.token(key=private_key("RS256", "stranger"), iss=uri)
