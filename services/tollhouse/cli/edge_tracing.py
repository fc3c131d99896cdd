"""Traces in envoy.yaml: what tollhouse.yaml decides of them, and rules for the rest.

Two lists of findings, because `tollhouse up` writes what tollhouse.yaml says into the
file it starts Envoy with: `findings` hold for every file, `differences` for one that
Envoy reads as it is.
"""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import (
    v3 as mutating,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (  # noqa: E501
    v3 as early,
)
from envoy_data_plane.envoy.type.v3 import Percent

from tollhouse.cli import edge_managers
from tollhouse.cli.edge_clusters import options_of, speaks_http2
from tollhouse.cli.edge_headers import is_removed
from tollhouse.core.catalog import Telemetry, Traceparent

TRACE_HEADER = "x-tollhouse-trace"
MOST_BATCHES = 64
"""On their way to a collector: 256 spans of about 1 KB each."""
_CONTEXT = "traceparent"
_FORCING = ("x-client-trace-id", "x-envoy-force-trace")
"""With either a client would have its own requests traced."""
_CLIENTS_WORDS = (
    *("http.url", "user_agent"),
    *("grpc.path", "grpc.authority", "grpc.content_type", "grpc.timeout"),
)
"""What Envoy puts on a span by itself, as the client said it."""


def decide(
    message: early.HeaderMutation | hcm.HttpConnectionManagerTracing,
    telemetry: Telemetry,
) -> None:
    """Write what tollhouse.yaml says into this part of a bootstrap."""
    if isinstance(message, hcm.HttpConnectionManagerTracing):
        message.random_sampling = Percent(value=telemetry.sample_ratio * 100)
        return
    others = [it for it in message.mutations if it.remove != _CONTEXT]
    if telemetry.traceparent is Traceparent.RESTART:
        others.append(HeaderMutation(remove=_CONTEXT))
    message.mutations = others


def differences(bootstrap: Bootstrap, telemetry: Telemetry) -> Iterator[str]:
    """Yield where a file says something else than tollhouse.yaml."""
    for path, manager in edge_managers.every(bootstrap):
        yield from _policy_differences(path, manager, telemetry.traceparent)
        share = _share(manager.tracing)
        if share is not None and abs(share - telemetry.sample_ratio) > 1e-6:  # noqa: PLR2004
            yield (
                f"{path}.tracing.random_sampling: {share:.4%} of the traces are kept,"
                f" tollhouse.yaml's telemetry.sample_ratio says"
                f" {telemetry.sample_ratio:.4%}; make them the same"
            )


def findings(
    path: str, manager: hcm.HttpConnectionManager, bootstrap: Bootstrap
) -> Iterator[str]:
    """Yield what is wrong with a connection manager's traces."""
    for name in _FORCING:
        if not is_removed(manager, name):
            yield (
                f"{path}.early_header_mutation_extensions: with {name} clients have"
                f" all their requests traced; add `remove: {name}`"
            )
    if not _tells_the_trace(manager):
        yield (
            f"{path}.http_filters: no answer says its trace; add header_mutation"
            f" behind answers.lua, which sets {TRACE_HEADER} to %TRACE_ID%"
        )
    tracing = manager.tracing
    if tracing is None:
        yield f"{path}.tracing: is missing, so nothing has a trace; add it"
        return
    if not tracing.spawn_upstream_span:
        yield (
            f"{path}.tracing.spawn_upstream_span: must be true: the spans of backends"
            " hang on it"
        )
    literal = {it.tag for it in tracing.custom_tags if it.literal}
    if told := [name for name in _CLIENTS_WORDS if name not in literal]:
        yield (
            f"{path}.tracing.custom_tags: {', '.join(told)} would be as clients said"
            " it, with whatever secret is in there; give each a literal"
        )
    yield from _provider_findings(f"{path}.tracing.provider", tracing, bootstrap)


def _provider_findings(
    path: str, tracing: hcm.HttpConnectionManagerTracing, bootstrap: Bootstrap
) -> Iterator[str]:
    config = tracing.provider.typed_config if tracing.provider else None
    provider = config.unpack() if config else None
    service = (
        provider.grpc_service if isinstance(provider, OpenTelemetryConfig) else None
    )
    if service is None or service.envoy_grpc is None:
        yield f"{path}: must be OpenTelemetry's, over envoy_grpc to a cluster"
        return
    resources = bootstrap.static_resources
    name = service.envoy_grpc.cluster_name
    for cluster in resources.clusters if resources else ():
        if cluster.name == name:
            yield from _collector_findings(cluster)
            return
    yield f"static_resources.clusters: has no cluster `{name}`, where spans go; add it"


def _collector_findings(cluster: Cluster) -> Iterator[str]:
    path = f"static_resources.clusters ({cluster.name})"
    if not speaks_http2(cluster):
        yield (
            f"{path}: must speak HTTP/2, as gRPC does; set explicit_http_config with"
            " http2_protocol_options"
        )
    breakers = cluster.circuit_breakers.thresholds if cluster.circuit_breakers else ()
    if not breakers or any((it.max_requests or 1024) > MOST_BATCHES for it in breakers):
        yield (
            f"{path}.circuit_breakers: spans would fill the memory while the collector"
            f" is slow; set max_requests, to {MOST_BATCHES} at most"
        )
    options = options_of(cluster)
    common = options.common_http_protocol_options if options else None
    if common is None or not common.max_stream_duration:
        yield (
            f"{path}: Envoy would wait for a silent collector for ever; set"
            " common_http_protocol_options with max_stream_duration"
        )


def _policy_differences(
    path: str, manager: hcm.HttpConnectionManager, policy: Traceparent
) -> Iterator[str]:
    place = f"{path}.early_header_mutation_extensions"
    match is_removed(manager, _CONTEXT), policy:
        case False, Traceparent.RESTART:
            yield (
                f"{place}: clients' {_CONTEXT} is kept, and tollhouse.yaml's"
                f" telemetry.traceparent is restart; add `remove: {_CONTEXT}` here, or"
                " say trust there"
            )
        case True, Traceparent.TRUST:
            yield (
                f"{place}: clients' {_CONTEXT} is removed, and tollhouse.yaml's"
                " telemetry.traceparent is trust; take that out here, or say restart"
                " there"
            )


def _tells_the_trace(manager: hcm.HttpConnectionManager) -> bool:
    """Whether a filter does so on the way back before any script is asked."""
    for item in reversed(manager.http_filters):
        match item.typed_config.unpack() if item.typed_config else None:
            case Lua():
                return False
            case mutating.HeaderMutation(mutations=mutations) if mutations:
                for it in mutations.response_mutations:
                    header = it.append.header if it.append else None
                    if header is not None and header.key == TRACE_HEADER:
                        return header.value == "%TRACE_ID%"
    return False


def _share(tracing: hcm.HttpConnectionManagerTracing | None) -> float | None:
    """The share of traces that is kept; what a file does not say is all."""
    if tracing is None:
        return None
    parts = (tracing.random_sampling, tracing.overall_sampling)
    return min(100.0 if it is None else it.value for it in parts) / 100
