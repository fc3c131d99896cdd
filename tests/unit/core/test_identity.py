"""Grammar of keys, headers, tenants and scopes; what scopes allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core import identity
from tollhouse.core.identity import (
    Credential,
    Permission,
    Principal,
    Scope,
    parse_networks,
)

KEY_ID = "abc123def456"
KEY = f"th_{KEY_ID}_{'aB3' * 14}x"


def principal(scopes: str) -> Principal:
    return Principal("acme", KEY_ID, "demo", identity.parse_scopes(scopes))


def key_of(authorization: str) -> str | None:
    """The key in a header, as authz finds it."""
    bearer = identity.bearer_of(authorization)
    return bearer if bearer is not None and identity.is_key(bearer) else None


@pytest.mark.parametrize(
    ("authorization", "api_key", "found"),
    [
        (f"Bearer {KEY}", None, KEY),
        (None, KEY, KEY),
        (f"Bearer {KEY}", KEY, KEY),
        (None, None, None),
        ("", KEY, None),
        (KEY, KEY, None),
        (f"Bearer {KEY}", f"{KEY[:-1]}y", None),
        (f"Bearer {KEY}", "", None),
        (f"Bearer {KEY}, Bearer {KEY}", KEY, None),
        (None, f"{KEY},{KEY}", None),
        (None, f"Bearer {KEY}", None),
        (None, f" {KEY}", None),
        (None, f"{KEY}\n", None),
        (None, "short", None),
    ],
)
def test_credential_of(authorization, api_key, found):
    """One header or the other, or both with the same key; nothing is trimmed."""
    assert identity.credential_of(authorization, api_key) == found


def test_key_of():
    """Exactly one well-formed bearer key is a key."""
    assert key_of(f"Bearer {KEY}") == KEY
    assert identity.key_id_of(KEY) == KEY_ID


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"bearer {KEY}",
        f"BEARER {KEY}",
        f"Basic {KEY}",
        f"Bearer  {KEY}",
        f"Bearer\t{KEY}",
        f" Bearer {KEY}",
        f"Bearer {KEY} ",
        f"Bearer {KEY}\n",
        f"Bearer {KEY}\r\nx: y",
        f"Bearer {KEY}\0",
        f"Bearer {KEY} x: y",  # a folded header line
        f"Bearer {KEY},Bearer {KEY}",  # two headers, joined by Envoy
        f"Bearer {KEY},",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY[:-1]}_",
        f"Bearer {KEY[:-1]}é",
        f"Bearer {KEY[:-1]}\N{ARABIC-INDIC DIGIT ONE}",
        f"Bearer {KEY.upper()}",
        f"Bearer th-{KEY[3:]}",
        f"Bearer th_{KEY_ID[:-1]}_{'a' * 43}",
        f"Bearer th_{KEY_ID}__{'a' * 42}",
        f"Bearer th_{KEY_ID}_{'a' * 20}:{'a' * 22}",
        "Bearer " + "a" * 19,
        "Bearer " + "a" * 65_536,
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.",
        'Bearer "' + KEY + '"',
    ],
)
def test_no_key(value: str):
    """Anything else is none: never trimmed, never the first of two."""
    assert key_of(value) is None


def test_check_key_id():
    """A whole key pasted in place of its id is refused and not shown."""
    assert identity.check_key_id(KEY_ID) == KEY_ID
    with pytest.raises(ValueError, match="between its underscores") as raised:
        identity.check_key_id(KEY)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("name", ["a", "acme", "acme-2", "0" * 64])
def test_tenant(name: str):
    """Tenant names: 1 to 64 of [a-z0-9-], beginning with no dash."""
    assert identity.check_tenant(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-",
        "-a",
        "a" * 65,
        "Acme",
        "a b",
        "a_b",
        "a{b}",
        "a:b",
        "a\n",
        "a\0",
        "é",
        "'",
        "a|b",
    ],
)
def test_bad_tenant(name: str):
    """Nothing that could mean something in a Redis key or a record."""
    with pytest.raises(ValueError, match="1 to 64"):
        identity.check_tenant(name)


@pytest.mark.parametrize(
    ("pattern", "model", "expected"),
    [
        ("tiny-chat", "tiny-chat", True),
        ("tiny-chat", "tiny-chat2", False),
        ("tiny-*", "tiny-chat", True),
        ("tiny-*", "tiny-", True),
        ("tiny-*", "tiny", False),
        ("tiny-*", "my-tiny-chat", False),
        ("*-chat", "tiny-chat", True),
        ("*-chat", "tiny-chat-2", False),
        ("*", "anything", True),
        ("*", "", True),
        ("**", "anything", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("a*b*c", "ac", False),
        ("a*a", "a", False),
        ("ab*ba", "aba", False),
        ("a*bc*c", "abc", False),
        # What other globs give a meaning stands for itself:
        ("llama-3.1", "llama-3x1", False),
        ("org/*", "org/a/b", True),
    ],
)
def test_pattern(pattern: str, model: str, expected: bool):
    """`*` is the only wildcard."""
    assert Scope("chat", "write", pattern).covers(model) == expected


def slow_match(pattern: str, name: str) -> bool:
    """Say the same by trying every way."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(slow_match(pattern[1:], name[i:]) for i in range(len(name) + 1))
    return name[:1] == pattern[0] and slow_match(pattern[1:], name[1:])


@given(st.text("ab*", min_size=1, max_size=6), st.text("ab", max_size=8))
def test_pattern_model(pattern: str, name: str):
    """The linear match agrees with the definition."""
    assert Scope("chat", "write", pattern).covers(name) == slow_match(pattern, name)


