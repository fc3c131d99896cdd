"""The clients of a rollout: streams that are always there, and quick requests."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.rollout.connection import Answer, Connection, Cut, NotTaken
from tests.rollout.http1 import Http1
from tests.rollout.http2 import Http2
from tollhouse.adapters.address import Address
from tollhouse.core.sse import Parser

TENANT = "acme"
MODEL = "small"
_HTTP2_SHARE = 0.4
_OF_A_CONNECTION = 5
"""Streams that share one HTTP/2 connection."""


class Service:
    """The endpoints of the gateway, as a Kubernetes Service spreads over them."""

    def __init__(self) -> None:
        self._endpoints: list[Address] = []
        self._turn = 0

    def add(self, address: Address) -> None:
        self._endpoints.append(address)

    def remove(self, address: Address) -> None:
        self._endpoints.remove(address)

    def pick(self) -> Address:
        """Whom the next connection goes to."""
        self._turn += 1
        return self._endpoints[self._turn % len(self._endpoints)]


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    answers: dict[str, int] = field(default_factory=dict)
    """Output tokens by exchange, of answers that were whole."""
    streams: int = 0
    """Those among them that were streams."""
    running: int = 0
    """Streams under way."""
    again: int = 0
    """Requests that were sent a second time, as nobody had taken them."""
    cut: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Connections that were, and answers that are no 200."""


@dataclass(slots=True)
class _Client:
    """One connection at a time, shared by some callers."""

    service: Service
    headers: dict[str, str]
    kind: type[Http1] | type[Http2]
    connection: Connection | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def connected(self) -> Connection:
        async with self.opening:
            if self.connection is None or not self.connection.is_usable:
                if self.kind is Http1:
                    self.close()  # HTTP/2 has others' streams, and closes itself
                address = self.service.pick()
                self.connection = await self.kind.open(address, self.headers)
            return self.connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


@dataclass(slots=True)
class Load:
    """The clients at work until they are told to stop."""

    service: Service
    key: str
    streams: int
    seconds: tuple[float, float]
    """Of a stream: the shortest and the longest."""
    tally: Tally = field(default_factory=Tally)
    clients: list[_Client] = field(default_factory=list)
    is_over: bool = False
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def run(self) -> None:
        """Ask until `is_over`, then let what runs end."""
        shared = int(self.streams * _HTTP2_SHARE) // _OF_A_CONNECTION
        alone = self.streams - shared * _OF_A_CONNECTION
        groups = [1] * alone + [_OF_A_CONNECTION] * shared
        async with asyncio.TaskGroup() as tasks:
            for size in groups:
                client = self._client(Http2 if size > 1 else Http1)
                for _ in range(size):
                    tasks.create_task(self._repeat(client, self._stream, 0.0))
            # Quick ones: some all the time, some on connections that lie idle between.
            for longest in (0.2, 0.2, 0.5, 0.5, 1.0, 4.0):
                for kind in (Http1, Http2):
                    client = self._client(kind)
                    tasks.create_task(self._repeat(client, self._quick, longest))
        for client in self.clients:
            client.close()

    def _client(self, kind: type[Http1] | type[Http2]) -> _Client:
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
        }
        self.clients.append(_Client(self.service, headers, kind))
        return self.clients[-1]

    async def _repeat(
        self, client: _Client, ask: Callable[[_Client], object], pause: float
    ) -> None:
        while not self.is_over:
            await ask(client)  # type: ignore[misc]
            await asyncio.sleep(self.chance.uniform(pause / 2, pause))

    async def _stream(self, client: _Client) -> None:
        seconds = self.chance.uniform(*self.seconds)
        self.tally.running += 1
        try:
            await self._ask(client, output=round(seconds * 20), seconds=seconds)
        finally:
            self.tally.running -= 1

    async def _quick(self, client: _Client) -> None:
        await self._ask(client, output=self.chance.randint(1, 20), seconds=0.02)

    async def _ask(self, client: _Client, *, output: int, seconds: float) -> None:
        stream = seconds > 1
        script = {"input": 12, "cached": 0, "output": output, "seconds": seconds}
        content = json.dumps({**script, "tenant": TENANT})
        chat = {
            "model": MODEL,
            "messages": [{"role": "user", "content": content}],
            "stream": stream,
        }
        tally = self.tally
        try:
            answer = await self._send(client, json.dumps(chat).encode())
        except Cut as error:
            tally.cut.append(f"{client.kind.__name__}: {error}")
        except OSError as error:
            tally.refused.append(f"{client.kind.__name__}: {error!r}")
        else:
            if answer.status != 200:
                said = bytes(answer.body[:200])
                tally.refused.append(
                    f"{client.kind.__name__}: {answer.status} {said!r}"
                )
            elif not is_whole(bytes(answer.body), output, stream=stream):
                tally.cut.append(f"{client.kind.__name__}: no whole answer")
            else:
                tally.answers[answer.exchange] = output
                tally.streams += stream

    async def _send(self, client: _Client, body: bytes) -> Answer:
        for _ in range(3):
            connection = await client.connected()
            try:
                return await connection.ask(body)
            except NotTaken:
                self.tally.again += 1
                if client.kind is Http1:
                    client.close()
        raise Cut("three connections did not take it")


def is_whole(body: bytes, output: int, *, stream: bool) -> bool:
    """Whether an answer has all of its text, and its end."""
    if not stream:
        text: str = json.loads(body)["choices"][0]["message"]["content"]
        return len(text) == output
    events = [it.data for it in Parser().feed(body)]
    chunks = [json.loads(it) for it in events[:-1]]
    return events[-1:] == ["[DONE]"] and output == sum(map(_letters, chunks))


def _letters(chunk: dict[str, Sequence[dict[str, dict[str, str]]]]) -> int:
    return sum(len(it["delta"].get("content") or "") for it in chunk["choices"])
