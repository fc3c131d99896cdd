"""Answers to Envoy, made once and sent as bytes.

Everything an answer depends on is known when a key is looked up, so a check only picks
one. Building and serialising it each time would cost more than all the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from google.rpc import code_pb2

from tollhouse.core.identity import Credential, Permission, may
from tollhouse.core.problems import Dialect, Kind, Problem
from tollhouse.pb.envoy.config.core.v3 import base_pb2 as core_pb
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

_CODES = {
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    503: code_pb2.UNAVAILABLE,
}


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


Denial = Mapping[Dialect, bytes]
"""One refusal, worded for each API."""


def to_pb_denial(problem: Problem) -> Denial:
    """Render a refusal in every dialect."""
    return {dialect: _denied(problem, dialect) for dialect in Dialect}


def _denied(problem: Problem, dialect: Dialect) -> bytes:
    response = ext_authz.CheckResponse()
    response.status.code = _CODES[problem.status]
    denied = response.denied_response
    denied.status.code = problem.status  # type: ignore[assignment]  # HTTP's numbers
    denied.body = problem.body(dialect).decode()
    headers = dict(problem.headers)
    if dialect is not Dialect.GRPC:
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
    Problem(
        Kind.INVALID_KEY,
        "Incorrect API key. Send a valid one as `Authorization: Bearer th_...`.",
        headers={"www-authenticate": "Bearer"},
    )
)
ELSEWHERE = to_pb_denial(
    Problem(Kind.FORBIDDEN, "This API key may not be used from your network.")
)
# A path without a permission of its own: nothing of ours routes it to a backend.
UNKNOWN = to_pb_denial(
    Problem(Kind.FORBIDDEN, "This API key allows nothing at this URL.")
)
SUSPENDED = to_pb_denial(
    Problem(Kind.TENANT_SUSPENDED, "Your organisation's access is suspended.")
)
FORBIDDEN = {
    permission: to_pb_denial(
        Problem(Kind.FORBIDDEN, f"This API key lacks the scope {permission}.")
    )
    for permission in Permission
}
# Ours, not the client's: an outage must never look like a bad key.
UNAVAILABLE = to_pb_denial(
    Problem(
        Kind.UNAVAILABLE,
        "API keys can't be checked right now; try again in a moment.",
        headers={"retry-after": "1"},
    )
)
