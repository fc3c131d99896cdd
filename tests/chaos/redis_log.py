"""Redis' append-only file: everything that ever became durable, in order.

Read after a run, by nothing of Tollhouse's. Scripts are in it as the commands they
made (effects replication, Redis ≥ 5), so records are here that left the outbox long
ago.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import hiredis
import msgspec

_OUTBOX = re.compile(rb"\{s\d+\}:outbox")
_EXCHANGE = re.compile(rb"\{s\d+\}:exchange:(.*)")
_PIECE = 1 << 20
ESTIMATED = 3
"""A count's source: nobody counted, the gateway predicted."""


@dataclass(frozen=True, slots=True)
class Record:
    """A usage record as it was written into an outbox."""

    id: str
    kind: int
    tenant: str
    model: str
    input: int
    cached: int
    output: int
    input_source: int
    ended_ms: int
    corrects: str

    @property
    def hour(self) -> int:
        """The UTC hour it is billed in, counted since 1970."""
        return self.ended_ms // 3_600_000


@dataclass(slots=True)
class RedisLog:
    """What the comparison needs of it."""

    records: list[Record] = field(default_factory=list)
    reserved: set[str] = field(default_factory=set)
    """Exchanges that were admitted."""
    released: set[str] = field(default_factory=set)
    """Of these, those that were given back: nothing ran."""
    beats: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Input, cached and output at an exchange's last beat."""


def read(folder: Path) -> RedisLog:
    """Read the file, or files, in Redis' folder."""
    log = RedisLog()
    for command in _commands(folder):
        name = command[0].upper()
        if name == b"XADD" and _OUTBOX.fullmatch(command[1]):
            log.records.append(_record(_fields(command)))
        elif name == b"SET" and (found := _EXCHANGE.fullmatch(command[1])):
            _note(log, found[1].decode(), command[2])
    return log


def entries(folder: Path) -> list[Mapping[bytes, bytes]]:
    """Every entry that was ever in an outbox."""
    return [
        _fields(command)
        for command in _commands(folder)
        if command[0].upper() == b"XADD" and _OUTBOX.fullmatch(command[1])
    ]


def _commands(folder: Path) -> Iterator[list[bytes]]:
    # Redis 6 has one file, Redis 7 a folder of them; the base is empty at the start.
    paths = [
        *folder.glob("appendonly.aof"),
        *sorted(folder.glob("appendonlydir/*.incr.aof")),
    ]
    for path in paths:
        reader = hiredis.Reader()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                reader.feed(piece)
                while (command := reader.gets()) is not False:
                    yield command


def _fields(command: list[bytes]) -> Mapping[bytes, bytes]:
    # XADD key [options] id field value …: the fields begin with "id".
    start = command.index(b"id")
    return dict(zip(command[start::2], command[start + 1 :: 2], strict=True))


def _record(fields: Mapping[bytes, bytes]) -> Record:
    facts = msgspec.json.decode(fields[b"facts"])
    return Record(
        id=fields[b"id"].decode(),
        kind=int(fields[b"kind"]),
        tenant=facts["tenant"],
        model=facts["served_model"],
        input=int(fields[b"in"]),
        cached=int(fields[b"cached"]),
        output=int(fields[b"out"]),
        input_source=int(fields[b"in_src"]),
        ended_ms=int(fields[b"ended_ms"]),
        corrects=fields.get(b"corrects", b"").decode(),
    )


def _note(log: RedisLog, exchange: str, value: bytes) -> None:
    match value[:1]:
        case b"R":
            log.reserved.add(exchange)
            counts = [int(it) for it in value.split(b"\n")[1].split()]
            if counts:
                input_, output, cached, *_ = counts
                log.beats[exchange] = (input_, cached, output)
        case b"X":
            log.released.add(exchange)
