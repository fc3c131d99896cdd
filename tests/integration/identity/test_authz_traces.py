"""What authz tells of a check: a span, and to the client the trace's id."""

import base64
import json
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tollhouse.adapters.jwts import Jwts
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.adapters.tracing import NOTABLE_PER_SECOND, Span, Tracing
from tollhouse.authz.servicer import SERVICE, AuthorizationServicer
from tollhouse.core.identity import Credential, Principal, parse_scopes
from tollhouse.core.problems import Unavailable
from tollhouse.core.trace_context import TraceContext
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

KEY = f"th_{'nobody' * 2}_{'aB3' * 14}x"
TRACE = "0af7651916cd43dd8448eb211c80319c"
KEPT = TraceContext(TRACE, "b7ad6b7169203331", is_sampled=True)
OTHER = TraceContext(TRACE, "b7ad6b7169203331", is_sampled=False)
PATHS = {
    "/v1/chat/completions": ("error", "trace_id"),
    "/v1/messages": ("trace_id",),
    "/v2/models/m/infer": ("trace_id",),
}
GRPC = "/inference.GRPCInferenceService/ModelInfer"


class Kept:
    """An exporter that keeps what it gets."""

    lost = 0

    def __init__(self) -> None:
        self.told = list[tuple[TraceContext | None, Span]]()

    def export(self, parent: TraceContext | None, span: Span) -> TraceContext:
        self.told.append((parent, span))
        return parent or KEPT

    def close(self) -> None:
        """Nothing is left."""


class Found(Credentials):
    """A look-up with one answer; without one, Redis is away."""

    def __init__(self, credential: Credential | None) -> None:
        self._credential = credential

    async def find(self, *_: object) -> Credential | None:
        if self._credential is None:
            raise Unavailable("Redis")
        return self._credential


class Asked:
    """A servicer that knows one key, and what is heard of it."""

    def __init__(self, folder: Path, credential: Credential | None) -> None:
        self.exporter = Kept()
        self._target = f"unix:{folder}/s"
        self._servicer = AuthorizationServicer(
            Found(credential),
            lambda: Pepper({"v1": b"p" * 32}),
            Jwts(dict),
            Tracing(self.exporter),
        )

    async def check(
        self,
        place: TraceContext | None = None,
        *,
        key: str = KEY,
        path: str = "/v1/chat/completions",
        times: int = 1,
    ) -> ext_authz.CheckResponse:
        """Ask as Envoy does; `place` is where its call stands."""
        server = grpc.aio.server()
        self._servicer.add_to(server)
        server.add_insecure_port(self._target)
        await server.start()
        request = ext_authz.CheckRequest()
        http = request.attributes.request.http
        http.method, http.path = "POST", path
        http.headers["authorization"] = f"Bearer {key}"
        said = b""
        metadata = [] if place is None else [("traceparent", place.traceparent)]
        try:
            async with grpc.aio.insecure_channel(self._target) as channel:
                ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
                ask = channel.unary_unary(f"/{SERVICE}/Check")
                for _ in range(times):
                    said = await ask(request.SerializeToString(), metadata=metadata)
        finally:
            await server.stop(None)
        return ext_authz.CheckResponse.FromString(said)


def credential(scopes: str = "chat:write", *, is_suspended: bool = False) -> Credential:
    principal = Principal("acme", "nobodynobody", "demo", parse_scopes(scopes))
    return Credential(principal, None, is_suspended)


async def test_a_kept_trace_has_its_span(tmp_path: Path):
    """Who it was and what became of it, below Envoy's call; no word of the key."""
    asked = Asked(tmp_path, credential())
    await asked.check(KEPT)

    [(parent, span)] = asked.exporter.told
    assert parent == KEPT
    assert (span.name, span.error) == ("authz.check", "")
    assert span.started_ns <= span.ended_ns
    assert span.attributes == {
        "tollhouse.verdict": "passed",
        "tollhouse.tenant": "acme",
        "tollhouse.key_id": "nobodynobody",
    }


@pytest.mark.parametrize(
    ("known", "key", "verdict", "error"),
    [
        (credential("models:read"), KEY, "forbidden", ""),
        (credential(is_suspended=True), KEY, "suspended", ""),
        (credential(), "guessed", "unauthenticated", ""),
        (None, KEY, "unavailable", "unavailable"),
    ],
)
async def test_who_does_not_pass_is_told_of(known, key, verdict, error, tmp_path):
    """In any trace; a pass in one that is not kept is nothing."""
    asked = Asked(tmp_path, known)
    await asked.check(OTHER, key=key)

    [(parent, span)] = asked.exporter.told
    assert (parent, span.error) == (OTHER, error)
    assert span.attributes["tollhouse.verdict"] == verdict
    passing = Asked(tmp_path, credential())
    await passing.check(OTHER)
    assert passing.exporter.told == []


async def test_what_is_in_no_trace_is_no_span(tmp_path: Path):
    """It would begin a trace of its own, under an id that nobody else knows."""
    asked = Asked(tmp_path, credential())
    await asked.check(None, key="guessed")

    assert asked.exporter.told == []


async def test_a_flood_of_bad_keys_is_told_of_in_part(tmp_path: Path):
    """Whoever tries keys must not make us pay for spans."""
    asked = Asked(tmp_path, credential())
    await asked.check(OTHER, key="guessed", times=10 * NOTABLE_PER_SECOND)

    # The second may turn while they try.
    assert NOTABLE_PER_SECOND <= len(asked.exporter.told) < 5 * NOTABLE_PER_SECOND


@pytest.mark.parametrize("path", PATHS)
async def test_a_refusal_names_the_trace(path: str, tmp_path: Path):
    """Where its API has room for it; without one the body is as it was."""
    asked = Asked(tmp_path, credential("models:read"))
    for place, expected in ((OTHER, TRACE), (None, None)):
        denied = (await asked.check(place, path=path)).denied_response
        value = json.loads(denied.body)
        for name in PATHS[path]:
            value = value.get(name)

        assert int(denied.status.code) == 403
        assert value == expected


async def test_a_refusal_in_grpc_names_the_trace(tmp_path: Path):
    """In the details, as its clients find it; message and code stay."""
    asked = Asked(tmp_path, credential("models:read"))
    for place, traces in ((OTHER, [TRACE]), (None, [])):
        denied = (await asked.check(place, path=GRPC)).denied_response
        headers = {it.header.key: it.header.value for it in denied.headers}
        status = status_pb2.Status.FromString(
            _from_binary_header(headers["grpc-status-details-bin"])
        )

        found = []
        for detail in status.details:
            info = error_details_pb2.RequestInfo()
            assert detail.Unpack(info)
            found.append(info.request_id)
        assert found == traces
        assert (status.code, status.message) == (7, denied.body)


def _from_binary_header(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
