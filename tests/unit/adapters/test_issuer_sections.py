"""The issuers of tollhouse.yaml: turned into values, or refused with a remedy."""

from pathlib import Path

import pytest
import yaml

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.core.identity import parse_scopes
from tollhouse.core.issuer import (
    DEFAULT_ALGORITHMS,
    Algorithm,
    Issuer,
    KeysAt,
    PlanFrom,
    ScopesFrom,
    TenantFrom,
)

MODEL = {
    "cluster": "c",
    "operations": ["chat"],
    "context": 100,
    "default_output_tokens": 10,
    "max_output_tokens": 50,
}
URI = "https://id.example.com/keys"
ISSUER = {
    "issuer": "https://id.example.com",
    "audiences": ["tollhouse"],
    "jwks_uri": URI,
    "tenant": {"claim": "org"},
    "scopes": {"claim": "scope"},
}


@pytest.fixture
def read(tmp_path: Path):
    """Load a file with these issuers; its catalog's."""

    def load_(*issuers, **changes):
        sections = issuers or [ISSUER | changes]
        (tmp_path / "keys.json").write_text("{}")
        (tmp_path / "ca.pem").write_text("")
        path = tmp_path / "tollhouse.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "models": {"m": MODEL},
                    "plans": {"p": {}, "q": {}},
                    "issuers": {
                        f"i{at}": {k: v for k, v in it.items() if v is not None}
                        for at, it in enumerate(sections)
                    },
                }
            )
        )
        return load(path).catalog().issuers

    return load_


def test_the_least_that_is_needed(read):
    """The defaults are written out here."""
    assert read() == {
        "i0": Issuer(
            name="i0",
            identifier="https://id.example.com",
            audiences=frozenset({"tollhouse"}),
            keys=KeysAt(uri=URI),
            algorithms=frozenset({Algorithm.RS256, Algorithm.ES256}),
            leeway_seconds=30,
            tenant=TenantFrom(("org",)),
            scopes=ScopesFrom(("scope",)),
        )
    }
    assert frozenset(DEFAULT_ALGORITHMS) == read()["i0"].algorithms


def test_everything(read, tmp_path):
    """Each field, in the shorter of its forms."""
    found = read(
        audiences="a",
        jwks_ca_file="ca.pem",
        algorithms="EdDSA",
        leeway_seconds=0,
        tenant={"claim": ["a.b", "c"], "map": {"Org 1": "acme"}},
        scopes={
            "claim": "roles",
            "prefix": "t/",
            "map": {"user": "chat:write", "ops": ["models:read", "usage:read"]},
        },
        plan={"claim": "plan", "allowed": ["p", "q"]},
    )["i0"]
    assert found.audiences == {"a"}
    assert found.keys == KeysAt(uri=URI, ca_file=tmp_path / "ca.pem")
    assert found.algorithms == {Algorithm.EDDSA}
    assert found.leeway_seconds == 0
    assert found.tenant == TenantFrom(("a.b", "c"), {"Org 1": "acme"})
    assert found.scopes == ScopesFrom(
        ("roles",),
        "t/",
        {
            "user": parse_scopes("chat:write"),
            "ops": parse_scopes("models:read usage:read"),
        },
    )
    assert found.plan == PlanFrom(("plan",), frozenset({"p", "q"}))


