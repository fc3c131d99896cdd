"""The meter's pure parts, run in LuaJIT as Envoy runs them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lupa import luajit21

_SOURCES = Path(__file__).parents[3] / "envoy"

lua = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
module: Any = lua.execute((_SOURCES / "meter.lua").read_bytes())
grpc_module: Any = lua.execute((_SOURCES / "meter_grpc.lua").read_bytes())


@dataclass(frozen=True)
class Metered:
    """What the meter forwarded and what it wrote, times left out."""

    forwarded: bytes
    usage: str


def metered(
    pieces: Iterable[bytes],
    *,
    strip: bool = False,
    foreign: bool = False,
    finish: bool = True,
) -> Metered:
    """Feed the pieces of one event stream."""
    meter = module[b"new"](b"sse", strip, foreign)
    forwarded = _fed(module[b"feed"], meter, pieces)
    if finish:
        forwarded += module[b"finish"](meter)
    return Metered(forwarded, module[b"pack"](meter, finish).decode())


def metered_document(
    pieces: Iterable[bytes],
    *,
    foreign: bool = False,
    fixed: bool = False,
    length: int | None = None,
) -> Metered:
    """Feed the pieces of one JSON document.

    `fixed`: its length was declared. `length`: how much of the body it is, where
    tensors follow it.
    """
    meter = module[b"new"](b"json", False, foreign)
    meter[b"is_fixed"], meter[b"json_left"] = fixed, length
    forwarded = _fed(module[b"feed_json"], meter, pieces)
    module[b"finish_json"](meter)
    return Metered(forwarded, module[b"pack"](meter, True).decode())


def metered_json(pieces: Iterable[bytes]) -> str:
    """Feed the pieces of one JSON document, which is not to change."""
    pieces = list(pieces)
    got = metered_document(pieces)
    assert got.forwarded == b"".join(pieces)
    return got.usage


def metered_grpc(
    pieces: Iterable[bytes], *, stream: bool = True, ended: bool = True
) -> Metered:
    """Feed the pieces of one answer of gRPC; `ended`: its trailers said OK."""
    meter = grpc_module[b"new"](stream)
    forwarded = _fed(grpc_module[b"feed"], meter, pieces)
    return Metered(forwarded, grpc_module[b"pack"](meter, ended).decode())


def _fed(feed: Callable[..., Any], meter: Any, pieces: Iterable[bytes]) -> bytes:
    forwarded = list[bytes]()
    for piece in pieces:
        replacement = feed(meter, piece)
        forwarded.append(piece if replacement is None else replacement)
    return b"".join(forwarded)
