"""The pepper: the secret without which stored key digests are worth nothing."""

import hashlib
import stat
from pathlib import Path

# Below this a stolen Redis could be searched for the pepper itself.
SHORTEST_BYTES = 32
# BLAKE2b takes keys up to 64 bytes (RFC 7693 §2.1).
_LONGEST_BYTES = 64


class PepperError(Exception):
    """The pepper file can't be used; the text is one line with the remedy."""


class Pepper:
    """Turns keys into digests.

    A digest names the version of the pepper it was made with, so that a later pepper
    can live beside this one.
    """

    def __init__(self, secret: bytes, version: str = "v1") -> None:
        if len(secret) < SHORTEST_BYTES:
            raise ValueError(f"a pepper has at least {SHORTEST_BYTES} bytes")
        if len(secret) > _LONGEST_BYTES:
            secret = hashlib.blake2b(secret).digest()
        self._secret = secret
        self._prefix = f"{version}:"

    @classmethod
    def read(cls, path: Path) -> "Pepper":
        """Read the file; white space around its content is not part of it.

        Raises PepperError when it is missing, too short or open to everybody.
        """
        try:
            mode = path.stat().st_mode
            secret = path.read_bytes().strip()
        except OSError as error:
            raise PepperError(f"pepper file {path}: {error.strerror}") from error
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise PepperError(
                f"pepper file {path}: everybody on this machine can use it; "
                f"run `chmod o= {path}` (Kubernetes: defaultMode 0440)"
            )
        if len(secret) < SHORTEST_BYTES:
            raise PepperError(
                f"pepper file {path}: {len(secret)} bytes, needs {SHORTEST_BYTES} or "
                "more; `openssl rand -hex 32` makes good ones"
            )
        return cls(secret)

    def digest(self, key: str) -> str:
        """What is stored of a key, and looked up by."""
        keyed = hashlib.blake2b(key.encode(), digest_size=32, key=self._secret)
        return self._prefix + keyed.hexdigest()
