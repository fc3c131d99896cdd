"""Tokens with a good signature and odd contents, and odd texts of good tokens."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.identity.attacking import Attacks
from tests.integration.identity.provider import IDENTIFIER, Provider, key_file
from tollhouse.adapters.jwts import Jwts

ATTACKS = Attacks()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


async def test_none_passes():
    """Each row, beside a good token."""
    assert await ATTACKS.passing() == []
    assert len(ATTACKS.rows) > 150


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_no_other_text_is_the_same_token(tmp_path, algorithm):
    """One character changed, added or left out, and it is good no more.

    Unused bits at the end of a part among them: two texts must not be one token, or
    what is remembered of the one would not be found for the other.
    """
    them = Provider()
    issuer = them.issuer(key_file(tmp_path, them.jwks(algorithm)))
    token = them.token(algorithm)
    letters = st.sampled_from(LETTERS + ".=+/~ \n\0")
    tokens = Jwts(lambda: {"acme": issuer})
    with asyncio.Runner() as runner:
        assert runner.run(tokens.identify(token)) is not None

        @settings(max_examples=400, deadline=None)
        @given(st.integers(0, len(token) - 1), letters, st.sampled_from("=+-"))
        def changed(at, letter, how):
            end = at if how == "+" else at + 1
            other = token[:at] + ("" if how == "-" else letter) + token[end:]
            if other != token:
                assert runner.run(tokens.identify(other)) is None

        changed()
        # The last letters, where bits are unused, one by one.
        for at in (len(token) - 1, token.rindex(".") - 1, token.index(".") - 1):
            for letter in LETTERS:
                other = token[:at] + letter + token[at + 1 :]
                if other != token:
                    assert runner.run(tokens.identify(other)) is None


# --- the kid --------------------------------------------------------------------------

ATTACKS.each(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "file:///etc/passwd",
        "' OR 1=1 --",
        "RS256' UNION SELECT 'x",
        "RS256\0",
        "RS256 ",
        "rs256",
        "",
        "|whoami",
        "\r\nx: y",
        "{{7*7}}",
        "x" * 256,
        "x" * 1000,
        "\N{ARABIC LETTER ALEF}",
    ],
    lambda them, kid: them.token(header={"kid": kid}),
)
ATTACKS.each(
    "kid_is_no_text",
    [0, 1, True, [], ["RS256"], {"RS256": 1}, 1.5],
    lambda them, kid: them.token(header={"kid": kid}),
)
ATTACKS.each(
    "kid_null",
    [b'{"alg":"RS256","kid":null}'],
    lambda them, raw: them.token(raw_header=raw),
)

# --- the header -----------------------------------------------------------------------

ATTACKS.each(
    "crit",
    [[], ["exp"], ["b64"], ["crit"], ["http://example.invalid"], "exp", {}, None],
    lambda them, crit: them.token(
        raw_header=json.dumps({"alg": "RS256", "kid": "RS256", "crit": crit}).encode()
    ),
)
ATTACKS.each(
    "must_be_obeyed",
    [
        {"b64": False},
        {"b64": True},
        {"b64": False, "crit": ["b64"]},
        {"enc": "A128GCM"},
        {"zip": "DEF"},
    ],
    lambda them, header: them.token(header=header),
)


@ATTACKS.one
def payload_detached(them, uri):
    header = {"alg": "RS256", "kid": "RS256", "b64": False, "crit": ["b64"]}
    token = them.token(header=header)
    return token.replace(token.split(".")[1], "")


ATTACKS.each(
    "typ",
    [
        "secevent+jwt",
        "dpop+jwt",
        "logout+jwt",
        "JWE",
        "",
        "JWT ",
        "at+jwt+x",
        1,
        [],
        "text/html",
    ],
    lambda them, typ: them.token(header={"typ": typ}),
)
ATTACKS.each(
    "header_is_odd",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"RS256"',
        b'{"alg":"RS256","kid":"RS256"',
        b'{"alg":"RS256","kid":"RS256"}x',
        b'\xef\xbb\xbf{"alg":"RS256","kid":"RS256"}',
        '{"alg":"RS256","kid":"RS256"}'.encode("utf-16"),
        b'{"alg":"RS256","kid":"RS256","x":"\xff"}',
        b'{"alg":"RS256","kid":"RS256","x":NaN}',
        b'{"alg":"RS256","kid":"RS256","x":1e999}',
        b"{'alg':'RS256','kid':'RS256'}",
        b'{"alg":"none","alg":"RS256","kid":"RS256"}',
        b'{"alg":"RS256","alg":"none","kid":"RS256"}',
        b'{"alg":"RS256","kid":"RS256","kid":"RS256"}',
        b'{"alg":"RS256","kid":"RS256","\\u0061lg":"none"}',
        b'{"alg":"RS256","kid":"RS256","x":' + b"[" * 1200 + b"]" * 100 + b"}",
        b'{"alg":"RS256","kid":"RS256","x":'
        + b'{"a":' * 280
        + b"1"
        + b"}" * 280
        + b"}",
        b'{"alg":"RS256","kid":"RS256","x":"' + b"x" * 1600 + b'"}',
        b'{"Alg":"RS256","kid":"RS256"}',
    ],
    lambda them, raw: them.token(raw_header=raw),
)

# --- the claims -----------------------------------------------------------------------

ATTACKS.each(
    "audience",
    [
        "",
        "Tollhouse",
        "tollhouse ",
        "tollhouse,x",
        [],
        ["x"],
        ["toll", "house"],
        {},
        None,
        1,
        [["tollhouse"]],
        ["tollhouse", 1],
        True,
    ],
    lambda them, aud: them.token(aud=aud),
)
ATTACKS.each(
    "issuer",
    [
        "",
        IDENTIFIER + "/",
        IDENTIFIER.upper(),
        IDENTIFIER + " ",
        [IDENTIFIER],
        None,
        1,
        {},
        IDENTIFIER[:-1],
    ],
    lambda them, iss: them.token(iss=iss),
)
ATTACKS.each(
    "subject",
    ["", None, 1, [], ["user-1"], {}, True, "\ud800"],
    lambda them, sub: them.token(sub=sub),
)
ATTACKS.each(
    "expiry",
    [
        None,
        "",
        "9999999999",
        True,
        [],
        {},
        -1,
        0,
        1,
        1e300,
        10**30,
        -(10**30),
        253402300800,
        [9999999999],
    ],
    lambda them, exp: them.token(exp=exp),
)
ATTACKS.each(
    "expiry_as_odd_json",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"9" * 400,
        b"0x7fffffff",
        b"null",
        b"1_000_000_000_000",
    ],
    lambda them, raw: them.token(
        raw_claims=json.dumps(them.claims(exp=0))
        .encode()
        .replace(b'"exp": 0', b'"exp": ' + raw)
    ),
)
ATTACKS.each(
    "begin",
    ["0", True, [], {}, 1e300, -1, 10**30],
    lambda them, nbf: them.token(nbf=nbf),
)
ATTACKS.each(
    "issued_at",
    ["0", True, [], {}, 1e300, -1, 10**30],
    lambda them, iat: them.token(iat=iat),
)
ATTACKS.each(
    "tenant",
    [
        "",
        "ACME",
        "acme ",
        " acme",
        "acme\n",
        "acme}",
        "{acme",
        "acme|x",
        "a:b",
        "../x",
        "-acme",
        "a" * 65,
        "acm\N{LATIN SMALL LETTER E WITH ACUTE}",
        "\N{FULLWIDTH LATIN SMALL LETTER A}cme",
        "acme\0",
        None,
        1,
        True,
        [],
        ["acme"],
        {},
        {"acme": 1},
        "*",
    ],
    lambda them, org: them.token(org=org),
)
ATTACKS.each(
    "scopes_of_a_wrong_kind",
    [1, True, {}, {"chat:write": 1}, [1], [["chat:write"]], ["chat:write", None]],
    lambda them, scope: them.token(scope=scope),
)
ATTACKS.each(
    "claims_are_odd",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{",
        b"[" * 2000 + b"]" * 400,
        b'{"a":' * 450 + b"1" + b"}" * 100,
    ],
    lambda them, raw: them.token(raw_claims=raw),
)
ATTACKS.each(
    "claim_twice",
    [("org", "globex"), ("iss", "https://x"), ("exp", 1), ("sub", "x"), ("aud", "x")],
    lambda them, it: them.token(
        raw_claims=json.dumps(them.claims()).encode()[:-1]
        + f', "{it[0]}": {json.dumps(it[1])}}}'.encode()
    ),
)
ATTACKS.each(
    "claim_twice_first",
    [("org", "globex"), ("iss", "https://x")],
    lambda them, it: them.token(
        raw_claims=f'{{"{it[0]}": {json.dumps(it[1])}, '.encode()
        + json.dumps(them.claims()).encode()[1:]
    ),
)


@ATTACKS.one
def bound_to_a_key(them, uri):
    """RFC 9449: who has stolen it can't prove the key, and neither can a bearer."""
    return them.token(cnf={"jkt": "x"})


# --- the form -------------------------------------------------------------------------

ATTACKS.each(
    "form",
    [
        lambda it: it + ".",
        lambda it: "." + it,
        lambda it: it + ".x",
        lambda it: it.replace(".", "..", 1),
        lambda it: it.rsplit(".", 1)[0],
        lambda it: it.rsplit(".", 1)[0] + ".",
        lambda it: it + "=",
        lambda it: it + "==",
        lambda it: it.replace(".", "=.", 1),
        lambda it: it + "A" * (4096 - len(it) + 1),
        lambda it: it[:10] + "\n" + it[10:],
        lambda it: it + "\n",
        lambda it: " " + it,
        lambda it: it.replace("_", "/").replace("-", "+") + "+",
        lambda it: it + "\N{ARABIC-INDIC DIGIT ONE}",
        lambda it: it.split(".")[1],
        lambda it: "..",
        lambda it: "",
        lambda it: json.dumps(
            dict(zip(("protected", "payload", "signature"), it.split("."), strict=True))
        ),
    ],
    lambda them, change: change(them.token()),
)
