"""A Redis Cluster: which node serves a command, and what to do when it has moved.

The map of the 16,384 slots is what CLUSTER SLOTS says (6.2 and later), asked of any
node that answers, else of the seeds; it is asked for again whenever a node is lost or
says that a slot has moved (https://redis.io/docs/latest/operate/oss_and_stack/
reference/cluster-spec/). Only masters are used.
"""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from tollhouse.adapters.redis.access import RedisAccess, Refusals
from tollhouse.adapters.redis.connection import RedisReplyError, failure
from tollhouse.adapters.redis.node import (
    FIRST_BACKOFF_SECONDS,
    HANDSHAKE_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    Address,
    Argument,
    Command,
    Node,
)
from tollhouse.adapters.redis.shards import crc16
from tollhouse.core.problems import Unavailable

SLOTS = 16_384

REFRESH_SECONDS = 60.0
"""The map's age at most. Nothing waits for this: a moved slot says so itself."""
_MAP_SECONDS = 0.5
"""Budget of one CLUSTER SLOTS; another node is asked then."""

_BEHIND_SUBCOMMAND = frozenset(("OBJECT", "XGROUP", "XINFO"))
"""Commands whose first argument is not their key but a subcommand."""


def slot_of(key: Argument) -> int:
    """The slot of a key: of its hash tag, if it has one that is not empty."""
    name = key if isinstance(key, bytes) else str(key).encode()
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc16(name) % SLOTS


def key_of(command: Command) -> Argument | None:
    """The key a command is routed by; None if any node can run it."""
    name = command[0]
    if name in ("EVALSHA", "EVAL"):
        return command[3] if int(command[2]) else None
    if name in ("XREADGROUP", "XREAD"):
        return command[command.index("STREAMS") + 1]
    at = 2 if name in _BEHIND_SUBCOMMAND else 1
    return command[at] if at < len(command) else None