def test_what_is_the_same_for_all_tokens(read, tmp_path):
    """A fixed tenant and scopes, and keys of a file beside ours."""
    found = read(
        jwks_uri=None,
        jwks_file="keys.json",
        tenant={"name": "acme"},
        scopes={"grant": "chat:write models:read"},
    )["i0"]
    assert found.keys == KeysAt(file=tmp_path / "keys.json")
    assert found.tenant == "acme"
    assert found.scopes == parse_scopes("chat:write models:read")


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:8080/keys",
        "http://localhost/keys",
        "http://[::1]:1/keys",
        "https://id.example.com:8443/keys?p=b2c",
    ],
)
def test_uris_that_are_safe(read, uri):
    """TLS, or no network in between."""
    assert read(jwks_uri=uri)["i0"].keys.uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://id.example.com/keys",
        "http://10.0.0.1/keys",
        "http://localhost.example.com/keys",
        "http://127.0.0.1.example.com/keys",
        "http://127.0.0.1@example.com/keys",
        "https://user:secret@id.example.com/keys",
        "https:///keys",
        "https://id.example.com:x/keys",
        "https://id.example.com/keys#x",
        "https://id.example.com/k\n",
        "ftp://id.example.com/keys",
        "file:///etc/keys",
        "//id.example.com/keys",
        "id.example.com",
        "",
    ],
)
def test_uris_that_are_not(read, uri):
    """Who can change keys on their way can make tokens."""
    with pytest.raises(ConfigurationError, match=r"issuers\.i0\.jwks_uri: use https"):
        read(jwks_uri=uri)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"audience": "x"}, "audience: unknown field; did you mean `audiences`"),
        ({"jwks_url": "x"}, "jwks_url: unknown field; did you mean `jwks_uri`"),
        ({"tenant": {"clam": "x"}}, "tenant.clam: unknown field; did you mean `claim`"),
        ({"plan": {"allow": 1}}, "plan.allow: unknown field; did you mean `allowed`"),
        ({"issuer": ""}, "issuer: "),
        ({"issuer": "https://x y"}, "issuer: "),
        ({"audiences": None}, "audiences: Field required"),
        ({"audiences": []}, "audiences: "),
        ({"audiences": [""]}, "audiences.0: "),
        ({"audiences": 1}, "audiences: "),
        ({"algorithms": []}, "algorithms: "),
        ({"algorithms": ["RS256", "HS256"]}, "algorithms.1: use RS256, "),
        ({"algorithms": "none"}, "algorithms.0: use RS256, "),
        ({"algorithms": ["None"]}, "algorithms.0: use RS256, "),
        ({"algorithms": ["ES256K"]}, "algorithms.0: use RS256, "),
        ({"leeway_seconds": 61}, "leeway_seconds: "),
        ({"leeway_seconds": -1}, "leeway_seconds: "),
        ({"leeway_seconds": True}, "leeway_seconds: "),
        ({"jwks_uri": None}, "set jwks_uri or jwks_file"),
        ({"jwks_file": "keys.json"}, "set jwks_uri or jwks_file"),
        ({"jwks_uri": None, "jwks_file": "nowhere"}, "jwks_file: no file "),
        ({"jwks_ca_file": "nowhere"}, "jwks_ca_file: no file "),
        (
            {"jwks_uri": None, "jwks_file": "keys.json", "jwks_ca_file": "ca.pem"},
            "jwks_ca_file is for",
        ),
        ({"tenant": {}}, "tenant: set claim, or name"),
        ({"tenant": {"claim": "x", "name": "y"}}, "tenant: set claim, or name"),
        ({"tenant": {"name": "y", "map": {}}}, "tenant: map turns"),
        ({"tenant": {"name": "UPPER"}}, "tenant.name: tenant name"),
        ({"tenant": {"claim": []}}, "tenant.claim: "),
        ({"tenant": {"claim": "x", "map": {"a": "A"}}}, "tenant.map.a: tenant name"),
        ({"scopes": {}}, "scopes: set claim, or grant"),
        ({"scopes": {"claim": "x", "grant": ["chat:write"]}}, "scopes: set claim, or"),
        ({"scopes": {"grant": "chat:write", "prefix": "x"}}, "scopes: map and prefix"),
        ({"scopes": {"grant": []}}, "scopes.grant: a key needs at least one scope"),
        ({"scopes": {"grant": "a:b"}}, "scopes.grant: unknown scope"),
        ({"scopes": {"claim": "x", "map": {"r": "a"}}}, "scopes.map.r: scope 'a'"),
        ({"plan": {"claim": "x", "allowed": []}}, "plan.allowed: "),
        (
            {"plan": {"claim": "x", "allowed": ["z"]}},
            "plan.allowed: there is no plan z",
        ),
    ],
)
def test_faults(read, changes, fault):
    """With the path and what to do."""
    with pytest.raises(ConfigurationError) as caught:
        read(**changes)
    assert fault in str(caught.value)
    assert "issuers.i0" in str(caught.value)


def test_an_issuer_is_given_once(read):
    """A token has one, and it must be told whose entry counts."""
    with pytest.raises(ConfigurationError, match=r"i1\.issuer: is that of issuers\.i0"):
        read(ISSUER, ISSUER)
