"""The meter's pure part, run in LuaJIT as Envoy runs it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lupa import luajit21

_SOURCE = Path(__file__).parents[3] / "envoy" / "meter.lua"

lua = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
module: Any = lua.execute(_SOURCE.read_bytes())


@dataclass(frozen=True)
class Metered:
    """What the meter forwarded and what it wrote, times left out."""

    forwarded: bytes
    usage: str


def metered(
    pieces: Iterable[bytes], *, strip: bool = False, finish: bool = True
) -> Metered:
    """Feed the pieces of one event stream."""
    meter = module[b"new"](b"sse", strip)
    forwarded = list[bytes]()
    for piece in pieces:
        replacement = module[b"feed"](meter, piece)
        forwarded.append(piece if replacement is None else replacement)
    if finish:
        forwarded.append(module[b"finish"](meter))
    return Metered(b"".join(forwarded), module[b"pack"](meter, finish).decode())


def metered_json(pieces: Iterable[bytes]) -> str:
    """Feed the pieces of one JSON document."""
    meter = module[b"new"](b"json", False)
    for piece in pieces:
        module[b"feed_json"](meter, piece)
    usage: bytes = module[b"pack"](meter, True)
    return usage.decode()
