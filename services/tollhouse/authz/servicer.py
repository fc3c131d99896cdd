"""Authorization: who is this, and may they do what they ask.

One unary call per request, headers only. What Envoy does with it: an answer is
followed; an error of ours, or none in time, is a 503 (`status_on_error`).
"""

import time
from collections import Counter
from collections.abc import Callable

import grpc
import structlog

from tollhouse.adapters import conventions as names
from tollhouse.adapters.jwts import Jwts
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.changes import (
    is_change,
    key_changed,
    tenant_changed,
)
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.adapters.tracing import Kind as SpanKind
from tollhouse.adapters.tracing import Span, Tracing, context_of
from tollhouse.authz import convert
from tollhouse.authz.cache import Cache, Lookup, Unasked, Undecided
from tollhouse.authz.convert import Denial, Passage, Verdict
from tollhouse.core.identity import (
    Credential,
    Principal,
    credential_of,
    is_key,
    key_id_of,
)
from tollhouse.core.problems import Dialect, Unavailable
from tollhouse.core.surface import dialect_of, find
from tollhouse.core.trace_context import TraceContext
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

SERVICE = "envoy.service.auth.v3.Authorization"

_log = structlog.get_logger()


class AuthorizationServicer:
    """Answers checks from memory, and from Redis where that has none."""

    def __init__(
        self,
        credentials: Credentials,
        pepper: Callable[[], Pepper],
        jwts: Jwts,
        tracing: Tracing,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what it works with.

        `pepper` gives the one of now; `clock` Unix seconds, for expiry.
        """
        self._credentials = credentials
        self._pepper = pepper
        self._jwts = jwts
        self._tracing = tracing
        self._clock = clock
        self.verdicts = Counter(dict.fromkeys(Verdict, 0))
        self.lookups = Counter(dict.fromkeys(Lookup, 0))
        # Apart: a provider that makes JWTs without end can push out no key.
        self._of_keys = Cache(_names_of, lookups=self.lookups)
        self._of_jwts = Cache(_names_of, lookups=self.lookups)
        self._issuers = jwts.issuers

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server.

        Not by the generated function: answers are bytes already.
        """
        handler: grpc.RpcMethodHandler[ext_authz.CheckRequest, bytes]
        handler = grpc.unary_unary_rpc_method_handler(
            self.check,
            request_deserializer=ext_authz.CheckRequest.FromString,
            response_serializer=None,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Check": handler}),)
        )

    def changed(self, name: str) -> None:
        """Look again at what this message of `th:changed` names, before it passes.

        One that names nothing we know of may be about anything.
        """
        if not is_change(name):
            self.missed()
            return
        self._of_keys.changed(name)
        self._of_jwts.changed(name)

    def missed(self) -> None:
        """Look again at everything: messages may have gone by."""
        self._of_keys.missed()
        self._of_jwts.missed()

    async def check(
        self,
        request: ext_authz.CheckRequest,
        context: grpc.aio.ServicerContext[ext_authz.CheckRequest, bytes],
    ) -> bytes:
        """Answer one check."""
        began_ns = time.time_ns()
        try:
            caller, verdict = await self._judge(request)
        except Exception:  # noqa: BLE001 - the boundary: a bug is a 503, and logged
            _log.exception("check.failed")
            self._tell(_place(context), began_ns, Verdict.UNAVAILABLE, None)
            await context.abort(grpc.StatusCode.INTERNAL, "not checked")
        if isinstance(verdict, Passage):
            # Where it stands takes its time to read; only a span needs it.
            place = _place(context) if self._tracing.is_on else None
            self._tell(place, began_ns, Verdict.PASSED, caller)
            return verdict.answer
        place = _place(context)
        self._tell(place, began_ns, verdict.verdict, caller)
        dialect = dialect_of(request.attributes.request.http.path)
        return verdict.answer(dialect, "" if place is None else place.trace_id)

    def _tell(
        self,
        place: TraceContext | None,
        began_ns: int,
        verdict: Verdict,
        caller: Principal | None,
    ) -> None:
        """Count it; make a span of it in a trace that is kept, and unless it passed.

        Without a trace there is nothing it could be a part of.
        """
        self.verdicts[verdict] += 1
        is_notable = verdict is not Verdict.PASSED
        if place is None or not self._tracing.wants(place, is_notable=is_notable):
            return
        attributes = {
            names.VERDICT: verdict,
            names.TENANT: None if caller is None else caller.tenant,
            names.KEY_ID: None if caller is None else caller.key_id,
        }
        span = Span(
            "authz.check",
            began_ns,
            time.time_ns(),
            SpanKind.SERVER,
            attributes,
            # A refusal is the client's doing, no failure of ours.
            verdict if verdict is Verdict.UNAVAILABLE else "",
        )
        self._tracing.tell(place, span)

    async def _judge(
        self, request: ext_authz.CheckRequest
    ) -> tuple[Principal | None, Passage | Denial]:
        attributes = request.attributes
        http = attributes.request.http
        takes_api_key = dialect_of(http.path) is Dialect.ANTHROPIC
        bearer = credential_of(
            http.headers.get("authorization"),
            http.headers.get("x-api-key") if takes_api_key else None,
        )
        if bearer is None:
            return None, convert.UNAUTHENTICATED
        try:
            passage = await self._passage(bearer)
        except Unavailable:  # logged once where it was met
            return None, convert.UNAVAILABLE
        if passage is None:
            return None, convert.UNAUTHENTICATED
        credential = passage.credential
        caller = credential.principal
        if credential.is_expired(self._clock()):
            return caller, convert.UNAUTHENTICATED
        if credential.networks and not credential.admits(
            attributes.source.address.socket_address.address
        ):
            return caller, convert.ELSEWHERE
        if credential.is_suspended:
            return caller, convert.SUSPENDED
        place = find(http.method, http.path)
        if place is None:
            return caller, convert.UNKNOWN
        permission = place.endpoint.permission
        if permission not in passage.permissions:
            return caller, convert.FORBIDDEN[permission]
        return caller, passage

    async def _passage(self, bearer: str) -> Passage | None:
        pepper = self._pepper()
        digest = pepper.digest(bearer)
        if is_key(bearer):
            fresh = self._of_keys.fresh(digest)
            return fresh or await self._of_keys.get(
                digest,
                key_changed(key_id_of(bearer)),
                lambda previous: self._find_key(pepper, bearer, previous),
            )
        if self._jwts.issuers is not self._issuers:
            # Who was trusted yesterday does not live on, Redis or not.
            self._issuers = self._jwts.issuers
            self._of_jwts = Cache(_names_of, lookups=self.lookups)
        if self._jwts.may_be_jwt(bearer):
            return await self._of_jwts.get(
                digest, "", lambda previous: self._find_jwt(bearer, previous)
            )
        return None

    async def _find_key(
        self, pepper: Pepper, key: str, previous: Passage | None
    ) -> Passage | None:
        tenant = None if previous is None else previous.credential.principal.tenant
        found = await self._credentials.find(
            key_id_of(key), pepper.digests(key), tenant
        )
        return _to_passage(found, previous)

    async def _find_jwt(self, jwt: str, previous: Passage | None) -> Passage | None:
        try:
            assertion = await self._jwts.identify(jwt)
        except Unavailable as error:
            raise Undecided from error
        if assertion is None:
            raise Unasked
        return _to_passage(await self._credentials.of_jwt(assertion), previous)


def _place(
    context: grpc.aio.ServicerContext[ext_authz.CheckRequest, bytes],
) -> TraceContext | None:
    """Return where Envoy's call stands in a trace."""
    return context_of(context.invocation_metadata() or ())


def _names_of(passage: Passage) -> tuple[str, ...]:
    principal = passage.credential.principal
    return key_changed(principal.key_id), tenant_changed(principal.tenant)


def _to_passage(found: Credential | None, previous: Passage | None) -> Passage | None:
    if found is None:
        return None
    if previous is not None and previous.credential == found:
        return previous
    return convert.to_pb_passage(found)
