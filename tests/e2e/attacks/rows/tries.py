"""Who tries keys, each another one, until the network has no tries left."""

import dataclasses
import itertools
from base64 import b64decode

from google.rpc import error_details_pb2, status_pb2

from tests.e2e.attacks import words
from tests.e2e.attacks.http2 import Headers, Http2, ask2, call, connected, fields
from tests.e2e.attacks.rig import Gateway
from tests.e2e.attacks.row import (
    PASSES,
    UNAUTHENTICATED,
    Expect,
    Send,
    refused,
    rows,
)
from tests.e2e.attacks.seen import Seen
from tollhouse.core.problems import Kind
from tollhouse.core.surface import dialect_of

_AT_ONCE = 60
"""More than a network may make."""
_MOST = 300
"""Tries after which nobody is slowed down any more."""
_networks = (f"127.0.9.{number}" for number in itertools.cycle(range(1, 255)))
# Apart in their middle only.
_keys = (b"th_%08dtail_" % number + b"x" * 43 for number in itertools.count())


@dataclasses.dataclass(frozen=True)
class _Tried:
    """Try keys from a network of one's own; `then` ask, when one is not looked at."""

    then: Http2
    first: Headers | None = None
    """Asked before anything was tried."""
    is_same: bool = False
    """Try one key over and over."""
    shown: bool = False
    """Show each key at a path that is answered without authz, before it is tried."""

    async def __call__(self, gateway: Gateway) -> Seen:
        source, same = next(_networks), next(_keys)
        async with connected(gateway, source) as wire:
            streams = itertools.count(1, 2)

            def ask(listed: Headers, body: bytes = b"") -> int:
                stream = next(streams)
                filled = [
                    (name, gateway.filled(value) if isinstance(value, bytes) else value)
                    for name, value in listed
                ]
                wire.connection.send_headers(stream, filled, end_stream=not body)
                if body:
                    wire.connection.send_data(stream, body, end_stream=True)
                return stream

            def attempt() -> int:
                key = same if self.is_same else next(_keys)
                if self.shown:
                    ask(fields("/healthz", method="GET", key=key))
                return ask(fields(key=key))

            if self.first is not None:
                first = ask(self.first, words.BODY)
                await wire.flush()
                await wire.answered(first)
            tried = [attempt() for _ in range(_AT_ONCE)]
            await wire.flush()
            for stream in tried:
                await wire.answered(stream)
            while True:
                # In one write, so that no time passes between the two.
                tried.append(attempt())
                asked = ask(self.then.fields, self.then.body)
                await wire.flush()
                seen, last = await wire.answered(asked), await wire.answered(tried[-1])
                is_slowed = last.replies[0].status == 429
                if is_slowed or self.is_same:
                    break
                if len(tried) == _MOST:
                    return last
            path = dict(self.then.fields)[":path"]
            seen.dialect = dialect_of(str(path))
            return seen


def _says_when(seen: Seen) -> bool:
    """Whether gRPC's details tell how long to wait."""
    text = seen.replies[0].header("grpc-status-details-bin") or ""
    status = status_pb2.Status.FromString(b64decode(text + "=" * (-len(text) % 4)))
    retry = error_details_pb2.RetryInfo()
    return (
        status.code == Kind.RATE_LIMITED.grpc_status
        and any(it.Unpack(retry) for it in status.details)
        and retry.retry_delay.ToSeconds() == 1
    )


_SLOWED = "tries.lua: a network has so many tries, then authz is not asked"
_UNSEEN = b"th_" + b"0" * 12 + b"_" + b"U" * 43
_MODELS = fields("/v1/models", method="GET")
_SOON = (("retry-after", "1"),)
_TOO_MANY = refused(429, code="rate_limit_exceeded", headers=_SOON)
_INFER = "/inference.GRPCInferenceService/ModelInfer"


def _row(number: int, threat: str, send: Send, expect: Expect) -> tuple[object, ...]:
    return number, threat, _SLOWED, send, expect


ROWS = rows(
    "tries",
    [
        _row(1, "one key after the other", _Tried(ask2(key=_UNSEEN)), _TOO_MANY),
        _row(
            2,
            "the same with Anthropic's API",
            _Tried(ask2(words.MESSAGES, key=_UNSEEN)),
            refused(429, headers=_SOON),
        ),
        _row(
            3,
            "the same in x-api-key",
            _Tried(ask2(words.MESSAGES, ("x-api-key", _UNSEEN), key=None)),
            refused(429, headers=_SOON),
        ),
        _row(
            4,
            "the same with Triton's API",
            _Tried(ask2("/v2/models/tiny-chat/generate", key=_UNSEEN)),
            refused(429, headers=_SOON),
        ),
        _row(
            5,
            "the same over gRPC",
            _Tried(call(_INFER, key=_UNSEEN)),
            Expect(grpc=8, fits=_says_when),
        ),
        _row(
            6,
            "keys tried beside a client whose key passed before",
            _Tried(Http2(_MODELS, body=b""), first=_MODELS),
            PASSES,
        ),
        _row(
            7,
            "no key at all, after keys were tried",
            _Tried(ask2(key=None)),
            _TOO_MANY,
        ),
        _row(
            9,
            "keys shown first where authz is not asked",
            _Tried(ask2(key=_UNSEEN), shown=True),
            _TOO_MANY,
        ),
        _row(
            10,
            "the health of the listener, after keys were tried",
            _Tried(Http2(fields("/healthz", method="GET", key=_UNSEEN), body=b"")),
            PASSES,
        ),
        _row(
            8,
            "one bad key over and over, beside a client with another",
            _Tried(ask2(key=_UNSEEN), is_same=True),
            UNAUTHENTICATED,
        ),
    ],
)
