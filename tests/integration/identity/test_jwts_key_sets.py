"""Key sets with odd contents: what can't be used is passed over, and never guessed."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from tests.integration.identity.provider import (
    Hands,
    Provider,
    jwk,
    key_file,
    keys_of,
    serving,
    token_of,
    until,
    verifying,
)
from tollhouse.adapters import jwks
from tollhouse.adapters.key_set import MOST_BYTES, MOST_KEYS
from tollhouse.core.issuer import KeysAt
from tollhouse.core.problems import Unavailable

OLD, NEW = Provider(which="old"), Provider(which="new")

GOOD = jwk(OLD.key("ES256").public_key(), kid="k")
BAD_SETS = {
    "empty": b"",
    "no json": b"<html>",
    "a list": b"[]",
    "no keys": b"{}",
    "keys are none": b'{"keys": {}}',
    "nothing in it": b'{"keys": []}',
    "deep": b"[" * 100_000,
    "too many": json.dumps({"keys": [GOOD] * (MOST_KEYS + 1)}).encode(),
    "too large": json.dumps({"keys": [GOOD], "x": "x" * MOST_BYTES}).encode(),
}


@pytest.mark.parametrize("name", BAD_SETS)
@pytest.mark.parametrize("kind", ["file", "uri"])
async def test_a_bad_set_replaces_nothing(tmp_path, kind, name):
    """Neither at first nor later; the last good one stays."""
    hands = Hands()
    async with serving(BAD_SETS[name]) as server:
        place = KeysAt(uri=server.uri)
        if kind == "file":
            place = key_file(tmp_path, server.content)
        issuer = OLD.issuer(place)

        async def publish(content):
            hands.steady += jwks.REFRESH_SECONDS * 1.1
            server.content = content
            if place.file is not None:
                place.file.write_bytes(content)

        with capture_logs() as logs:
            async with verifying(issuer, hands=hands) as tokens:
                with pytest.raises(Unavailable):
                    await tokens.identify(token_of(OLD, "k"))
                await publish(keys_of(OLD, "k"))
                assert await tokens.identify(token_of(OLD, "k"))
                await publish(BAD_SETS[name])

                async def failures():
                    return sum(it["event"] == "jwks.failed" for it in logs)

                await until(failures, 2)
                assert await tokens.identify(token_of(OLD, "k"))


SHORT = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
PRIVATE = OLD.key("ES256")
PASSED_OVER = {
    "a private key": jwk(PRIVATE, kid="x"),
    "a shared secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256"},
    "a shared secret under our algorithm": {"kty": "oct", "k": "eA", "alg": "RS256"},
    "a short key": jwk(SHORT.public_key(), kid="x"),
    "for encryption": jwk(PRIVATE.public_key(), kid="x", use="enc"),
    "for signing only": jwk(PRIVATE.public_key(), kid="x", key_ops=["sign"]),
    "operations are no list": jwk(PRIVATE.public_key(), kid="x", key_ops="verify"),
    "for another algorithm": jwk(PRIVATE.public_key(), kid="x", alg="RS256"),
    "for HS256": jwk(PRIVATE.public_key(), kid="x", alg="HS256"),
    "of a curve nobody uses": jwk(
        ec.generate_private_key(ec.SECP256K1()).public_key(), kid="x"
    ),
    "of a curve it is not on": jwk(PRIVATE.public_key(), kid="x", crv="P-384"),
    "not on its curve": jwk(PRIVATE.public_key(), kid="x", x="A" * 43),
    "of no curve": {"kty": "EC", "x": GOOD["x"], "y": GOOD["y"], "kid": "x"},
    "half": {"kty": "EC", "crv": "P-256", "x": GOOD["x"], "kid": "x"},
    "its exponent is 1": jwk(OLD.key("RS256").public_key(), kid="x", e="AQ"),
    "its exponent is huge": jwk(OLD.key("RS256").public_key(), kid="x", e="_" * 300),
    "numbers are numbers": {"kty": "RSA", "n": 1, "e": 3, "kid": "x"},
    "of no type": {"kid": "x"},
    "of another type": {"kty": "AKP", "kid": "x"},
    "its type is a list": {"kty": ["EC"], "kid": "x"},
    "its name is a number": jwk(PRIVATE.public_key(), kid=1),
    "text": "x",
    "nothing": None,
}


@pytest.mark.parametrize("name", PASSED_OVER)
async def test_keys_that_are_passed_over(tmp_path, name):
    """Alone they are no set; beside a good one they change nothing, and it is said."""
    odd = PASSED_OVER[name]
    alone = key_file(tmp_path, json.dumps({"keys": [odd]}).encode(), "alone")
    beside = key_file(tmp_path, json.dumps({"keys": [odd, GOOD]}).encode(), "beside")

    async with verifying(OLD.issuer(alone)) as tokens:
        with pytest.raises(Unavailable):
            await tokens.identify(token_of(OLD, "x"))
    with capture_logs() as logs:
        async with verifying(OLD.issuer(beside)) as tokens:
            assert await tokens.identify(token_of(OLD, "k"))
            assert await tokens.identify(token_of(OLD, "x")) is None
    (loaded,) = [it for it in logs if it["event"] == "jwks.loaded"]
    assert loaded["count"] == 1
    assert sum(loaded["passed_over"].values()) == 1


async def test_two_keys_of_a_name(tmp_path):
    """Of two that both fit none is tried; where the algorithm tells, it does."""
    both = [
        jwk(OLD.key("ES256").public_key(), kid="k"),
        jwk(NEW.key("ES256").public_key(), kid="k"),
        jwk(OLD.key("RS256").public_key(), kid="k"),
    ]
    place = key_file(tmp_path, json.dumps({"keys": both}).encode())
    async with verifying(OLD.issuer(place)) as tokens:
        assert await tokens.identify(token_of(OLD, "k")) is None
        assert await tokens.identify(token_of(NEW, "k")) is None
        assert await tokens.identify(OLD.token("RS256", header={"kid": "k"}))


async def test_a_key_without_alg_verifies_all_it_is_fit_for(tmp_path):
    """And with one that only (as Entra ID and Keycloak publish them)."""
    public = OLD.key("RS256").public_key()
    bare = json.dumps({"keys": [jwk(public, kid="k")]}).encode()
    bound = json.dumps({"keys": [jwk(public, kid="k", alg="RS256")]}).encode()
    for content, good in ((bare, ["RS256", "PS256", "RS512"]), (bound, ["RS256"])):
        place = key_file(tmp_path, content)
        async with verifying(OLD.issuer(place)) as tokens:
            for algorithm in ("RS256", "PS256", "RS512", "ES256"):
                key = None if algorithm == "ES256" else OLD.key("RS256")
                token = OLD.token(algorithm, key=key, header={"kid": "k"})
                found = await tokens.identify(token)
                assert (found is not None) == (algorithm in good)
