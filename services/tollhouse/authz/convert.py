"""Answers to Envoy, made once and sent as bytes.

Everything an answer depends on is known when a key is looked up, so a check only picks
one. Building and serialising it each time would cost more than all the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from google.rpc import code_pb2

from tollhouse.adapters.grpc_status import to_binary_header, to_pb_status
from tollhouse.core.identity import Credential, Permission, may
from tollhouse.core.problems import Dialect, Kind, Problem
from tollhouse.pb.envoy.config.core.v3 import base_pb2 as core_pb
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

_CODES = {
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    503: code_pb2.UNAVAILABLE,
}


_TRACE = b"0" * 32
"""Stands for a trace's id, which is as long, in an answer that is made already."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A credential with its answer at hand."""

    credential: Credential
    permissions: frozenset[Permission]
    answer: bytes


def to_pb_passage(credential: Credential) -> Passage:
    """Render the answer that lets a credential's requests pass.

    Its principal goes to the later filters as dynamic metadata; the key itself goes
    no further than this.
    """
    principal = credential.principal
    response = ext_authz.CheckResponse()
    response.ok_response.headers_to_remove.extend(("authorization", "x-api-key"))
    response.status.code = code_pb2.OK
    fields = response.dynamic_metadata.fields
    fields["tenant"].string_value = principal.tenant
    fields["key_id"].string_value = principal.key_id
    fields["plan"].string_value = principal.plan
    fields["scopes"].string_value = " ".join(str(it) for it in principal.scopes)
    if principal.overrides:
        fields["overrides"].string_value = principal.overrides
    return Passage(
        credential,
        frozenset(it for it in Permission if may(principal, it)),
        response.SerializeToString(),
    )


class Verdict(StrEnum):
    """What a check came to, in a word."""

    PASSED = "passed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    SUSPENDED = "suspended"
    UNAVAILABLE = "unavailable"
    """Nobody could tell."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A refusal in one dialect, but for the trace."""

    untraced: bytes
    traced: bytes
    details: bytes
    """What gRPC's header holds, in which the trace is out of sight (base64)."""

    def of(self, trace_id: str) -> bytes:
        if not trace_id:
            return self.untraced
        trace = trace_id.encode()
        if not self.details:
            return self.traced.replace(_TRACE, trace, 1)
        details = to_binary_header(self.details.replace(_TRACE, trace, 1))
        return self.traced.replace(to_binary_header(self.details), details, 1)


@dataclass(frozen=True, slots=True)
class Denial:
    """One refusal, worded for each API."""

    verdict: Verdict
    _answers: Mapping[Dialect, _Answer]

    def answer(self, dialect: Dialect, trace_id: str) -> bytes:
        """Say it; `trace_id` is empty or 32 digits."""
        return self._answers[dialect].of(trace_id)


def to_pb_denial(verdict: Verdict, problem: Problem) -> Denial:
    """Render a refusal in every dialect."""
    return Denial(verdict, {it: _to_pb_answer(problem, it) for it in Dialect})


def _to_pb_answer(problem: Problem, dialect: Dialect) -> _Answer:
    trace = _TRACE.decode()
    return _Answer(
        _denied(problem, dialect, ""),
        _denied(problem, dialect, trace),
        to_pb_status(problem, trace) if dialect is Dialect.GRPC else b"",
    )


def _denied(problem: Problem, dialect: Dialect, trace_id: str) -> bytes:
    response = ext_authz.CheckResponse()
    response.status.code = _CODES[problem.status]
    denied = response.denied_response
    denied.status.code = problem.status  # type: ignore[assignment]  # HTTP's numbers
    denied.body = problem.body(dialect, trace_id).decode()
    headers = dict(problem.headers)
    if dialect is Dialect.GRPC:
        details = to_binary_header(to_pb_status(problem, trace_id))
        headers["grpc-status-details-bin"] = details.decode()
    else:
        headers["content-type"] = "application/json"
    for name, value in headers.items():
        denied.headers.append(
            core_pb.HeaderValueOption(
                header=core_pb.HeaderValue(key=name, value=value),
                append_action=core_pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
        )
    return response.SerializeToString()


# One answer for no key, a malformed, unknown, expired or revoked one: whoever tries
# keys learns nothing from it.
UNAUTHENTICATED = to_pb_denial(
    Verdict.UNAUTHENTICATED,
    Problem(
        Kind.INVALID_KEY,
        "Incorrect API key. Send a valid one as `Authorization: Bearer th_...`.",
        headers={"www-authenticate": "Bearer"},
    ),
)
ELSEWHERE = to_pb_denial(
    Verdict.FORBIDDEN,
    Problem(Kind.FORBIDDEN, "This API key may not be used from your network."),
)
# A path without a permission of its own: nothing of ours routes it to a backend.
UNKNOWN = to_pb_denial(
    Verdict.FORBIDDEN,
    Problem(Kind.FORBIDDEN, "This API key allows nothing at this URL."),
)
SUSPENDED = to_pb_denial(
    Verdict.SUSPENDED,
    Problem(Kind.TENANT_SUSPENDED, "Your organisation's access is suspended."),
)
FORBIDDEN = {
    permission: to_pb_denial(
        Verdict.FORBIDDEN,
        Problem(Kind.FORBIDDEN, f"This API key lacks the scope {permission}."),
    )
    for permission in Permission
}
# Ours, not the client's: an outage must never look like a bad key.
UNAVAILABLE = to_pb_denial(
    Verdict.UNAVAILABLE,
    Problem(
        Kind.UNAVAILABLE,
        "API keys can't be checked right now; try again in a moment.",
        headers={"retry-after": "1"},
    ),
)
