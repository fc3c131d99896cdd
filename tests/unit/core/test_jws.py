"""Taking tokens apart: one way to write each, and nothing shown of what is refused."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.issuer import Algorithm
from tollhouse.core.jws import LONGEST_HEADER, LONGEST_TOKEN, is_jwt, take_apart

HEADER = {"alg": "ES256", "kid": "k"}
CLAIMS = {"iss": "https://id.example.com", "sub": "x"}


def encode(part):
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(header=HEADER, claims=CLAIMS, signature=b"signature"):
    return f"{encode(header)}.{encode(claims)}.{encode(signature)}"


def test_the_parts():
    """As they are; the signature is not judged here."""
    found = take_apart(token())
    assert found.algorithm is Algorithm.ES256
    assert found.key_id == "k"
    assert found.issuer == CLAIMS["iss"]
    assert found.claims == CLAIMS
    assert take_apart(token({"alg": "EdDSA"})).key_id is None


@given(st.binary(min_size=1, max_size=8))
def test_base64url_is_written_in_one_way(signature):
    """Unused bits are zero (RFC 4648 §3.5): two texts are never one token."""
    good = token(signature=signature)
    take_apart(good)
    text = encode(signature)
    twins = {
        text[:-1] + letter
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if base64.urlsafe_b64decode(text[:-1] + letter + "=" * (-len(text) % 4))
        == signature
    }
    assert len(twins) == {0: 1, 1: 16, 2: 4}[len(signature) % 3]
    for twin in twins - {text}:
        with pytest.raises(ValueError, match="written in another way"):
            take_apart(good.removesuffix(text) + twin)


@pytest.mark.parametrize("name", ["crit", "b64", "enc", "zip"])
@pytest.mark.parametrize("value", [None, True, False, [], ["b64"], "x"])
def test_headers_that_must_be_obeyed(name, value):
    """Whatever they say: we would have to know it."""
    with pytest.raises(ValueError, match=name):
        take_apart(token(HEADER | {name: value}))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"alg":"ES256","alg":"ES256"}',
        b'{"alg":"ES256","x":{"a":1,"a":2}}',
        b'{"alg":"ES256","x":NaN}',
        b'{"alg":"ES256","x":-1e999}',
        b'{"alg":"ES256"} ]',
        b'\xef\xbb\xbf{"alg":"ES256"}',
        '{"alg":"ES256"}'.encode("utf-16"),
        b"[" * 1500,
        b"\xff",
        b"1",
    ],
)
def test_json_that_can_be_read_in_two_ways(raw):
    """In the header and in the claims alike, at any depth."""
    with pytest.raises(ValueError, match=r"name|number|JSON|object"):
        take_apart(token(header=raw))
    with pytest.raises(ValueError, match=r"name|number|JSON|object"):
        take_apart(token(claims=raw.replace(b'"alg"', b'"iss"')))


def test_sizes():
    """At the edges: of the header and of the whole."""
    room = LONGEST_HEADER * 3 // 4 - len(json.dumps(HEADER | {"x": ""}))
    take_apart(token(HEADER | {"x": "x" * room}))
    with pytest.raises(ValueError, match="header is too long"):
        take_apart(token(HEADER | {"x": "x" * (room + 1)}))
    whole = token()
    longest = whole + "A" * (LONGEST_TOKEN - len(whole))
    assert is_jwt(longest)
    assert not is_jwt(longest + "A")
    with pytest.raises(ValueError, match="not a signed token"):
        take_apart(longest + "A")


@given(st.text(max_size=200) | st.binary(max_size=200).map(encode))
def test_any_text(text):
    """Is a token or a ValueError whose text says nothing of it."""
    for odd in (text, f"{text}.{text}.{text}", f"{encode(HEADER)}.{text}.AAAA"):
        try:
            take_apart(odd)
        except ValueError as error:
            assert len(str(error)) < 60  # noqa: PT017
            assert type(error) is ValueError  # noqa: PT017
