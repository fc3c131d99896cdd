"""Secrets we share with Stripe: the API key, the signing secret of a webhook.

They come from files only, never from the environment or the command line.
"""

import re
from pathlib import Path
from typing import NoReturn

from tollhouse.adapters.secret_file import openness

_PRINTABLE = re.compile(r"[!-~]{8,512}")


class SecretError(Exception):
    """A secret file can't be used; the text is one line with the remedy."""


class Secret:
    """A secret that does not show itself."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret()"

    def reveal(self) -> str:
        """The secret itself: only for the call that needs it."""
        return self._value


def read_api_key(path: Path) -> Secret:
    """Read a secret or restricted API key. Raises SecretError."""
    value = _read(path, "Stripe key file")
    if value.startswith(("pk_", "whsec_")):
        _refuse(
            f"Stripe key file {path}: it holds no secret key; those start with rk_"
            " (restricted) or sk_"
        )
    return Secret(value)


def read_signing_secret(path: Path) -> Secret:
    """Read what a webhook endpoint is signed with. Raises SecretError."""
    value = _read(path, "webhook secret file")
    if not value.startswith("whsec_"):
        _refuse(
            f"webhook secret file {path}: it holds no signing secret; Stripe shows the "
            "endpoint's, it starts with whsec_"
        )
    return Secret(value)


def _read(path: Path, what: str) -> str:
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise SecretError(f"{what} {path}: {error.strerror}") from error
    if wrong := openness(path, mode):
        _refuse(f"{what} {path}: {wrong}")
    value = content.decode("ascii", "replace").strip()
    if _PRINTABLE.fullmatch(value) is None:
        _refuse(
            f"{what} {path}: it holds no secret; put just the secret there, one line"
        )
    return value


def _refuse(text: str) -> NoReturn:
    raise SecretError(text)
