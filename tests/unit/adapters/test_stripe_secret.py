"""Secrets of Stripe come from files, and stay there."""

from pathlib import Path

import pytest

from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.secret import (
    Secret,
    SecretError,
    read_api_key,
    read_signing_secret,
)


def written(folder: Path, content: str | bytes, mode: int = 0o640) -> Path:
    path = folder / "secret"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def test_white_space_around_a_key_is_not_part_of_it(tmp_path: Path):
    key = read_api_key(written(tmp_path, "  rk_test_standin\n"))

    assert key.reveal() == "rk_test_standin"
    assert "standin" not in f"{key} {key!r} {[key]}"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("", 0o600, "it holds no secret"),
        ("rk_test_a rk_test_b", 0o600, "it holds no secret"),
        ("rk_test_a\nrk_test_b", 0o600, "it holds no secret"),
        (b"rk_test_\xff\xfe\xfd", 0o600, "it holds no secret"),
        ("rk_test_standin", 0o644, "chmod o="),
        ("pk_test_standin", 0o600, "it holds no secret key"),
        ("whsec_standin", 0o600, "it holds no secret key"),
    ],
)
def test_a_key_file_that_is_wrong_says_so(tmp_path: Path, content, mode, said):
    """With the remedy, and without what is in it."""
    path = written(tmp_path, content, mode)

    with pytest.raises(SecretError, match=said) as raised:
        read_api_key(path)
    assert str(path) in str(raised.value)
    assert "standin" not in str(raised.value)


def test_a_missing_key_file(tmp_path: Path):
    with pytest.raises(SecretError, match="No such file"):
        read_api_key(tmp_path / "none")


def test_a_signing_secret_is_one(tmp_path: Path):
    """An API key in its place would let nobody's signature through."""
    assert read_signing_secret(written(tmp_path, "whsec_standin")).reveal()
    with pytest.raises(SecretError, match="starts with whsec_"):
        read_signing_secret(written(tmp_path, "rk_test_standin"))


@pytest.mark.parametrize(
    "url",
    [
        "http://stripe.example",
        "http://127.0.0.1.example",
        "ftp://127.0.0.1",
        "stripe.example",
        "https://user:pw@stripe.example",
        "https://",
        "https://host:port",
        "https://host?a=b",
    ],
)
def test_the_key_goes_nowhere_else(url):
    """Not in clear over a network, not to what is no URL."""
    with pytest.raises(ValueError, match=r"URL|https|port"):
        Client(Secret("rk_test_standin"), url=url)
