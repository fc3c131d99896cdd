"""check-config finds each edit that would break a promise, and says what to do."""

import pytest
import yaml

from tollhouse.cli.__main__ import main
from tollhouse.cli.check_config import check
from tollhouse.cli.places import default_envoy, repository_root

ENVOY = default_envoy()
CONFIG = repository_root() / "tollhouse.yaml"
GUARD = (
    "headers: [{ name: x-tollhouse-admitted,"
    " string_match: { exact: ADMISSION_PROOF } }]"
)


def test_the_repositorys_files_are_fine(capsys):
    """What `make check` relies on."""
    assert main(["check-config", "--config", str(CONFIG), "--envoy", str(ENVOY)]) == 0
    assert "are fine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "place", "remedy"),
    [
        pytest.param(
            "safe_regex: *api, " + GUARD,
            "safe_regex: *api",
            "(api): leads to a backend without the admission guard",
            "match header x-tollhouse-admitted exact ADMISSION_PROOF",
            id="unguarded",
        ),
        pytest.param(
            GUARD,
            "headers: [{ name: x-tollhouse-admitted, present_match: true }]",
            "(api): leads to a backend without the admission guard",
            "match header x-tollhouse-admitted exact ADMISSION_PROOF",
            id="guarded by mere presence",
        ),
        pytest.param(
            GUARD,
            GUARD.replace("}]", ", invert_match: true }]"),
            "(api): leads to a backend without the admission guard",
            "match header x-tollhouse-admitted exact ADMISSION_PROOF",
            id="guard inverted",
        ),
        pytest.param(
            GUARD,
            GUARD.replace("exact", "prefix"),
            "(api): leads to a backend without the admission guard",
            "match header x-tollhouse-admitted exact ADMISSION_PROOF",
            id="guarded by a prefix",
        ),
        pytest.param(
            "&private\n                - x-tollhouse-admitted\n",
            "&private\n",
            "(api).request_headers_to_remove: the admission proof would reach",
            "add x-tollhouse-admitted",
            id="proof leaks",
        ),
        pytest.param(
            "- remove_on_match: { key_matcher: { prefix: x-tollhouse- } }",
            "",
            "early_header_mutation_extensions: clients' own",
            "add remove_on_match",
            id="no early strip",
        ),
        pytest.param(
            "per_connection_buffer_limit_bytes: 8388608",
            "per_connection_buffer_limit_bytes: 3145728",
            "listeners[0].per_connection_buffer_limit_bytes: is 3145728",
            "set 6291456 or more",
            id="sizes",
        ),
        pytest.param(
            "failure_mode_allow: false",
            "failure_mode_allow: true",
            "failure_mode_allow: true lets requests pass",
            "set false",
            id="fail open",
        ),
        pytest.param(
            "status_on_error: { code: ServiceUnavailable }",
            "status_on_error: { code: Forbidden }",
            "status_on_error: an outage of ours should answer 503",
            "set {code: ServiceUnavailable}",
            id="outage looks like a bad key",
        ),
        pytest.param(
            "request_header_mode: SEND",
            "request_header_mode: SKIP",
            "processing_mode.request_header_mode: must be SEND",
            "never judged",
            id="bodyless requests unjudged",
        ),
        pytest.param(
            "request_body_mode: BUFFERED",
            "request_body_mode: STREAMED",
            "processing_mode.request_body_mode: must be BUFFERED",
            "what is judged is forwarded",
            id="body not buffered",
        ),
        pytest.param(
            "response_body_mode: NONE",
            "response_body_mode: STREAMED",
            "processing_mode.response_body_mode: must be NONE",
            "the meter counts answers",
            id="answers through Python",
        ),
        pytest.param(
            "- name: envoy.access_loggers.file",
            "- name: envoy.access_loggers.file\n            # x",
            "",
            "",
            id="(nothing wrong)",
        ),
        pytest.param(
            '                  facts: "%DYNAMIC_METADATA(tollhouse:facts)%"\n',
            "",
            "access_log: the ledger's json_format lacks facts",
            "settlement needs them",
            id="ledger field missing",
        ),
        pytest.param(
            '%DYNAMIC_METADATA(tollhouse:exchange)%"\n                  tenant',
            '-"\n                  tenant',
            "",
            "",
            id="(values are not judged)",
        ),
        *(
            pytest.param(
                '"%ROUTE_NAME%"',
                f'"{operator}"',
                f"access_log[1].typed_config: would log {what}",
                "take that out",
                id=f"logged: {operator}",
            )
            for operator, what in (
                ("%REQ(AUTHORIZATION)%", "`authorization`"),
                ("%REQ(USER-AGENT?X-API-Key):9% more", "`x-api-key`"),
                ("%REQ(cookie)%", "`cookie`"),
                ("%RESP(SET-COOKIE)%", "`set-cookie`"),
                ("%REQ(x-tollhouse-admitted)%", "`x-tollhouse-admitted`"),
                ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "the path"),
                ("%REQ(Referer)%", "the path"),
                ("%PATH(NQ)%", "the path"),
                ("%PATH%", "the path"),
                ("%QUERY_PARAM(key)%", "the query"),
            )
        ),
        pytest.param(
            "access_log_options: { access_log_flush_interval: 5s }",
            "access_log_options: { access_log_flush_interval: 60s }",
            "access_log_options.access_log_flush_interval: must be set",
            "10 s at most",
            id="beats too rare",
        ),
        pytest.param(
            "  - name: tiny-chat\n",
            "  - name: tiny-chatter\n",
            "clusters: model `tiny-chat` of tollhouse.yaml goes to cluster `tiny-chat`",
            "authz, extproc, collector, tiny-chatter, tiny-chat-grpc, tiny-chat-http in"
            " models.tiny-chat.cluster",
            id="cluster missing",
        ),
        pytest.param(
            "filename: meter.lua",
            "filename: other.lua",
            "http_filters: the meter (meter.lua) is missing",
            "add it",
            id="no meter",
        ),
        pytest.param(
            "filename: answers.lua",
            "filename: other.lua",
            "http_filters: answers.lua is missing",
            "add it",
            id="no answers.lua",
        ),
        pytest.param(
            "filename: tries.lua",
            "filename: other.lua",
            "http_filters: tries.lua is missing",
            "add it",
            id="no tries.lua",
        ),
        pytest.param(
            "path_with_escaped_slashes_action: REJECT_REQUEST",
            "path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD",
            "path_with_escaped_slashes_action: %2F",
            "set REJECT_REQUEST",
            id="escaped slashes",
        ),
        pytest.param(
            "headers_with_underscores_action: REJECT_REQUEST",
            "headers_with_underscores_action: ALLOW",
            "headers_with_underscores_action: a backend",
            "set REJECT_REQUEST",
            id="underscores",
        ),
        pytest.param(
            "normalize_path: true",
            "normalize_path: false",
            "normalize_path: dots",
            "set true",
            id="dots",
        ),
        pytest.param(
            "use_remote_address: true",
            "use_remote_address: false",
            "use_remote_address: clients",
            "set true",
            id="claimed address",
        ),
        pytest.param(
            "max_stream_duration: 30s",
            "max_stream_duration: 0s",
            "common_http_protocol_options.max_stream_duration: slow uploads",
            "set 30s",
            id="slow uploads",
        ),
        pytest.param(
            "max_stream_duration: { max_stream_duration: 600s }",
            "priority: DEFAULT",
            "(api).route.max_stream_duration: answers are cut",
            "set 600s",
            id="slow answers",
        ),
        pytest.param(
            "max_stream_duration: { max_stream_duration: 600s }",
            "max_stream_duration: { grpc_timeout_header_max: 600s }",
            "(api).route.max_stream_duration: answers are cut",
            "set 600s",
            id="slow answers but gRPC's",
        ),
        pytest.param(
            "match: { safe_regex: *api, headers: [{ name: x-tollhouse-admitted,",
            "match: { prefix: /v1/, headers: [{ name: x-tollhouse-admitted,",
            "(api).match: is no exact path",
            "use path",
            id="prefix to a backend",
        ),
        pytest.param(
            "match: { safe_regex: *api, headers: [{ name: x-tollhouse-admitted,",
            'match: { safe_regex: { regex: "/v1/.*" }, headers: [{ name:'
            " x-tollhouse-admitted,",
            "(api).match: is no exact path",
            "use path",
            id="any path to a backend",
        ),
        pytest.param(
            "                - cookie\n",
            "",
            "request_headers_to_remove: the backend gets cookie",
            "cookie",
            id="cookies to a backend",
        ),
        pytest.param(
            "v3.FilterConfig\n",
            "v3.FilterConfig\n                    disabled: true\n",
            "route_config: no route enables ext_proc",
            "enable it on the routes before admission",
            id="nothing admits",
        ),
        pytest.param(
            "  - name: tiny-chat-grpc\n",
            "  - name: tiny-chat-other\n",
            "tiny-chat` of tollhouse.yaml goes to cluster `tiny-chat-grpc`",
            "in models.tiny-chat.triton.grpc",
            id="Triton's cluster missing",
        ),
        pytest.param(
            "bytes: 1048576\n    typed_extension_protocol_options: *http2\n",
            "bytes: 1048576\n",
            "`tiny-chat-grpc`, which is models.tiny-chat.triton.grpc",
            "explicit_http_config with http2_protocol_options",
            id="gRPC over HTTP/1.1",
        ),
        pytest.param(
            "name: streams\n            disabled: true",
            "name: streams",
            ".disabled: must be true",
            "only the routes of streams may enable it",
            id="every body a stream",
        ),
        pytest.param(
            "envoy.filters.http.buffer: &unbuffered",
            "unused: &unbuffered",
            "(stream-unadmitted).typed_per_filter_config: the buffer would wait",
            "disable it here",
            id="streams deadlock",
        ),
        pytest.param(
            "envoy.filters.http.ext_proc:                           # names",
            "unused:  #",
            "(stream-unadmitted).typed_per_filter_config: nobody names the exchange",
            "enable the other ext_proc",
            id="streams without a name",
        ),
    ],
)
def test_a_harmful_edit_is_found(tmp_path, old, new, place, remedy):
    """Each finding names file, place and remedy; harmless edits find nothing."""
    text = ENVOY.read_text()
    assert old in text
    changed = tmp_path / "envoy.yaml"
    changed.write_text(text.replace(old, new))

    found = list(check(CONFIG, changed))

    assert all(line.startswith(f"{changed}: ") for line in found)
    if place:
        assert any(place in line and remedy in line for line in found)
    else:
        assert found == []


