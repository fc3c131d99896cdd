"""`tollhouse up` whose Redis has one user more, who may change how often it syncs.

    python -m bench.up ...

The users of a deployment can't: that is a setting of Redis, not of Tollhouse.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.cli.__main__ import main
from tollhouse.cli.redis_users import RedisUsers

SYNCER = "syncer"


def syncer(url: str, folder: Path) -> RedisAccess:
    """The way in as that user; its password is no secret."""
    (password := folder / SYNCER).touch(mode=0o600)
    password.write_text(SYNCER)
    return RedisAccess(url, SYNCER, password)


def _with_syncer(acl: Callable[[RedisUsers, Path], str]) -> Any:
    return lambda users, redis: (
        f"{acl(users, redis)}user {SYNCER} on >{SYNCER} +config|set\n"
    )


if __name__ == "__main__":
    RedisUsers.acl = _with_syncer(RedisUsers.acl)  # type: ignore[method-assign]
    sys.exit(main(["up", *sys.argv[1:]]))