@pytest.mark.parametrize(
    ("scopes", "permission", "model", "expected"),
    [
        ("chat:write", "chat:write", "tiny-chat", True),
        ("chat:write", "completions:write", "tiny-chat", False),
        ("chat:write=tiny-*", "chat:write", "tiny-chat", True),
        ("chat:write=tiny-*", "chat:write", "large", False),
        ("chat:write=a chat:write=b", "chat:write", "b", True),
        ("chat:read", "chat:write", "tiny-chat", False),
        ("models:read", "chat:write", "tiny-chat", False),
        ("completions:write=tiny-* chat:write=big", "chat:write", "tiny-chat", False),
        ("", "chat:write", "tiny-chat", False),
    ],
)
def test_covers(scopes: str, permission: str, model: str, expected: bool):
    """A model is covered by a scope of the same permission only."""
    assert identity.covers(principal(scopes), permission, model) == expected


@pytest.mark.parametrize(
    ("scopes", "permission", "expected"),
    [
        ("chat:write", Permission.CHAT_WRITE, True),
        ("chat:write=tiny-*", Permission.CHAT_WRITE, True),
        ("chat:write", Permission.MODELS_READ, False),
        ("chat:writer", Permission.CHAT_WRITE, False),
        ("", Permission.CHAT_WRITE, False),
    ],
)
def test_may(scopes: str, permission: Permission, expected: bool):
    """A permission is held or not, whatever its models."""
    assert identity.may(principal(scopes), permission) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "chat",
            "chat:",
            ":write",
            "chat:write=",
            "Chat:write",
            "a:b:c",
            "chat-x:write",
        ),
        *(
            "chat:write=a,b",
            "chat:write=a=b",
            "chat:write=é",
            "chat:write=" + "a" * 129,
        ),
    ],
)
def test_bad_scope(text: str):
    """A scope that is no scope is named in the refusal."""
    with pytest.raises(ValueError, match="write operation:action"):
        identity.parse_scopes(f"models:read {text}")


def test_scopes_survive():
    """Text to scopes and back, unknown permissions kept."""
    text = "chat:write=tiny-* tune:write models:read"

    assert " ".join(str(scope) for scope in identity.parse_scopes(text)) == text


def test_check_scopes():
    """A new key's scopes: known ones, each once, in the order given."""
    expected = "chat:write=a-* models:read"

    assert identity.check_scopes(["chat:write=a-* models:read", "models:read"]) == (
        expected
    )


@pytest.mark.parametrize(
    ("scopes", "reason"),
    [(["chat:wrte"], "unknown scope 'chat:wrte'; known: chat:write"), ([], "at least")],
)
def test_check_scopes_refuses(scopes: list[str], reason: str):
    """A mistyped scope would silently allow nothing: it is refused instead."""
    with pytest.raises(ValueError, match=reason):
        identity.check_scopes(scopes)


def test_default_scopes():
    """What a key gets without --scope is valid."""
    assert identity.check_scopes([identity.DEFAULT_SCOPES]) == identity.DEFAULT_SCOPES


@pytest.mark.parametrize(
    ("expires_at", "expected"),
    [(None, False), (99.9, True), (100.0, True), (101, False)],
)
def test_expiry(expires_at: float | None, expected: bool):
    """A key is gone at its expiry, not after it."""
    credential = Credential(principal(""), expires_at, is_suspended=False)

    assert credential.is_expired(100.0) == expected


@pytest.mark.parametrize(
    ("networks", "address", "expected"),
    [
        ("", "203.0.113.7", True),
        ("", "/run/a.sock", True),
        ("203.0.113.0/24", "203.0.113.7", True),
        ("203.0.113.0/24", "203.0.114.7", False),
        ("203.0.113.0/24", "::ffff:203.0.113.7", True),
        ("::ffff:203.0.113.7", "203.0.113.7", True),
        ("::ffff:203.0.113.0/120", "203.0.113.7", True),
        ("::ffff:203.0.113.0/120", "::ffff:203.0.113.7", True),
        ("::ffff:203.0.113.0/120", "203.0.114.7", False),
        ("203.0.113.0/24", "", False),
        ("203.0.113.0/24", "/run/a.sock", False),
        ("203.0.113.0/24", "203.0.113.7:443", False),
        ("203.0.113.0/24", "203.0.113.7, 10.0.0.1", False),
        ("10.0.0.0/8 2001:db8::/32", "2001:db8:1::5", True),
        ("10.0.0.0/8 2001:db8::/32", "2001:db9::5", False),
        ("10.0.0.0/8 2001:db8::/32", "10.255.255.255", True),
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
def test_networks(networks: str, address: str, expected: bool):
    """A bound key is good from its networks only, whatever the peer is written as."""
    credential = Credential(
        principal(""), None, is_suspended=False, networks=parse_networks(networks)
    )

    assert credential.admits(address) == expected


def test_check_networks():
    """Networks are kept in their shortest form, each once."""
    assert (
        identity.check_networks(["10.0.0.0/8 2001:DB8:0::/32", "10.0.0.0/8"])
        == "10.0.0.0/8 2001:db8::/32"
    )
    assert identity.check_networks(["::ffff:10.0.0.0/104"]) == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "write an address or a prefix"),
        ("example.com", "write an address or a prefix"),
        ("0.0.0.0/0", "everybody: leave it out"),
        ("::/0", "everybody: leave it out"),
        ("::ffff:0:0/96", "network 0.0.0.0/0 is everybody"),
        ("::ffff:203.0.113.7/120", "write 203.0.113.0/24"),
    ],
)
def test_check_networks_refuses(network: str, reason: str):
    """What can't be meant is refused with the remedy."""
    with pytest.raises(ValueError, match=reason):
        identity.check_networks([network])