def test_filters_that_are_missing_or_out_of_order_are_found(tmp_path):
    """Order decides: ext_proc before authz would judge strangers."""
    text = ENVOY.read_text()
    changed = tmp_path / "envoy.yaml"
    changed.write_text(
        text.replace(
            "filters.http.buffer.v3.Buffer\n", "filters.http.cors.v3.Cors\n"
        ).replace("              max_request_bytes: 3145728", "              #")
    )

    found = list(check(CONFIG, changed))

    assert any("`buffer` must come first" in line for line in found)


def test_all_faults_of_both_files_are_reported_at_once(tmp_path, capsys):
    """One edit, not one for each fault."""
    envoy, config = tmp_path / "envoy.yaml", tmp_path / "tollhouse.yaml"
    envoy.write_text(ENVOY.read_text().replace("codec_type:", "codec:"))
    config.write_text(CONFIG.read_text().replace("context:", "contxt:"))

    status = main(["check-config", "--config", str(config), "--envoy", str(envoy)])

    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert all(line.startswith("error: ") for line in lines)
    assert any(f"{config}: models.tiny-chat.contxt" in line for line in lines)
    assert any(f"{envoy}: static_resources.listeners[0]" in line for line in lines)


def test_an_empty_bootstrap_is_not_fine(tmp_path):
    """A file without a listener guards nothing."""
    empty = tmp_path / "envoy.yaml"
    empty.write_text("node: {id: a}")

    found = list(check(CONFIG, empty))

    assert any("no listener speaks HTTP" in line for line in found)


