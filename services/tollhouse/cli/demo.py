"""The demo tenant and its key, so that a first request needs no preparation."""

import contextlib
import time
from pathlib import Path

from tollhouse.adapters.configuration import Configuration
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.records import ACTIVE
from tollhouse.cli.state import write_secret

TENANT = "demo"
"""Also the name of its plan, where the configuration has one of that name."""


def demo_key(
    redis_url: str, pepper: Path, kept_in: Path, configuration: Configuration
) -> str:
    """Return the demo tenant's key: the last start's, if it still opens.

    A new one is made when the file is gone, or Redis does not know it any more.
    Raises Unavailable, PepperError.
    """
    keyring = Keyring(redis_url, Pepper.read(pepper), clock=time.time)
    with contextlib.closing(keyring):
        with contextlib.suppress(FileNotFoundError):
            kept = kept_in.read_text("utf-8", errors="replace").strip()
            found = keyring.find(kept)
            if found is not None and found.state(time.time()) == ACTIVE:
                kept_in.chmod(0o600)
                return kept
        if all(tenant.name != TENANT for tenant in keyring.tenants()):
            plans = configuration.plans
            keyring.create_tenant(TENANT, TENANT if TENANT in plans else min(plans))
        key, _ = keyring.create_key(TENANT, label="made by tollhouse up")
    write_secret(kept_in, key)
    return key