class Cluster:
    """The masters of a cluster, each a kept connection, and the map of the slots."""

    def __init__(
        self, seeds: Sequence[Address], access: RedisAccess, refusals: Refusals
    ) -> None:
        self._seeds = seeds
        self._access = access
        self._refusals = refusals
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[Address, Node] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._masters: frozenset[Node | None] = frozenset(self._slots)
        # Nodes a redirection named, and when: the map need not know them yet.
        self._named: dict[Address, float] = {}
        self._trouble = "Redis is away"
        self._is_refused = False
        self._up = asyncio.Event()
        self._stale = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_map())

    @classmethod
    def open(cls, access: RedisAccess, refusals: Refusals) -> "Cluster":
        """Start with `redis+cluster://host:port[,host:port…]`, or raise ValueError."""
        _, _, places = access.url.partition("://")
        hosts, _, database = places.partition("/")
        seeds = [Address.parse(f"redis://{host}") for host in hosts.split(",") if host]
        if not seeds:
            raise ValueError("a Redis Cluster's URL needs a host")
        if database.strip("0"):
            raise ValueError("a Redis Cluster has no database but 0")
        return cls(seeds, access, refusals)

    @property
    def connected_since(self) -> float | None:
        """When the last of the masters that serve a slot was reached; None: not all."""
        latest = 0.0
        for node in self._masters:
            if node is None or node.connected_since is None:
                return None
            latest = max(latest, node.connected_since)
        return latest

    @property
    def trouble(self) -> Unavailable:
        """What a call meets while nobody serves its key's slot."""
        return Unavailable(self._trouble, transient=not self._is_refused)

    @property
    def nodes(self) -> Sequence[Node]:
        """The masters. Raises Unavailable while a slot has none."""
        masters = [node for node in self._masters if node is not None]
        if len(masters) < len(self._masters):
            raise self.trouble
        return masters

    async def wait_connected(self, seconds: float) -> None:
        """Return when every slot's master was reached once, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._up.wait(), seconds)

    async def send(
        self, commands: Sequence[Command], budget_seconds: float
    ) -> list[Any]:
        """Run commands, in order on each node; the list is as a `Batch`'s.

        What a node says is another's goes there once more, within the same budget.
        Raises Unavailable before anything is sent when nobody serves a slot.
        """
        deadline = self._loop.time() + budget_seconds
        parts: dict[Node, _Part] = {}
        for at, command in enumerate(commands):
            for node in self._nodes_for(command):
                _part(parts, node).add(at, command)
        replies: list[Any] = [None] * len(commands)
        moved = await self._run(parts, replies, budget_seconds)
        if moved:
            for node in moved:
                await node.wait_connected(deadline - self._loop.time())
            # In vain when the time is over; the replies then say MOVED or ASK.
            if (left := deadline - self._loop.time()) > 0:
                await self._run(moved, replies, left)
        for reply in replies:
            if isinstance(reply, Unavailable):
                return [reply]
        return replies

    async def close(self) -> None:
        """Drop the connections; calls under way end with Unavailable."""
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        for node in list(self._nodes.values()):
            await node.close()

    def _nodes_for(self, command: Command) -> Sequence[Node]:
        """Who is to run it: the slot's master, or any node, or all for SCRIPT."""
        is_script = command[0] == "SCRIPT"
        if not is_script and (key := key_of(command)) is not None:
            node = self._slots[slot_of(key)]
            if node is not None:
                return (node,)
        elif connected := self._connected():
            return connected if is_script else connected[:1]
        raise self.trouble

    def _connected(self) -> list[Node]:
        return [it for it in self._nodes.values() if it.connected_since is not None]

    async def _run(
        self, parts: "Mapping[Node, _Part]", replies: list[Any], budget_seconds: float
    ) -> "dict[Node, _Part]":
        """Run each node's part, fill in the replies; return what belongs elsewhere."""
        sent = [
            (node, part, node.send(part.commands, budget_seconds))
            for node, part in parts.items()
        ]
        moved: dict[Node, _Part] = {}
        for node, part, future in sent:
            answers = await future
            if isinstance(answers[0], Unavailable):
                answers = answers * len(part.commands)
            for at, command, answer in zip(
                part.places, part.commands, answers, strict=True
            ):
                if at is None:
                    continue
                # Of what ran on all nodes, one that did it is the answer.
                if replies[at] is None or isinstance(replies[at], Exception):
                    replies[at] = answer
                if isinstance(answer, RedisReplyError):
                    self._follow(node, answer, at, command, moved)
        return moved

    def _follow(
        self,
        node: Node,
        error: RedisReplyError,
        at: int,
        command: Command,
        moved: "dict[Node, _Part]",
    ) -> None:
        """Add a command that a node refused to the part of the one it named."""
        match str(error).split():
            case ["MOVED", slot, place]:
                there = self._named_node(place, node)
                self._slots[int(slot)] = there
                self._stale.set()
                _part(moved, there).add(at, command)
            case ["ASK", _, place]:
                part = _part(moved, self._named_node(place, node))
                part.add(None, ("ASKING",))
                part.add(at, command)
            case ["CLUSTERDOWN" | "TRYAGAIN", *_]:
                self._stale.set()

    def _named_node(self, place: str, by: Node) -> Node:
        """The node of `host:port`; no host means the host of who said it."""
        host, _, port = place.rpartition(":")
        address = Address(host or by.address.host, int(port))
        self._named[address] = self._loop.time()
        return self._node(address)

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            node = Node(address, self._access, self._refusals, self._note_change)
            self._nodes[address] = node
        return node

    def _note_change(self) -> None:
        """A connection is there or gone."""
        (self._stale if self.connected_since is None else self._up).set()

    async def _keep_map(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            self._stale.clear()
            await self._refresh()
            if self.connected_since is not None:
                backoff = FIRST_BACKOFF_SECONDS
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stale.wait(), REFRESH_SECONDS)
            # Jitter: all workers learn of a failover in the same moment.
            await asyncio.sleep(backoff * random.uniform(0.5, 1.5))  # noqa: S311
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _refresh(self) -> None:
        """Ask for the map until somebody answers."""
        nodes = self._connected()
        random.shuffle(nodes)  # one of them may be behind
        for node in nodes:
            if await self._read_map(node):
                return
        for address in self._seeds:
            seed = Node(address, self._access, self._refusals)
            try:
                await seed.wait_connected(HANDSHAKE_SECONDS)
                if await self._read_map(seed):
                    return
            finally:
                await seed.close()

    async def _read_map(self, node: Node) -> bool:
        (reply,) = await node.send((("CLUSTER", "SLOTS"),), _MAP_SECONDS)
        if isinstance(reply, Exception) or not reply:
            self._trouble = f"no map of the cluster: {reply or 'no slots'}"
            error = failure(reply) if isinstance(reply, RedisReplyError) else reply
            self._is_refused = isinstance(error, Unavailable) and not error.transient
            return False
        slots: list[Node | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in reply:
            # 7 gives no host, or "?", where clients are to use the one they know.
            known = "" if host in (None, b"?") else host.decode()
            master = self._node(Address(known or node.address.host, port))
            slots[first : last + 1] = [master] * (last + 1 - first)
        self._slots = slots
        self._masters = frozenset(slots)
        self._trouble = "no node serves the key's slot"
        self._is_refused = False
        await self._drop_strangers()
        return True

    async def _drop_strangers(self) -> None:
        """Leave nodes that the map does not name and no redirection named lately."""
        oldest = self._loop.time() - REFRESH_SECONDS
        self._named = {it: at for it, at in self._named.items() if at > oldest}
        for address, node in list(self._nodes.items()):
            if node not in self._masters and address not in self._named:
                del self._nodes[address]
                await node.close()


class _Part:
    """One node's share of some commands; `places` are theirs, None for ASKING."""

    __slots__ = ("commands", "places")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.places: list[int | None] = []

    def add(self, at: int | None, command: Command) -> None:
        self.places.append(at)
        self.commands.append(command)


def _part(parts: dict[Node, _Part], node: Node) -> _Part:
    part = parts.get(node)
    if part is None:
        part = parts[node] = _Part()
    return part
