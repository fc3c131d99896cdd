"""Authorization: who is this, and may they do what they ask.

One unary call per request, headers only. What Envoy does with it: an answer is
followed; an error of ours, or none in time, is a 503 (`status_on_error`).
"""

import time
from collections.abc import Callable

import grpc
import structlog

from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.authz import convert
from tollhouse.authz.cache import Cache
from tollhouse.authz.convert import Passage
from tollhouse.core.identity import key_of, needed
from tollhouse.core.problems import Unavailable
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

SERVICE = "envoy.service.auth.v3.Authorization"

_log = structlog.get_logger()


class AuthorizationServicer:
    """Answers checks from memory, and from Redis where that has none."""

    def __init__(
        self,
        credentials: Credentials,
        pepper: Pepper,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what it works with; `clock` gives Unix seconds, for expiry."""
        self._credentials = credentials
        self._pepper = pepper
        self._clock = clock
        self._passages = Cache(self._find)

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

    async def check(
        self,
        request: ext_authz.CheckRequest,
        context: grpc.aio.ServicerContext[ext_authz.CheckRequest, bytes],
    ) -> bytes:
        """Answer one check."""
        try:
            return await self._judge(request)
        except Exception:  # noqa: BLE001 - the boundary: a bug is a 503, and logged
            _log.exception("check.failed")
            await context.abort(grpc.StatusCode.INTERNAL, "not checked")

    async def _judge(self, request: ext_authz.CheckRequest) -> bytes:
        http = request.attributes.request.http
        key = key_of(http.headers.get("authorization", ""))
        if key is None:
            return convert.UNAUTHENTICATED
        try:
            passage = await self._passages.get(self._pepper.digest(key))
        except Unavailable:  # logged once by the cache
            return convert.UNAVAILABLE
        if passage is None or passage.credential.is_expired(self._clock()):
            return convert.UNAUTHENTICATED
        if passage.credential.is_suspended:
            return convert.SUSPENDED
        permission = needed(http.method, http.path)
        if permission is not None and permission not in passage.permissions:
            return convert.FORBIDDEN[permission]
        return passage.answer

    async def _find(self, digest: str, previous: Passage | None) -> Passage | None:
        tenant = None if previous is None else previous.credential.principal.tenant
        credential = await self._credentials.find(digest, tenant)
        if credential is None:
            return None
        if previous is not None and previous.credential == credential:
            return previous
        return convert.to_pb_passage(credential)
