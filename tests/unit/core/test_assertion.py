"""Claims to assertions: whom they speak for, what they allow, and which are refused."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.assertion import Assertion, assertion_of, subject_id
from tollhouse.core.identity import check_key_id, check_tenant, parse_scopes
from tollhouse.core.issuer import (
    Algorithm,
    Issuer,
    KeysAt,
    PlanFrom,
    ScopesFrom,
    TenantFrom,
)

NOW = 1_800_000_000.0
ISSUER = Issuer(
    name="idp",
    identifier="https://id.example.com",
    audiences=frozenset({"tollhouse", "other"}),
    keys=KeysAt(uri="https://id.example.com/keys"),
    algorithms=frozenset({Algorithm.RS256}),
    leeway_seconds=30,
    tenant=TenantFrom(("org",)),
    scopes=ScopesFrom(("scope",)),
)
CLAIMS: dict[str, Any] = {
    "iss": "https://id.example.com",
    "aud": "tollhouse",
    "sub": "user-1",
    "org": "acme",
    "exp": NOW + 60,
    "scope": "chat:write",
}


def read(issuer=ISSUER, /, **claims):
    return assertion_of(issuer, CLAIMS | claims, NOW)


def without(name):
    return {key: it for key, it in CLAIMS.items() if key != name}


def scopes(source, **claims):
    return " ".join(
        str(it) for it in read(replace(ISSUER, scopes=source), **claims).scopes
    )


def test_all_of_it():
    """What stands where; the leeway counts for the expiry."""
    issuer = replace(ISSUER, plan=PlanFrom(("plan",), frozenset({"pro"})))
    assert read(issuer, plan="pro", nbf=NOW, iat=NOW, extra=[1]) == Assertion(
        tenant="acme",
        subject_id=subject_id("https://id.example.com", "user-1"),
        plan="pro",
        scopes=parse_scopes("chat:write"),
        expires_at=NOW + 90,
    )


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp", "org"])
def test_what_a_token_needs(name):
    """Each alone; the text names it."""
    with pytest.raises(ValueError, match=rf"claim {name}"):
        assertion_of(ISSUER, without(name), NOW)


def test_scopes_are_not_needed():
    """Then nothing is allowed, which is for authorization to say."""
    assert assertion_of(ISSUER, without("scope"), NOW).scopes == ()


@pytest.mark.parametrize(
    ("claims", "is_good"),
    [
        ({"exp": NOW - 29.5}, True),
        ({"exp": NOW - 30}, False),
        ({"nbf": NOW + 30}, True),
        ({"nbf": NOW + 30.5}, False),
        ({"iat": NOW + 30}, True),
        ({"iat": NOW + 31}, False),
        ({"iat": 0, "exp": 253402300799}, True),
        ({"aud": ["x", "other"]}, True),
        ({"aud": ["x", "y"]}, False),
        ({"aud": ["tollhouse", None]}, False),
        ({"iss": "https://id.example.com/"}, False),
        ({"cnf": {}}, False),
    ],
)
def test_edges(claims, is_good):
    """Of times, and of what is compared."""
    if is_good:
        assert read(**claims)
    else:
        with pytest.raises(ValueError, match="claim"):
            read(**claims)


def test_tenant_by_a_map():
    """Only values of the map, and they may be anything."""
    issuer = replace(ISSUER, tenant=TenantFrom(("org",), {"Org 1/2": "acme"}))
    assert read(issuer, org="Org 1/2").tenant == "acme"
    with pytest.raises(ValueError, match="claim org"):
        read(issuer, org="acme")


def test_a_fixed_tenant():
    """No claim changes it."""
    assert read(replace(ISSUER, tenant="globex"), tenant="acme").tenant == "globex"


def test_claims_in_objects():
    """A name may have dots and slashes: a path is a list of names."""
    issuer = replace(
        ISSUER,
        tenant=TenantFrom(("kubernetes.io", "namespace")),
        scopes=ScopesFrom(("https://x/roles", "a.b")),
    )
    found = read(
        issuer,
        **{
            "kubernetes.io": {"namespace": "team-a"},
            "https://x/roles": {"a.b": ["chat:write"]},
        },
    )
    assert found.tenant == "team-a"
    assert found.scopes == parse_scopes("chat:write")
    oddities: list[Any] = [{}, [], "team-a", None, {"namespace": {"namespace": "x"}}]
    for odd in oddities:
        with pytest.raises(ValueError, match=r"claim kubernetes\.io\.namespace"):
            read(issuer, **{"kubernetes.io": odd})


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("chat:write models:read", "chat:write models:read"),
        (["chat:write", "models:read"], "chat:write models:read"),
        ("chat:write=tiny-* chat:write", "chat:write=tiny-* chat:write"),
        ("chat:write chat:write", "chat:write"),
        ("openid profile chat:write email", "chat:write"),
        ("admin:all CHAT:WRITE chat:write= chat chat:", ""),
        (["chat:write models:read"], ""),
        ("  chat:write  ", "chat:write"),
        ("chat:write\tmodels:read", ""),
        ("", ""),
        ([], ""),
        (None, ""),
    ],
)
def test_scopes_of_a_claim(claim, expected):
    """Text or a list; what is not ours is passed over."""
    assert scopes(ScopesFrom(("scope",)), scope=claim) == expected


def test_scopes_with_a_prefix():
    """What does not begin with it is meant for others."""
    source = ScopesFrom(("scope",), "tollhouse/")
    assert scopes(source, scope="tollhouse/chat:write models:read") == "chat:write"


def test_scopes_by_a_map():
    """Roles have any names; those of the map stand for scopes, and nothing else."""
    source = ScopesFrom(
        ("roles",),
        grants={
            "Chat Users": parse_scopes("chat:write=tiny-*"),
            "ops": parse_scopes("models:read usage:read"),
        },
    )
    found = scopes(source, roles=["ops", "Chat Users", "chat:write", "ops"])
    assert found == "models:read usage:read chat:write=tiny-*"


@pytest.mark.parametrize("odd", [1, True, {}, [1], ["chat:write", None]])
def test_scopes_of_a_wrong_kind(odd):
    """A provider that is set up wrong is told apart from one that allows nothing."""
    with pytest.raises(ValueError, match="claim scope"):
        read(scope=odd)


def test_plans():
    """None but those named; without the claim the tenant's counts."""
    issuer = replace(ISSUER, plan=PlanFrom(("plan",), frozenset({"pro"})))
    assert read(issuer).plan is None
    for odd in ("other", "", 1, ["pro"]):
        with pytest.raises(ValueError, match="claim plan"):
            read(issuer, plan=odd)
    assert read(plan="pro").plan is None


