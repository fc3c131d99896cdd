"""The authz process and JWTs: who they open the gateway as, beside keys."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.running_stack import ROOT
from tests.integration.identity.authz_process import Authz, running_authz
from tests.integration.identity.provider import Provider
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring

_ISSUER = {
    "issuer": "https://id.example.com/realms/acme",
    "audiences": ["tollhouse"],
    "tenant": {"claim": "org"},
    "scopes": {"claim": "scope"},
    "plan": {"claim": "plan", "allowed": ["gold"]},
}


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def pepper(tmp_path: Path) -> Path:
    path = tmp_path / "pepper"
    path.touch(mode=0o600)
    path.write_text("5a" * 32 + "\n")
    return path


@pytest.fixture
def keyring(redis_url: str, pepper: Path) -> Iterator[Keyring]:
    ring = Keyring(redis_url, Pepper.read(pepper))
    ring.create_tenant("acme", "demo")
    with contextlib.closing(ring):
        yield ring


def write_config(folder: Path, issuers: dict[str, Any]) -> Path:
    """The repository's tollhouse.yaml with these issuers and a plan, in one go."""
    content = yaml.safe_load((ROOT / "tollhouse.yaml").read_text())
    content["plans"]["gold"] = {}
    draft, path = folder / "draft.yaml", folder / "tollhouse.yaml"
    draft.write_text(yaml.safe_dump(content | {"issuers": issuers}))
    draft.replace(path)
    return path


@pytest.fixture
def authz(
    tmp_path: Path, redis_url: str, pepper: Path, provider: Provider
) -> Iterator[Authz]:
    (tmp_path / "jwks.json").write_bytes(provider.jwks("RS256", "ES256"))
    config = write_config(tmp_path, {"acme": _ISSUER | {"jwks_file": "jwks.json"}})
    with running_authz(tmp_path, redis_url, pepper, config=config) as it:
        yield it


def eventually(expected: int, ask, *, within: float) -> None:
    """Ask until the answer is the expected one."""
    deadline = time.monotonic() + within
    while (seen := ask()) != expected:
        assert time.monotonic() < deadline, f"{seen}, not {expected}"
        time.sleep(0.02)


def test_principal(authz: Authz, keyring: Keyring, provider: Provider):
    """A JWT is who its claims say, on the tenant's plan unless they name another."""
    plain = authz.check(provider.token()).dynamic_metadata.fields
    other = authz.check(provider.token("ES256", plan="gold")).dynamic_metadata.fields

    assert plain["tenant"].string_value == other["tenant"].string_value == "acme"
    assert plain["key_id"].string_value == other["key_id"].string_value
    assert plain["key_id"].string_value.startswith("jwt")
    assert plain["scopes"].string_value == "chat:write models:read"
    assert (plain["plan"].string_value, other["plan"].string_value) == ("demo", "gold")


def test_refused_as_bad_keys(authz: Authz, keyring: Keyring, provider: Provider):
    """Whatever is wrong with a JWT, the answer is that of a bad key, byte for byte."""
    good = provider.token()
    assert authz.status(good) == 200
    answers = {
        authz.raw(f"Bearer {it}")
        for it in (
            "no key at all, but long enough",
            provider.token(org="nobody"),
            provider.token(iss="https://id.example.org"),
            provider.token(aud="another"),
            provider.token(exp=int(time.time()) - 3600),
            provider.token(plan="platinum"),
            good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB"),
            provider.token(raw_header=b'{"alg":"none"}'),
        )
    }

    assert len(answers) == 1
    assert b"invalid_api_key" in answers.pop()


def test_scopes(authz: Authz, keyring: Keyring, provider: Provider):
    """The claims' scopes are all it may; none of ours is none at all."""
    assert authz.status(provider.token(scope="models:read")) == 403
    assert authz.status(provider.token(scope="openid email")) == 403
    models = provider.token(scope="openid models:read=tiny-*")
    assert authz.status(models, "/v1/models", "GET") == 200


def test_tenant_state(authz: Authz, keyring: Keyring, provider: Provider):
    """A JWT is no way around its tenant's suspension or end, once in use either."""
    token = provider.token()
    assert authz.status(token) == 200
    keyring.suspend_tenant("acme")
    eventually(403, lambda: authz.status(token), within=2)
    keyring.resume_tenant("acme")
    eventually(200, lambda: authz.status(token), within=2)
    keyring.delete_tenant("acme")
    eventually(401, lambda: authz.status(token), within=2)


def test_expires_while_remembered(authz: Authz, keyring: Keyring, provider: Provider):
    """The end of a JWT, with the leeway, holds to the moment."""
    token = provider.token(exp=time.time() - 30 + 0.6)
    assert authz.status(token) == 200

    eventually(401, lambda: authz.status(token), within=2)


def test_issuer_removed(
    authz: Authz, keyring: Keyring, provider: Provider, tmp_path: Path
):
    """An issuer taken out of tollhouse.yaml opens nothing, without a restart."""
    token = provider.token()
    assert authz.status(token) == 200
    write_config(tmp_path, {})

    eventually(401, lambda: authz.status(token), within=10)


def test_keys_that_were_never_there(
    tmp_path: Path, redis_url: str, keyring: Keyring, provider: Provider, free_port
):
    """Where the issuer's keys can't be had, nothing is said about its JWTs; keys go."""
    uri = f"http://127.0.0.1:{free_port()}/jwks"
    config = write_config(tmp_path, {"acme": _ISSUER | {"jwks_uri": uri}})
    key, _ = keyring.create_key("acme")
    with running_authz(tmp_path, redis_url, tmp_path / "pepper", config) as authz:
        denied = authz.check(provider.token()).denied_response
        assert denied.status.code == 503
        assert json.loads(denied.body)["error"]["code"] == "service_unavailable"
        assert authz.status(key) == 200
        assert authz.status(provider.token(iss="https://id.example.org")) == 401
