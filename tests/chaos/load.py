"""The clients of a run: many tenants and models, streams and not, some leave early."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from tests.e2e.main.load import Seen, one

AT_ONCE = 64
_PATIENCE_SECONDS = 30.0
_AGAIN_SECONDS = 0.25
_MOST_TRIES = 60
_REFUSED = (429, 503, 504)
"""504: an extproc that hangs."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One request before it is sent."""

    tenant: str
    model: str
    stream: bool
    input: int
    cached: int
    output: int
    seconds: float
    leaves_after: float | None
    """A client that leaves: a share of the events, or of the time it should take."""

    @property
    def prompt(self) -> str:
        """What tells the scripted backend what to answer, and for whom."""
        said = {"input": self.input, "cached": self.cached, "output": self.output}
        return json.dumps({**said, "seconds": self.seconds, "tenant": self.tenant})


@dataclass(slots=True)
class View:
    """What one client saw of one try; times in Unix seconds."""

    wish: Wish
    began_at: float
    seen: Seen | None = None
    """None: it left before anything came."""
    ended_at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As the artefacts of a run show it."""
        return asdict(self)


@dataclass(slots=True)
class Load:
    """A load under way, and what was seen of it."""

    views: list[View] = field(default_factory=list)
    begun: int = 0
    """Requests, not tries."""


def wishes(
    seed: int, requests: int, tenants: Sequence[str], models: Sequence[str]
) -> list[Wish]:
    """Draw the requests of a run."""
    chance = random.Random(seed)
    return [_wish(chance, tenants, models) for _ in range(requests)]


def _wish(chance: random.Random, tenants: Sequence[str], models: Sequence[str]) -> Wish:
    is_stream = chance.random() < 0.6
    is_long = chance.random() < 0.02  # some have beats
    input_ = chance.randint(20, 400)
    seconds = chance.uniform(5.5, 8.0) if is_long else chance.uniform(0.02, 0.8)
    return Wish(
        tenant=chance.choice(tenants),
        model=chance.choice(models),
        stream=is_stream,
        input=input_,
        cached=chance.choice((0, 0, input_ // 3)),
        output=chance.randint(1, 120),
        seconds=round(seconds, 3),
        leaves_after=chance.random() if chance.random() < 0.12 else None,
    )


async def send(
    wanted: Sequence[Wish],
    load: Load,
    *,
    base_url: str,
    keys: Mapping[str, str],
    rate: float,
    progressed: Callable[[int], None],
) -> None:
    """Send all of them, `rate` a second or as fast as places get free."""
    clock = asyncio.get_running_loop().time
    places = asyncio.Semaphore(AT_ONCE)
    began = clock()
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = {
            tenant: await stack.enter_async_context(_client(base_url, key))
            for tenant, key in keys.items()
        }
        for number, wish in enumerate(wanted):
            await asyncio.sleep(began + number / rate - clock())
            await places.acquire()
            load.begun += 1
            progressed(load.begun)
            task = tasks.create_task(_insist(clients[wish.tenant], wish, load))
            task.add_done_callback(lambda _: places.release())


def _client(base_url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url,
        headers={"authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(_PATIENCE_SECONDS, connect=5.0),
        limits=httpx.Limits(max_connections=AT_ONCE),
    )


async def _insist(client: httpx.AsyncClient, wish: Wish, load: Load) -> None:
    """Try until somebody takes it, as an SDK does."""
    for _ in range(_MOST_TRIES):
        view = View(wish, time.time())
        load.views.append(view)
        await _try(client, view)
        view.ended_at = time.time()
        seen = view.seen
        if seen is None or not (seen.end == "unreachable" or seen.status in _REFUSED):
            return
        await asyncio.sleep(_AGAIN_SECONDS)


async def _try(client: httpx.AsyncClient, view: View) -> None:
    wish = view.wish
    abort_after = leaves_in = None
    if wish.leaves_after is not None and wish.stream:
        abort_after = 1 + int(wish.leaves_after * 10)
    elif wish.leaves_after is not None:
        leaves_in = wish.leaves_after * wish.seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(leaves_in):
            view.seen = await one(
                client,
                stream=wish.stream,
                abort_after=abort_after,
                max_tokens=wish.output,
                prompt=wish.prompt,
                model=wish.model,
            )