def test_subject_ids():
    """One per issuer and subject, in the form of a key id; where one ends is told.

    Always the same: usage and limits are kept by it.
    """
    assert subject_id("https://a", "u") == "jwti96jbv76z"
    assert subject_id("https://a", "u") != subject_id("https://b", "u")
    assert subject_id("ab", "c") != subject_id("a", "bc")
    found = {subject_id("https://a", f"user-{it}") for it in range(20_000)}
    assert len(found) == 20_000
    assert all(re.fullmatch("jwt[a-z0-9]{9}", it) for it in found)


VALUE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("\ud800")
)
JSON = (
    VALUE | st.lists(VALUE, max_size=3) | st.dictionaries(st.text(), VALUE, max_size=2)
)
ODD = st.dictionaries(
    st.sampled_from([*CLAIMS, "nbf", "iat", "cnf", "plan"]), JSON, max_size=3
)


@given(ODD)
def test_any_claims_are_read_or_refused(odd):
    """Never another error; what is read is fit for what comes after; no value shows."""
    issuer = replace(ISSUER, plan=PlanFrom(("plan",), frozenset({"pro"})))
    try:
        found = assertion_of(issuer, CLAIMS | odd, NOW)
    except ValueError as error:
        assert re.fullmatch(r"claim [a-z]+ [a-z :']+", str(error))  # noqa: PT017
        return
    assert check_tenant(found.tenant) == found.tenant
    assert check_key_id(found.subject_id) == found.subject_id
    assert NOW < found.expires_at <= 253402300799 + 30
    assert found.plan in (None, "pro")
