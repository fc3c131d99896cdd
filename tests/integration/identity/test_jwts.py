"""Tokens that are good: every algorithm, whom they speak for, until when."""

import asyncio
import dataclasses
import json
from threading import Event

import pytest
from structlog.testing import capture_logs

from tests.integration.identity.provider import (
    FIXED_SCOPES,
    IDENTIFIER,
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    Hands,
    Provider,
    encode,
    key_file,
    serving,
    until,
    verifying,
)
from tollhouse.adapters import jwts
from tollhouse.adapters.jwts import Jwts
from tollhouse.core.assertion import Assertion, subject_id
from tollhouse.core.identity import Scope
from tollhouse.core.issuer import Algorithm, Issuer, KeysAt


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_every_algorithm_we_know(tmp_path, algorithm):
    """Both ways: what is allowed passes, and the others are refused."""
    provider = Provider()
    keys = key_file(tmp_path, provider.jwks())
    token = provider.token(algorithm)
    only = provider.issuer(keys, algorithms=frozenset({algorithm}))
    others = provider.issuer(keys, algorithms=frozenset(Algorithm) - {algorithm})

    async with verifying(only) as tokens:
        assert tokens.may_be_jwt(token)
        assert await tokens.identify(token) == Assertion(
            tenant="acme",
            subject_id=subject_id(IDENTIFIER, "user-1"),
            plan=None,
            scopes=(Scope("chat", "write"), Scope("models", "read")),
            expires_at=float(int(provider.now) + 3600 + 30),
        )
    async with verifying(others) as tokens:
        assert await tokens.identify(token) is None


async def test_keys_are_fetched_once_for_many_tokens():
    """The first tokens wait for one fetch, whether or not it was begun for them."""
    provider = Provider()
    async with serving(provider.jwks("ES256")) as server:
        async with verifying(provider.issuer(KeysAt(uri=server.uri))) as tokens:
            found = await asyncio.gather(
                *(tokens.identify(provider.token("ES256")) for _ in range(50))
            )
        assert None not in found
        assert len(server.requests) == 1
        assert b"accept-encoding: identity" in server.requests[0].lower()


