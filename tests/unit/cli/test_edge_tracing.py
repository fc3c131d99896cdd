"""check-config finds what would lose traces, or have them say too much."""

import pytest

from tollhouse.cli.check_config import check
from tollhouse.cli.places import default_envoy, repository_root

ENVOY = default_envoy()
CONFIG = repository_root() / "tollhouse.yaml"
HTTP2 = "{ http2_protocol_options: { connection_keepalive: { interval: 10s"


@pytest.mark.parametrize(
    "harm",
    [
        [  # of the connection manager
            (
                '                  span_id: "%SPAN_ID%"\n',
                "",
                "access_log: the ledger's json_format lacks span_id",
                "settlement needs them",
            ),
            (
                "- remove: x-client-trace-id",
                "- remove: x-other",
                "early_header_mutation_extensions: with x-client-trace-id clients have",
                "add `remove: x-client-trace-id`",
            ),
            (
                "- remove: traceparent",
                "- remove: x-other",
                "early_header_mutation_extensions: clients' traceparent is kept",
                "add `remove: traceparent` here, or say trust there",
            ),
            (
                "random_sampling: { value: 1 }",
                "random_sampling: { value: 100 }",
                "tracing.random_sampling: 100.0000% of the traces are kept",
                "sample_ratio says 1.0000%; make them the same",
            ),
            (
                "spawn_upstream_span: true",
                "spawn_upstream_span: false",
                "tracing.spawn_upstream_span: must be true",
                "the spans of backends",
            ),
            (
                'tag: http.url, literal: { value: "-" }',
                'tag: http.url, value: "%REQ(:PATH)%"',
                "tracing.custom_tags: http.url would be as clients said it",
                "give each a literal",
            ),
            (
                "key: x-tollhouse-trace,",
                "key: x-other,",
                "http_filters: no answer says its trace",
                "sets x-tollhouse-trace to %TRACE_ID%",
            ),
            (
                "  - name: collector\n",
                "  - name: other\n",
                "static_resources.clusters: has no cluster `collector`",
                "where spans go; add it",
            ),
        ],
        [  # of the collector
            (
                "max_requests: 8 }",
                "max_requests: 9999 }",
                "(collector).circuit_breakers: spans would fill the memory",
                "set max_requests, to 64 at most",
            ),
            (
                "{ max_stream_duration: 5s }",
                "{ idle_timeout: 5s }",
                "(collector): Envoy would wait for a silent collector for ever",
                "common_http_protocol_options with max_stream_duration",
            ),
            (
                f"{HTTP2}, timeout: 5s }} }} }}",
                "{ http_protocol_options: {} }",
                "(collector): must speak HTTP/2",
                "explicit_http_config with http2_protocol_options",
            ),
        ],
        [
            (
                "envoy_grpc: { cluster_name: collector }",
                "google_grpc: { target_uri: collector, stat_prefix: c }",
                "tracing.provider: must be OpenTelemetry's",
                "over envoy_grpc to a cluster",
            ),
        ],
    ],
)
def test_harmful_edits_are_found(tmp_path, harm):
    """Each with its place and remedy, all at once, and nothing else."""
    text = ENVOY.read_text()
    for old, new, _, _ in harm:
        assert old in text
        text = text.replace(old, new)
    changed = tmp_path / "envoy.yaml"
    changed.write_text(text)

    found = list(check(CONFIG, changed))

    assert len(harm) == len(found)
    for _, _, place, remedy in harm:
        assert any(place in it and remedy in it for it in found), place


def test_clients_traces_go_on_where_they_are_trusted(tmp_path):
    """The two files say so together, or neither does."""
    config, envoy = tmp_path / "tollhouse.yaml", tmp_path / "envoy.yaml"
    config.write_text(CONFIG.read_text() + "\ntelemetry: {traceparent: trust}\n")
    trusting = ENVOY.read_text().replace("- remove: traceparent", "- remove: x-other")
    envoy.write_text(trusting)

    assert [] == list(check(config, envoy))
    (line,) = check(config, ENVOY)
    assert "clients' traceparent is removed, and tollhouse.yaml's" in line
    assert "take that out here, or say restart there" in line


def test_without_tracing_nothing_has_a_trace(tmp_path):
    """Ids are Envoy's to make, for exported spans and for all others."""
    before, _, rest = ENVOY.read_text().partition("          tracing:\n")
    envoy = tmp_path / "envoy.yaml"
    envoy.write_text(before + rest[rest.index("\n\n") :])

    (line,) = check(CONFIG, envoy)

    assert "typed_config.tracing: is missing" in line
