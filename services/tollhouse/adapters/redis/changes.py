"""What is said about tenants and keys as they change, and on which channels.

Nothing here is needed to be right, only to be quick: whoever missed a message looks
again when what it remembers is old. No message holds a secret.

    th:changed   `key <key id>`, `tenant <name>`: look again before you rely on it
    th:moved     `<digest> <digest>`: a key known by the first, an older pepper's, was
                 used and is to be kept by the second
"""

import re
from typing import Final

_CHANGE = re.compile(r"key [a-z0-9]{12}|tenant [a-z0-9-]{1,64}")

CHANGED: Final = "th:changed"
MOVED: Final = "th:moved"


def key_changed(key_id: str) -> str:
    """The message that a key was made, changed or ended."""
    return f"key {key_id}"


def tenant_changed(name: str) -> str:
    """The message that a tenant, and so all its keys, changed."""
    return f"tenant {name}"


def is_change(message: str) -> bool:
    """Whether a message of `th:changed` is one of these two."""
    return _CHANGE.fullmatch(message) is not None


def key_seen(old: str, new: str) -> str:
    """The message that a key was used and is kept under an older pepper's digest."""
    return f"{old} {new}"
