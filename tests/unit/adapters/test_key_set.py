"""Signatures by others' hands: the examples of the standards."""

import json

import pytest

from tollhouse.adapters.key_set import KeySet
from tollhouse.core.issuer import Algorithm

EXAMPLES = {
    # RFC 7515 A.3
    Algorithm.ES256: (
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        },
        (
            "eyJhbGciOiJFUzI1NiJ9"
            ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
            "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
            ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA"
            "pmWQxfKTUJqPP3-Kg6NU1Q"
        ),
    ),
    # RFC 8037 A.4
    Algorithm.EDDSA: (
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        },
        (
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
            ".hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5B"
            "hVsPt9g7sVvpAr_MuM0KAg"
        ),
    ),
}


@pytest.mark.parametrize("algorithm", EXAMPLES)
def test_an_example_is_signed(algorithm):
    """And is not, once anything is changed."""
    jwk, token = EXAMPLES[algorithm]
    key = KeySet(json.dumps({"keys": [jwk]}).encode()).find(None, algorithm)
    assert key is not None
    assert key.has_signed(token)
    header, payload, signature = token.split(".")
    assert not key.has_signed(f"{header}.{payload[:-4]}AAAA.{signature}")
    assert not key.has_signed(f"{header}.{payload}.AAAA{signature[4:]}")
    for other in Algorithm:
        if other != algorithm:
            keys = KeySet(json.dumps({"keys": [jwk]}).encode())
            assert keys.find(None, other) is None
