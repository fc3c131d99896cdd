"""Stand-ins for authz and extproc, told what to do by the request itself.

The bearer token tells authz, the query of the path tells extproc. Their words on
the wire are those of the real services; what they decide is the test's.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.rpc import code_pb2

from tollhouse.core.problems import Dialect, Kind, Problem
from tollhouse.extproc.convert import to_pb_problem
from tollhouse.pb.envoy.config.core.v3 import base_pb2 as core_pb
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as auth
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2_grpc as auth_grpc
from tollhouse.pb.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from tollhouse.pb.envoy.service.ext_proc.v3 import (
    external_processor_pb2_grpc as ext_proc_grpc,
)
from tollhouse.pb.envoy.type.v3 import http_status_pb2 as http_pb

WORD = "rate_limited:key.requests"
TOO_FAST = "Over the limit; try again in 1.5s."
PROOF = "proof-of-this-run"
TRACE = "0af7651916cd43dd8448eb211c80319c"
DENIED = b'{"error":{"message":"Incorrect API key provided.","code":"invalid_api_key"}}'
REFUSED = b'{"error":{"message":"Too fast.","code":"rate_limit_exceeded"}}'
_REFUSAL = {
    "word": WORD,
    "grpc_status": "8",
    "grpc_message": TOO_FAST,
    "grpc_status_details_bin": base64.b64encode(b"when to come back").decode(),
}
_RATELIMIT = {
    f"{what}-{of}": value
    for of in ("requests", "tokens")
    for what, value in (("limit", "60"), ("remaining", "59"), ("reset", "1s"))
}


class Authorization(auth_grpc.AuthorizationServicer):
    """The principal for `Bearer good…`, else what the token says."""

    def __init__(self) -> None:
        self.checked = list[auth.CheckRequest]()
        self.scopes = "*"

    async def Check(  # noqa: N802
        self,
        request: auth.CheckRequest,
        context: grpc.aio.ServicerContext[auth.CheckRequest, auth.CheckResponse],
    ) -> auth.CheckResponse:
        self.checked.append(request)
        token = request.attributes.request.http.headers.get("authorization", "")
        if "error" in token:
            await context.abort(grpc.StatusCode.INTERNAL, "a bug")
        if "slow" in token:
            await asyncio.sleep(1)
        response = auth.CheckResponse()
        if not token.startswith("Bearer good"):
            response.status.code = code_pb2.UNAUTHENTICATED
            denied = response.denied_response
            denied.status.code = http_pb.Unauthorized
            denied.body = DENIED.decode()
            for name, value in (
                ("content-type", "application/json"),
                ("www-authenticate", "Bearer"),
            ):
                option = denied.headers.add()
                option.header.key, option.header.value = name, value
            return response
        response.ok_response.SetInParent()
        principal = {"tenant": "acme", "key_id": "k1", "plan": "free"}
        principal["scopes"] = self.scopes
        json_format.ParseDict(principal, response.dynamic_metadata)
        return response


class ExternalProcessor(ext_proc_grpc.ExternalProcessorServicer):
    """Admits, unless the query says otherwise: `?429`, `?close@headers`."""

    def __init__(self) -> None:
        self.headers = list[dict[str, bytes]]()
        self.bodies = list[bytes]()

    async def Process(  # noqa: N802
        self,
        request_iterator: AsyncIterator[ext_proc.ProcessingRequest],
        context: grpc.aio.ServicerContext[
            ext_proc.ProcessingRequest, ext_proc.ProcessingResponse
        ],
    ) -> AsyncIterator[ext_proc.ProcessingResponse]:
        behaviour = ""
        async for message in request_iterator:
            phase = message.WhichOneof("request") or ""
            if phase == "request_headers":
                headers = {
                    header.key: header.raw_value
                    for header in message.request_headers.headers.headers
                }
                self.headers.append(headers)
                behaviour = headers[":path"].decode().partition("?")[2]
            else:
                self.bodies.append(message.request_body.body)
            kind, _, when = behaviour.partition("@")
            if kind and phase == f"request_{when or 'body'}":
                match kind:
                    case "close":
                        return
                    case "error":
                        await context.abort(grpc.StatusCode.INTERNAL, "a bug")
                    case "hang":
                        await asyncio.sleep(3)
                    case _ if kind in _ANSWERS or kind.isdigit():
                        yield _answer(kind)
                        return
            if phase == "request_headers":
                yield _identified()
            else:
                yield _admitted(behaviour, message.request_body.body)
                return


def _identified() -> ext_proc.ProcessingResponse:
    response = ext_proc.ProcessingResponse()
    response.request_headers.response.status = ext_proc.CommonResponse.CONTINUE
    named = {"exchange": str(uuid.uuid4()), "tenant": "acme", "key_id": "k1"}
    _put(response, {"tollhouse": named})
    return response


def _admitted(behaviour: str, body: bytes) -> ext_proc.ProcessingResponse:
    response = ext_proc.ProcessingResponse()
    common = response.request_body.response
    common.clear_route_cache = True
    body = body.replace(b'"stream": true', b'"stream": true, "judged": true')
    common.body_mutation.body = body
    headers = {
        "x-tollhouse-admitted": "wrong" if behaviour == "wrong-proof" else PROOF,
        "x-tollhouse-cluster": "absent" if behaviour == "no-cluster" else "tiny-chat",
        "x-tollhouse-exchange": "an-exchange",
        "content-length": str(len(body)),
    }
    if behaviour == "forget":
        headers.pop("x-tollhouse-admitted")
    _set(common.header_mutation, headers)
    admitted: dict[str, Any] = {"admitted": True, "strip": behaviour == "strip"}
    admitted["foreign"] = behaviour == "foreign"
    admitted["facts"] = json.dumps({"tenant": "acme", "w": [1, 1, 5]})
    metadata = {"tollhouse": admitted, "tollhouse.ratelimit": _RATELIMIT}
    if behaviour == "refused":
        metadata["tollhouse.refusal"] = _REFUSAL
    _put(response, metadata)
    return response


def _with_path() -> ext_proc.ProcessingResponse:
    response = _admitted("", b"")
    mutation = response.request_body.response.header_mutation
    _set(mutation, {":path": "/v1/completions"})
    return response


def _answer(kind: str) -> ext_proc.ProcessingResponse:
    return _ANSWERS[kind]() if kind in _ANSWERS else _immediate(int(kind))


def _immediate(status: int) -> ext_proc.ProcessingResponse:
    response = ext_proc.ProcessingResponse()
    answer = response.immediate_response
    answer.status.code = status  # type: ignore[assignment]  # HTTP's numbers
    answer.body = REFUSED
    answer.details = WORD
    _set(answer.headers, {"content-type": "application/json", "retry-after": "7"})
    return response


def _over_limit() -> ext_proc.ProcessingResponse:
    problem = Problem(Kind.RATE_LIMITED, TOO_FAST, headers={"retry-after-ms": "1500"})
    return ext_proc.ProcessingResponse.FromString(
        to_pb_problem(problem, Dialect.GRPC, TRACE)
    )


_ANSWERS = {"path": _with_path, "grpc": _over_limit}


def _set(mutation: ext_proc.HeaderMutation, headers: dict[str, str]) -> None:
    for name, value in headers.items():
        option = mutation.set_headers.add()
        option.header.key, option.header.raw_value = name, value.encode()
        option.append_action = core_pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def _put(response: ext_proc.ProcessingResponse, metadata: dict[str, Any]) -> None:
    # Envoy merges the namespaces of both replies key by key.
    json_format.ParseDict(metadata, response.dynamic_metadata)


Stop = Callable[[float | None], Awaitable[None]]


async def serve(folder: Path) -> tuple[Authorization, ExternalProcessor, list[Stop]]:
    """Serve both on authz.sock and extproc.sock in the folder."""
    authorization, processor = Authorization(), ExternalProcessor()
    authz, extproc = grpc.aio.server(), grpc.aio.server()
    auth_grpc.add_AuthorizationServicer_to_server(authorization, authz)
    ext_proc_grpc.add_ExternalProcessorServicer_to_server(processor, extproc)
    for name, server in (("authz", authz), ("extproc", extproc)):
        server.add_insecure_port(f"unix:{folder}/{name}.sock")
        await server.start()
    return authorization, processor, [authz.stop, extproc.stop]
