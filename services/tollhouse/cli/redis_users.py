"""The users of the stack's own Redis: their passwords, and its ACL file.

What each may do is written in deploy/redis/users.acl; the ACL file is made of that as
deploy/redis/render.sh does.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tollhouse.adapters.redis.access import AccessError, RedisAccess
from tollhouse.cli import places
from tollhouse.cli.unusable import UnusableError

USERS: Final = ("authz", "extproc", "billing", "admin", "operator")
OPERATOR: Final = "operator"
"""Who the command line is."""
FIRST_WITH_SELECTORS: Final = (7, 0)
_PLACE = re.compile(r"#<([a-z]+)>")


class RedisUsers:
    """A folder with a password file for each user."""

    def __init__(self, folder: Path) -> None:
        """Take a folder as it is; nothing is read."""
        self.folder = folder

    def password_file(self, user: str) -> Path:
        """The file with a user's password."""
        return self.folder / user

    def access(self, url: str, user: str) -> RedisAccess:
        """The way to the Redis of these users as one of them."""
        return RedisAccess(url, user, self.password_file(user))

    def password(self, user: str) -> str:
        """A user's password. Raises UnusableError."""
        try:
            return self.access("unix://", user).credentials()[-1]
        except AccessError as error:
            raise UnusableError(str(error)) from error

    def acl(self, redis: Path) -> str:
        """The ACL file for a redis-server. Raises UnusableError."""
        passwords = {it: self.password(it) for it in USERS}
        return render(
            places.redis_users().read_text("utf-8"),
            passwords,
            selectors=places.redis_version(redis) >= FIRST_WITH_SELECTORS,
        )


def render(template: str, passwords: Mapping[str, str], *, selectors: bool) -> str:
    """Fill users.acl in. Without `selectors`, for 6.2, a user's rights are one list.

    Raises KeyError for a user without a password.
    """
    lines: list[str] = []
    for line in template.splitlines():
        if line.startswith(" "):
            lines[-1] += f" {line.strip()}"
        elif line and not line.startswith("#"):
            lines.append(line)
    text = "\n".join(lines) + "\n"
    if not selectors:
        text = re.sub(r"%RW?~", "~", text.translate({ord(it): None for it in "()"}))
    return _PLACE.sub(lambda it: f"#{_sha256(passwords[it[1]])}", text)


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
