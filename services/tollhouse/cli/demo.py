"""The demo tenant and its key, so that a first request needs no preparation."""

import contextlib
import itertools
import time
from pathlib import Path

from tollhouse.adapters.configuration import Configuration
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.records import ACTIVE, DELETED
from tollhouse.cli.state import write_secret
from tollhouse.core.identity import DEFAULT_SCOPES, Permission

TENANT = "demo"
"""Also the name of its plan, where the configuration has one of that name."""


def demo_key(
    redis: RedisAccess, pepper: Path, kept_in: Path, configuration: Configuration
) -> str:
    """Return the demo tenant's key: the last start's, if it still opens.

    A new one is made when the file is gone, or Redis does not know it any more.
    Raises Unavailable, PepperError.
    """
    keyring = Keyring(redis, Pepper.read(pepper), who="up", clock=time.time)
    with contextlib.closing(keyring):
        with contextlib.suppress(FileNotFoundError):
            kept = kept_in.read_text("utf-8", errors="replace").strip()
            found = keyring.find(kept)
            if found is not None and found.state(time.time()) == ACTIVE:
                kept_in.chmod(0o600)
                return kept
        tenant = _demo_tenant(keyring, configuration)
        key, _ = keyring.create_key(
            tenant,
            scopes=f"{DEFAULT_SCOPES} {Permission.INFER_WRITE}",
            labels=["made by tollhouse up"],
        )
    write_secret(kept_in, key)
    return key


def _demo_tenant(keyring: Keyring, configuration: Configuration) -> str:
    """Find or make it; one that was deleted has a successor, as its name is gone."""
    states = {it.name: it.state for it in keyring.tenants(deleted=True)}
    names = itertools.chain([TENANT], (f"{TENANT}-{n}" for n in itertools.count(2)))
    name = next(it for it in names if states.get(it) != DELETED)
    if name not in states:
        plans = configuration.plans
        keyring.create_tenant(name, TENANT if TENANT in plans else min(plans))
    return name
