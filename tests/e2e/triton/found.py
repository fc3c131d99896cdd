"""What the ledger and the engine's own log have of a test."""

import json
from collections import defaultdict
from typing import Any

from tests.e2e.main import books

FREED_SECONDS = 0.2
"""How soon the engine is free of a client that left."""


def truth(stack) -> dict[str, list[dict[str, Any]]]:
    """The engine's log by the ids that clients gave."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for text in (stack.state_dir / "truth.jsonl").read_text().splitlines():
        entry = json.loads(text)
        found[entry["id"]].append(entry)
    return found


def ended(stack, id_: str) -> list[dict[str, Any]]:
    """What the engine's log has of a request, once it is there."""
    books.within(30, lambda: id_ in truth(stack))
    return truth(stack)[id_]


def settled(stack, tenant, count=1):
    """A tenant's settlements by exchange, once all are there."""
    books.within(30, lambda: len(books.settlements(stack.state_dir, tenant)) >= count)
    return books.settlements(stack.state_dir, tenant)
