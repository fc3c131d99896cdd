"""A mixed load of real requests, and what each of them saw."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tollhouse.core.sse import Parser

PROMPTS = ("Who keeps the toll?", "Tell me about the road over the hills.", "Why?" * 40)


@dataclass
class Seen:
    """One request as its client saw it.

    `end`: complete, aborted (by us), cut (by them), refused (status not 200) or
    unreachable (no answer at all).
    """

    stream: bool
    end: str = "unreachable"
    status: int = 0
    exchange: str | None = None
    contents: int = 0
    letters: int = 0
    usage: dict[str, int] | None = None
    said_done: bool = False
    errors: list[str] = field(default_factory=list)


async def one(
    client: httpx.AsyncClient,
    *,
    stream: bool,
    abort_after: int | None = None,
    max_tokens: int = 30,
    prompt: str = PROMPTS[0],
    model: str = "tiny-chat",
    begun: asyncio.Queue[None] | None = None,
) -> Seen:
    """Send one chat request and read it to its end, or leave after some events.

    `begun` gets an item when the answer begins.
    """
    seen = Seen(stream)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": stream,
    }
    try:
        async with client.stream("POST", "/chat/completions", json=body) as response:
            seen.status = response.status_code
            seen.exchange = response.headers.get("x-tollhouse-exchange")
            if begun is not None:
                begun.put_nowait(None)
            if response.status_code != httpx.codes.OK:
                seen.end = "refused"
                await response.aread()
            elif stream:
                await _read_stream(response, seen, abort_after)
            else:
                seen.usage = json.loads(await response.aread())["usage"]
                seen.end = "complete"
    except httpx.HTTPError as error:
        seen.errors.append(repr(error))
        seen.end = "cut" if seen.status == httpx.codes.OK else "unreachable"
    return seen


async def _read_stream(
    response: httpx.Response, seen: Seen, abort_after: int | None
) -> None:
    parser = Parser()
    async for piece in response.aiter_bytes():
        for event in parser.feed(piece):
            if event.data == "[DONE]":
                seen.said_done = True
                continue
            chunk = json.loads(event.data)
            if "error" in chunk:
                seen.errors.append(chunk["error"]["message"])
            elif text := _text(chunk):
                seen.contents += 1
                seen.letters += len(text)
            if abort_after is not None and seen.contents >= abort_after:
                seen.end = "aborted"
                return
    seen.end = "complete" if seen.said_done and not seen.errors else "cut"


def _text(chunk: dict[str, Any]) -> str:
    """What a stream's event adds to the answer."""
    for choice in chunk["choices"]:
        return choice["delta"].get("content") or ""
    return ""


async def mixed(
    base_url: str,
    api_key: str,
    *,
    requests: int,
    concurrent: int,
    seed: int,
    aborted: float = 0.2,
    max_tokens: Callable[[random.Random], int] = lambda chance: chance.randint(5, 60),
    lasting_tokens: int = 0,
    begun: asyncio.Queue[None] | None = None,
) -> list[Seen]:
    """Send a fixed number of streams and non-streams, some of them left early.

    With `lasting_tokens` the first one is a stream with that cap, read to its end:
    what happens soon happens in its middle. `begun` gets an item for each answer
    that begins.
    """
    chance = random.Random(seed)
    places = asyncio.Semaphore(concurrent)
    timeout = httpx.Timeout(60.0, connect=5.0)
    limits = httpx.Limits(max_connections=concurrent)

    async def placed(client: httpx.AsyncClient, **options: object) -> Seen:
        async with places:
            return await one(client, **options)  # type: ignore[arg-type]

    async with httpx.AsyncClient(
        base_url=base_url,
        headers={"authorization": f"Bearer {api_key}"},
        timeout=timeout,
        limits=limits,
    ) as client:
        tasks = []
        if lasting_tokens:
            requests -= 1
            tasks.append(
                placed(client, stream=True, max_tokens=lasting_tokens, begun=begun)
            )
        for _ in range(requests):
            tokens = max_tokens(chance)
            leaves = chance.random() < aborted
            stream = leaves or chance.random() < 0.6
            tasks.append(
                placed(
                    client,
                    stream=stream,
                    abort_after=chance.randint(1, max(1, tokens // 2))
                    if leaves
                    else None,
                    max_tokens=tokens,
                    prompt=chance.choice(PROMPTS),
                    begun=begun,
                )
            )
        return await asyncio.gather(*tasks)