def test_an_open_admin_is_found(tmp_path):
    """Without its list of paths it shows the proof that opens the backends."""
    before, _, rest = ENVOY.read_text().partition("  allow_paths:\n")
    changed = tmp_path / "envoy.yaml"
    changed.write_text(before + rest[rest.index("\n\n") :])

    (line,) = check(CONFIG, changed)

    assert line.startswith(f"{changed}: admin.allow_paths: is missing")


@pytest.mark.parametrize(
    ("about", "path"),
    [
        ({"provider": "triton"}, "/healthz"),
        ({"provider": "openai", "server": "nim"}, "/v1/health/ready"),
        ({"provider": "openai"}, "of its server"),
    ],
)
def test_a_fallback_needs_somebody_who_knows_when(tmp_path, about, path):
    """Without checks Envoy calls everybody healthy, and the fallback never serves."""
    model = {
        "cluster": "tiny-chat",
        "operations": ["chat"],
        "context": 100,
        "default_output_tokens": 10,
        "max_output_tokens": 50,
    }
    models = {
        "m": model | about | {"fallback": ["o"]},
        "o": model | {"cluster": "authz"},
    }
    config = tmp_path / "tollhouse.yaml"
    config.write_text(yaml.safe_dump({"models": models, "plans": {"p": {}}}))
    (found,) = check(config, ENVOY)
    assert f"add health_checks with path {path}" in found

    checked = tmp_path / "envoy.yaml"
    checks = "health_checks: [{ timeout: 1s, http_health_check: { path: /health } }]"
    name = "  - name: tiny-chat\n"
    checked.write_text(ENVOY.read_text().replace(name, f"{name}    {checks}\n"))
    assert [] == list(check(config, checked))
