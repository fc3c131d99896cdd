"""Every guard of envoy.yaml: how to take it away, and the rows that must notice.

A place names a part of the configuration (`places`): a route, a filter, a field of one.
"""

import dataclasses

from tests.e2e.attacks import changes
from tests.e2e.attacks.places import BUFFER, COMMON, HTTP2
from tests.e2e.attacks.rig import Change

_AUTHZ = "envoy.filters.http.ext_authz"
_EXTPROC = "envoy.filters.http.ext_proc"
_STREAMS = "streams"


@dataclasses.dataclass(frozen=True)
class Guard:
    """One guard; without it at least one of the rows turns red."""

    place: str
    remove: Change
    rows: tuple[str, ...]


GUARDS = [
    Guard("bootstrap.admin", changes.open_admin, ("admin-20", "admin-22")),
    Guard("host.domains", changes.any_host, ("host-01", "host-26")),
    *(
        Guard(f"manager.{name}", changes.field(name, value=value), rows)
        for name, value, rows in (
            ("use_remote_address", False, ("header-58", "header-60")),
            ("generate_request_id", False, ("header-60",)),
            ("preserve_external_request_id", True, ("header-60", "header-61")),
            ("normalize_path", False, ("path-30", "path-31")),
            ("merge_slashes", False, ("path-34",)),
            (
                "path_with_escaped_slashes_action",
                "KEEP_UNCHANGED",
                ("path-40", "path-42"),
            ),
            ("strip_any_host_port", False, ("host-24",)),
            ("max_request_headers_kb", 96, ("flood-12", "path-51")),
            ("request_headers_timeout", "60s", ("body-50",)),
        )
    ),
    *(
        Guard(f"{outer}.{name}", changes.field(outer, name, value=value), rows)
        for outer, name, value, rows in (
            (COMMON, "max_headers_count", 10_000, ("flood-10", "flood-11")),
            (COMMON, "max_stream_duration", "60s", ("body-51",)),
            (
                COMMON,
                "headers_with_underscores_action",
                "ALLOW",
                ("header-10", "header-12"),
            ),
            (HTTP2, "max_concurrent_streams", None, ("flood-01",)),
            (HTTP2, "initial_stream_window_size", None, ("flood-02",)),
            (HTTP2, "initial_connection_window_size", None, ("flood-03",)),
            (HTTP2, "connection_keepalive", None, ("flood-20",)),
        )
    ),
    *(
        Guard(f"early.{name}", changes.mutation(name), rows)
        for name, rows in (
            ("x-tollhouse-", ("header-17", "header-20")),
            ("x-envoy-", ("header-38",)),
            ("traceparent", ("header-40",)),
            ("baggage", ("header-42",)),
            ("x-b3-", ("header-43",)),
            ("b3", ("header-44",)),
            ("x-client-trace-id", ("header-45",)),
            ("remote-.+", ("header-46",)),
            ("x-(remote", ("header-46",)),
            ("x-host", ("header-48",)),
            ("x-(access", ("header-49",)),
        )
    ),
    Guard("filter.buffer", changes.without_filter(BUFFER), ("body-04", "body-05")),
    Guard(
        "buffer.max_request_bytes",
        changes.of_filter(BUFFER, "max_request_bytes", value=8_388_608),
        ("body-04",),
    ),
    Guard("filter.tries", changes.without_filter("tries"), ("tries-01",)),
    Guard(
        "filter.ext_authz",
        changes.without_filter(_AUTHZ),
        ("authorization-01", "authorization-30"),
    ),
    Guard(
        "ext_authz.status_on_error",
        changes.of_filter(_AUTHZ, "status_on_error"),
        ("outage-01",),
    ),
    Guard("filter.ext_proc", changes.without_filter(_EXTPROC), ("json-01", "model-01")),
    Guard("ext_proc.disabled", changes.always(_EXTPROC), ("method-19",)),
    Guard(
        "ext_proc.status_on_error",
        changes.of_filter(_EXTPROC, "status_on_error"),
        ("outage-03",),
    ),
    Guard(
        "ext_proc.processing_mode.request_header_mode",
        changes.of_filter(
            _EXTPROC, "processing_mode", "request_header_mode", value="SKIP"
        ),
        ("body-11",),
    ),
    Guard(
        "ext_proc.processing_mode.request_body_mode",
        changes.of_filter(
            _EXTPROC, "processing_mode", "request_body_mode", value="NONE"
        ),
        ("json-01",),
    ),
    Guard(
        "ext_proc.metadata_options.forwarding_namespaces",
        changes.of_filter(_EXTPROC, "metadata_options", "forwarding_namespaces"),
        ("model-01",),
    ),
    Guard("filter.streams", changes.without_filter(_STREAMS), ("grpc-52",)),
    Guard("streams.disabled", changes.always(_STREAMS), ("method-19",)),
    Guard(
        "streams.processing_mode.request_header_mode",
        changes.of_filter(
            _STREAMS, "processing_mode", "request_header_mode", value="SKIP"
        ),
        ("grpc-52",),
    ),
    Guard(
        "streams.processing_mode.request_body_mode",
        changes.of_filter(
            _STREAMS, "processing_mode", "request_body_mode", value="NONE"
        ),
        ("grpc-52",),
    ),
    Guard(
        "streams.metadata_options.forwarding_namespaces",
        changes.of_filter(_STREAMS, "metadata_options", "forwarding_namespaces"),
        ("grpc-52",),
    ),
    *(
        Guard(f"route.{name}", changes.without_route(name), rows)
        for name, rows in (
            ("stream-unadmitted", ("grpc-52",)),
            ("grpc-unadmitted", ("grpc-72",)),
            ("triton-tells-method", ("infer-16",)),
            ("triton-works-method", ("infer-17",)),
            ("triton-tells", ("infer-42",)),
            ("triton-works", ("infer-40",)),
            ("triton-tells-unadmitted", ("infer-10",)),
            ("triton-works-unadmitted", ("infer-09",)),
            ("grpc-unimplemented", ("grpc-43", "grpc-71")),
            ("tunnel", ("method-22",)),
            ("far-too-large", ("body-06",)),
            ("too-large", ("body-13",)),
            ("content-encoding", ("body-20", "body-27")),
            ("healthz-method", ("method-18",)),
            ("models-method", ("method-16",)),
            ("model-method", ("method-40",)),
            ("api-method", ("method-01",)),
            ("api", ("header-01",)),
            ("api-unadmitted", ("json-01",)),
            ("models", ("model-04",)),
            ("model", ("model-50",)),
        )
    ),
    Guard("proof.stream", changes.of_routes(changes.any_proof, "stream"), ("grpc-52",)),
    *(
        Guard(f"proof.{name}", changes.of_routes(changes.any_proof, name), rows)
        for name, rows in (
            ("api", ("header-01",)),
            ("grpc", ("grpc-72",)),
            ("triton-tells", ("infer-01",)),
            ("triton-works", ("infer-03",)),
        )
    ),
    *(
        Guard(f"exact.{name}", changes.loosened(name), rows)
        for name, rows in (
            ("api", ("path-05", "path-70")),
            ("grpc", ("grpc-80",)),
            ("triton-tells", ("triton-13",)),
            ("triton-works", ("infer-13",)),
        )
    ),
    *(
        Guard(f"unbuffered.{name}", changes.of_routes(changes.buffered, name), rows)
        for name, rows in (
            ("stream-unadmitted", ("grpc-54",)),
            ("grpc-unimplemented", ("grpc-71",)),
            ("far-too-large", ("body-06",)),
            ("too-large", ("body-13",)),
        )
    ),
    *(
        Guard(f"exact.{path}", changes.prefix(path), rows)
        for path, rows in (
            ("/v1/models", ("path-23",)),
            ("/healthz", ("path-24",)),
            ("/inference.GRPCInferenceService/ModelStreamInfer", ("grpc-64",)),
        )
    ),
    *(
        Guard(f"private.{name}", changes.kept(name), rows)
        for name, rows in (
            ("x-tollhouse-admitted", ("header-01",)),
            ("x-tollhouse-cluster", ("header-01",)),
            ("x-envoy-external-address", ("header-01",)),
            ("x-forwarded-for", ("header-54",)),
            ("x-forwarded-host", ("header-55",)),
            ("forwarded", ("header-56",)),
            ("x-real-ip", ("header-57",)),
            ("x-client-ip", ("header-65",)),
            ("true-client-ip", ("header-66",)),
            ("cf-connecting-ip", ("header-67",)),
            ("api-key", ("header-68",)),
            ("proxy-authorization", ("header-50",)),
            ("cookie", ("header-51",)),
            ("accept-encoding", ("header-52",)),
            ("grpc-accept-encoding", ("header-53",)),
        )
    ),
    *(
        Guard(f"mapper.{name}", changes.mapper(name), rows)
        for name, rows in (
            ("grpc_tries", ("tries-05",)),
            ("anthropic_tries", ("tries-02",)),
            ("triton_tries", ("tries-04",)),
            ("tries", ("tries-01",)),
            ("grpc", ("grpc-08",)),
            ("grpc_slow", ("grpc-81",)),
            ("triton_not_found", ("triton-01",)),
            ("triton_method", ("infer-16",)),
            ("triton_slow", ("infer-50",)),
            ("triton_too_large", ("infer-38",)),
            ("triton_encoding", ("infer-37",)),
            ("triton_unavailable", ("infer-51",)),
            ("own_bad_request", ("json-01", "model-01")),
            ("request_too_large", ("body-01",)),
            ("request_timeout", ("body-51",)),
            ("headers_too_large", ("flood-10",)),
            ("http_version", ("smuggling-46",)),
            ("upgrade", ("method-30",)),
            ("bad_request", ("smuggling-01", "smuggling-21")),
            ("not_found", ("host-01",)),
            ("anthropic", ("outage-10",)),
            ("unavailable", ("outage-01",)),
        )
    ),
]