@pytest.mark.parametrize("type_", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_types_of_an_access_token(tmp_path, type_):
    """RFC 9068 §2.1, and what providers wrote before it."""
    provider = Provider()
    issuer = provider.issuer(key_file(tmp_path, provider.jwks("ES256")))
    async with verifying(issuer) as tokens:
        assert await tokens.identify(provider.token("ES256", header={"typ": type_}))


async def test_a_token_without_kid(tmp_path):
    """It is good where one key fits its algorithm, and nothing is tried out."""
    provider, other = Provider(), Provider(which="second")
    token = provider.token("ES256", header={"kid": None})
    alone = provider.issuer(key_file(tmp_path, provider.jwks("ES256", "RS256"), "one"))
    both = Provider(
        published=[
            *_keys(provider.jwks("ES256")),
            *_keys(other.jwks("ES256")),
        ]
    )
    crowd = provider.issuer(key_file(tmp_path, both.jwks(), "two"))

    async with verifying(alone) as tokens:
        assert await tokens.identify(token)
    async with verifying(crowd) as tokens:
        assert await tokens.identify(token) is None


async def test_two_issuers_do_not_mix(tmp_path):
    """A token is judged by the entry of its own issuer, and signed by its keys."""
    ours = Provider()
    theirs = Provider("https://other.example", which="second")
    entries = (
        ours.issuer(key_file(tmp_path, ours.jwks(), "ours"), "ours"),
        theirs.issuer(
            key_file(tmp_path, theirs.jwks(), "theirs"),
            "theirs",
            tenant="globex",
            scopes=FIXED_SCOPES,
        ),
    )
    async with verifying(*entries) as tokens:
        first = await tokens.identify(ours.token(org="acme"))
        second = await tokens.identify(theirs.token(org="acme"))
        assert first is not None
        assert second is not None
        assert (first.tenant, second.tenant) == ("acme", "globex")
        assert second.scopes == FIXED_SCOPES
        assert first.subject_id != second.subject_id

        # Each signs as the other.
        assert await tokens.identify(ours.token(iss=theirs.identifier)) is None
        assert await tokens.identify(theirs.token(iss=ours.identifier)) is None


async def test_leeway_at_its_edges(tmp_path):
    """Neither a second more nor less than the entry says."""
    provider, hands = Provider(), Hands()
    moment = int(hands.wall)
    issuer = provider.issuer(
        key_file(tmp_path, provider.jwks("ES256")), leeway_seconds=5.0
    )
    cases = {
        ("exp", moment - 4): True,
        ("exp", moment - 5): False,
        ("nbf", moment + 5): True,
        ("nbf", moment + 6): False,
        ("iat", moment + 5): True,
        ("iat", moment + 6): False,
    }
    hands.wall = float(moment)
    async with verifying(issuer, hands=hands) as tokens:
        for (claim, value), is_good in cases.items():
            changed = json.dumps(provider.claims(**{claim: value})).encode()
            token = provider.token("ES256", raw_claims=changed)
            found = await tokens.identify(token)
            assert (found is not None) == is_good, (claim, value - moment)


async def test_issuers_follow_the_configuration(tmp_path):
    """Added, changed and removed without a restart; keys stay where they may."""
    provider = Provider()
    token = provider.token("ES256")
    elsewhere = key_file(tmp_path, Provider(which="second").jwks("ES256"))
    issuers: dict[str, Issuer] = {}
    tokens = Jwts(
        lambda: issuers,
        look_seconds=LOOK_SECONDS,
        patience_seconds=PATIENCE_SECONDS,
    )
    running = asyncio.create_task(tokens.run())

    async def tenant():
        found = await tokens.identify(token)
        return None if found is None else found.tenant

    async with serving(provider.jwks("ES256")) as server:
        issuer = provider.issuer(KeysAt(uri=server.uri))
        assert not tokens.may_be_jwt(token)
        assert await tenant() is None
        issuers = {"acme": issuer}
        await until(tenant, "acme")
        issuers = {"acme": dataclasses.replace(issuer, tenant="globex")}
        await until(tenant, "globex")
        assert len(server.requests) == 1
        issuers = {"acme": dataclasses.replace(issuer, keys=elsewhere)}
        await until(tenant, None)
        assert tokens.may_be_jwt(token)
        issuers = {}

        async def may_be():
            return tokens.may_be_jwt(token)

        await until(may_be, expected=False)
    running.cancel()
    await asyncio.wait({running})


async def test_the_same_issuers_read_again_change_nothing(tmp_path):
    """Whoever remembers what they vouched for goes on; a reload makes new objects."""
    looks = 0

    def read() -> dict[str, Issuer]:
        nonlocal looks
        looks += 1
        provider = Provider()
        return {"acme": provider.issuer(key_file(tmp_path, provider.jwks("ES256")))}

    tokens = Jwts(read, look_seconds=LOOK_SECONDS, patience_seconds=PATIENCE_SECONDS)
    first = tokens.issuers
    running = asyncio.create_task(tokens.run())

    async def has_looked():
        return looks >= 4

    await until(has_looked, expected=True)
    assert tokens.issuers is first
    running.cancel()
    await asyncio.wait({running})


async def test_issuers_are_told_once_they_are_trusted(tmp_path, monkeypatch):
    """Whoever looks again at each change never hears of one too early."""
    provider = Provider()
    elsewhere = Provider("https://other.example", which="second")
    token = provider.token("ES256")
    first = {"acme": provider.issuer(key_file(tmp_path, provider.jwks("ES256")))}
    second = {
        "other": elsewhere.issuer(
            key_file(tmp_path, elsewhere.jwks("ES256"), "other"), "other"
        )
    }
    now = first
    tokens = Jwts(lambda: now, look_seconds=LOOK_SECONDS)
    running = asyncio.create_task(tokens.run())
    assert await tokens.identify(token)
    keys_class, begun, may_go_on = jwts._keys_class, Event(), Event()

    def slow():
        begun.set()
        may_go_on.wait(30)
        return keys_class()

    monkeypatch.setattr(jwts, "_keys_class", slow)
    now = second
    assert await asyncio.to_thread(begun.wait, 10)
    assert tokens.issuers is first
    assert await tokens.identify(token)
    may_go_on.set()

    async def issuers():
        return tokens.issuers

    await until(issuers, second)
    assert await tokens.identify(token) is None
    running.cancel()
    await asyncio.wait({running})


async def test_refusals_are_told_without_what_was_refused(tmp_path):
    """At level debug, with the rule; nothing of the token is in the line."""
    provider = Provider()
    issuer = provider.issuer(key_file(tmp_path, provider.jwks("ES256")))
    canary = "CANARY" * 4
    bad = (
        provider.token("ES256", org=canary),
        provider.token("ES256", aud=canary),
        provider.token("ES256", iss=canary),
        provider.token("ES256", header={"kid": canary}),
        provider.token("ES256", header={"alg": canary}),
        provider.token("ES256", sub="\ud800" + canary),
        f"{encode(canary.encode())}.{encode(canary.encode())}.{encode(b'x')}",
    )
    async with verifying(issuer) as tokens:
        await tokens.identify(provider.token("ES256"))
        with capture_logs() as logs:
            for token in bad:
                assert await tokens.identify(token) is None
    assert [it["event"] for it in logs] == ["jwt.refused"] * len(bad)
    assert {it["log_level"] for it in logs} == {"debug"}
    assert all("CANARY" not in repr(it) and "eyJ" not in repr(it) for it in logs)


def _keys(content: bytes) -> list:

    return json.loads(content)["keys"]
