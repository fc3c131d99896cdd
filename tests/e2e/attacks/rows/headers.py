"""Headers that claim to be ours, or to know better who asks."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask, chunked, request, send
from tests.e2e.attacks.http2 import ask2
from tests.e2e.attacks.row import (
    NO_BYTE,
    NO_MODEL,
    NOT_HTTP,
    PASSES,
    UNAUTHENTICATED,
    refused,
    rows,
)
from tests.e2e.attacks.rows.bodies import is_chat, is_prompt
from tests.e2e.edge.backend import Received

_STRIP = "early_header_mutation removes x-tollhouse-*"
_ENVOY = "early_header_mutation removes x-envoy-*"
_TRACE = "early_header_mutation removes what names a trace; Envoy begins its own"
_PRIVATE = "request_headers_to_remove of the routes to backends"
_PROOF = b"x-tollhouse-admitted: " + words.PROOF
_CLUSTER = "x-tollhouse-cluster: tiny-chat"
_UNJUDGED = words.BODY.replace(b"tiny-chat", b"no-such-model")
_UNJUDGED_PROMPT = words.PROMPT.replace(b"tiny-chat", b"no-such-model")
"""Bodies that only a request past extproc brings to a backend."""


def _is_ours(received: Received) -> bool:
    return (
        is_chat(received) and received.headers["x-tollhouse-exchange"].count("-") == 4
    )


def _has_own_id(received: Received) -> bool:
    return is_chat(received) and len(received.headers["x-request-id"]) == 36


_FORMS = [
    (1, "a header of ours, lower case", "x-tollhouse-exchange: evil"),
    (2, "a header of ours, upper case", "X-TOLLHOUSE-EXCHANGE: EVIL"),
    (3, "a header of ours, mixed case", "X-Tollhouse-Tenant: evil"),
    (4, "a header of ours behind a tab", "x-tollhouse-tenant:\tevil"),
    (5, "a header of ours, twice", "x-tollhouse-plan: evil\r\nx-tollhouse-plan: evil"),
    (6, "a header of ours, folded", "x-tollhouse-plan: a\r\n evil"),
    (7, "a header of ours, without a value", "x-tollhouse-default-max-tokens:"),
    (8, "a cluster of the client's choice", "x-tollhouse-cluster: authz"),
    (
        9,
        "a header of ours named in Connection",
        "x-tollhouse-plan: evil\r\nte: trailers",
    ),
]
_ENVOYS = [
    (30, "a shorter timeout", "x-envoy-upstream-rq-timeout-ms: 1"),
    (31, "retries of the client's choice", "x-envoy-retry-on: 5xx"),
    (32, "more retries", "x-envoy-max-retries: 99"),
    (33, "another path, told to backends", "x-envoy-original-path: /evil"),
    (34, "a trace that is always kept", "x-envoy-force-trace: evil"),
    (35, "a caller that claims to be internal", "x-envoy-internal: evil"),
    (36, "an operation of the client's choice", "x-envoy-decorator-operation: evil"),
    (38, "a peer of a mesh, claimed", "x-envoy-peer-metadata: evil"),
    (37, "an address of the client's choice", "x-envoy-external-address: evil"),
]
_TRACES = [
    (
        40,
        "a trace id of the client's choice",
        f"traceparent: 00-{words.TRACE}-00f067aa0ba902b7-01",
    ),
    (41, "trace state of the client's choice", "tracestate: evil=1"),
    (42, "baggage that later services would trust", "baggage: tenant=evil"),
    (43, "a trace id, Zipkin's way", "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124"),
    (44, "a trace in one header, Zipkin's way", "b3: 0"),
    (45, "a trace that is kept because a client says so", "x-client-trace-id: evil"),
]
_PRIVATES = [
    (
        50,
        "credentials for a proxy reach the backend",
        "proxy-authorization: Basic evil",
    ),
    (51, "cookies reach the backend", "cookie: session=evil"),
    (52, "a compressed answer blinds the meter", "accept-encoding: gzip, br"),
    (53, "a compressed gRPC answer blinds the meter", "grpc-accept-encoding: gzip"),
    (54, "an address for the backend to trust", "x-forwarded-for: 203.0.113.7"),
    (55, "a host for the backend to trust", "x-forwarded-host: evil.test"),
    (56, "a standard's address for the backend to trust", "forwarded: for=evil"),
    (57, "another address for the backend to trust", "x-real-ip: evil"),
    (65, "a proxy's address for the backend to trust", "x-client-ip: evil"),
    (66, "a network's address for the backend to trust", "true-client-ip: evil"),
    (67, "another network's address to trust", "cf-connecting-ip: evil"),
    (68, "a key for another service reaches the backend", "api-key: evil"),
    (69, "a key of Anthropic's reaches the backend", "x-api-key: evil"),
]

ROWS = [
    *rows(
        "header",
        [
            (at, what, _STRIP, ask(words.CHAT, it), PASSES, _is_ours)
            for at, what, it in _FORMS
        ],
    ),
    *rows(
        "header",
        [
            (
                10,
                "the underscore twin of the proof",
                "headers_with_underscores_action rejects",
                ask(words.CHAT, b"x_tollhouse_admitted: " + words.PROOF),
                NOT_HTTP,
            ),
            (
                11,
                "the underscore twin of a tenant's header",
                "headers_with_underscores_action rejects",
                ask(words.CHAT, "X_Tenant_Id: evil"),
                NOT_HTTP,
            ),
            (
                12,
                "the underscore twin on HTTP/2",
                "headers_with_underscores_action rejects",
                ask2(words.CHAT, ("x_tollhouse_admitted", words.PROOF)),
                refused(400, NO_BYTE, code="bad_request"),
            ),
            (
                13,
                "a header of ours as a trailer",
                "trailers of HTTP/1 are dropped",
                send(
                    request(
                        words.CHAT, "transfer-encoding: chunked", body=b"", length=False
                    ),
                    chunked(words.BODY, trailers=b"x-tollhouse-exchange: evil\r\n"),
                ),
                PASSES,
                _is_ours,
            ),
            (
                14,
                "a header of ours as a trailer on HTTP/2",
                "backends are HTTP/1.1 without trailers",
                ask2(trailers=[("x-tollhouse-exchange", "evil")]),
                PASSES,
                _is_ours,
            ),
            (
                15,
                "a header of ours in upper case on HTTP/2",
                "the codec refuses it (RFC 9113 §8.2)",
                ask2(words.CHAT, ("X-Tollhouse-Exchange", "evil")),
                refused(400, NO_BYTE, code="bad_request"),
            ),
            (
                16,
                "an unjudged body with a guessed proof",
                "the proof is random and compared whole",
                ask(words.CHAT, "x-tollhouse-admitted: true", _CLUSTER, body=_UNJUDGED),
                NO_MODEL,
            ),
            (
                17,
                "an unjudged body with the right proof",
                _STRIP,
                ask(words.CHAT, _PROOF, _CLUSTER, body=_UNJUDGED),
                NO_MODEL,
            ),
            (
                18,
                "an unjudged body with the right proof, to completions",
                _STRIP,
                ask(words.COMPLETIONS, _PROOF, _CLUSTER, body=_UNJUDGED_PROMPT),
                NO_MODEL,
            ),
            (
                19,
                "the right proof in upper case",
                _STRIP,
                ask(
                    words.CHAT,
                    b"X-TOLLHOUSE-ADMITTED: " + words.PROOF,
                    _CLUSTER,
                    body=_UNJUDGED,
                ),
                NO_MODEL,
            ),
            (
                20,
                "the right proof on HTTP/2",
                _STRIP,
                ask2(
                    words.CHAT,
                    ("x-tollhouse-admitted", words.PROOF),
                    ("x-tollhouse-cluster", "tiny-chat"),
                    body=_UNJUDGED,
                ),
                NO_MODEL,
            ),
            (
                21,
                "the right proof as a trailer",
                "trailers choose no route",
                ask2(
                    body=_UNJUDGED,
                    trailers=[
                        ("x-tollhouse-admitted", words.PROOF),
                        ("x-tollhouse-cluster", "tiny-chat"),
                    ],
                ),
                NO_MODEL,
            ),
            (
                22,
                "the right proof without a key",
                _STRIP,
                ask(words.CHAT, _PROOF, _CLUSTER, key=None),
                UNAUTHENTICATED,
            ),
            (
                23,
                "the right proof twice, one of them wrong",
                _STRIP,
                ask(
                    words.CHAT,
                    _PROOF,
                    "x-tollhouse-admitted: x",
                    _CLUSTER,
                    body=_UNJUDGED,
                ),
                NO_MODEL,
            ),
            (
                25,
                "a header of ours, to completions",
                _STRIP,
                ask(words.COMPLETIONS, "x-tollhouse-exchange: evil", body=words.PROMPT),
                PASSES,
                is_prompt,
            ),
            (
                24,
                "the proof opens the list of models",
                _STRIP,
                ask(words.MODELS, _PROOF, _CLUSTER, method="GET", body=b"", key=None),
                UNAUTHENTICATED,
            ),
        ],
    ),
    *rows(
        "header",
        [
            (at, what, _ENVOY, ask(words.CHAT, it), PASSES, _is_ours)
            for at, what, it in _ENVOYS
        ],
    ),
    *rows(
        "header",
        [
            (at, what, _TRACE, ask(words.CHAT, it), PASSES, _is_ours)
            for at, what, it in _TRACES
        ],
    ),
    *rows(
        "header",
        [
            (at, what, _PRIVATE, ask(words.CHAT, it), PASSES, _is_ours)
            for at, what, it in _PRIVATES
        ],
    ),
    *rows(
        "header",
        [
            (
                60,
                "a request id of the client's choice",
                "preserve_external_request_id: false",
                ask(words.CHAT, "x-request-id: evil"),
                PASSES,
                _has_own_id,
            ),
            (
                61,
                "a request id that is already known",
                "preserve_external_request_id: false",
                ask(words.CHAT, "x-request-id: 00000000-0000-4000-8000-00000000evil"),
                PASSES,
                _has_own_id,
            ),
            (
                62,
                "an address inside the key's networks, claimed",
                "use_remote_address: the peer is the client",
                ask(words.CHAT, "x-forwarded-for: 203.0.113.7", key=words.BOUND),
                refused(403, code="insufficient_permissions"),
            ),
            (
                58,
                "a scheme of the client's choice",
                "use_remote_address: Envoy says it",
                ask(words.CHAT, "x-forwarded-proto: evil"),
                PASSES,
                _is_ours,
            ),
            (
                63,
                "a certificate of the client's, claimed",
                "x-forwarded-client-cert is dropped",
                ask(words.CHAT, "x-forwarded-client-cert: By=evil"),
                PASSES,
                _is_ours,
            ),
            (
                64,
                "our headers, fished for in an answer",
                "answers.lua passes none; the router adds no x-envoy-*",
                ask(),
                PASSES,
                _is_ours,
            ),
        ],
    ),
]
