"""What Envoy's logs must hold, of the ledger, and what none may: secrets.

Envoy writes whatever a format asks for, and logs travel further than anything else.
Queries count as secrets: clients of other APIs put keys there.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)

from tollhouse.cli.envoy_types import to_json_message

LONGEST_BEAT_SECONDS = 10.0
"""Half of a reservation's lease (20 s): one lost line must not end an exchange."""
LEDGER_FIELDS = frozenset(
    {
        *("type", "exchange", "tenant", "key_id", "admitted", "facts", "meter"),
        *("started_at", "duration_ms", "code", "flags", "upstream_host"),
        *("trace_id", "span_id"),
        *("trace_id", "span_id"),
    }
)
_SECRET_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "x-api-key", "cookie", "set-cookie"),
        "x-tollhouse-admitted",
    }
)
_PATHS = frozenset({":path", "x-envoy-original-path", "referer"})
"""Headers that hold a query."""
# https://www.envoyproxy.io/docs/envoy/latest/configuration/advanced/substitution_formatter
_OPERATOR = re.compile(r"%([A-Z_]+)(?:\(([^)]*)\))?(?::\d+)?%")
_FORMATTED = ("json_format", "text_format", "text_format_source")


def findings(path: str, manager: hcm.HttpConnectionManager) -> Iterator[str]:
    """Yield what a connection manager's logs lack, or would give away."""
    yield from _ledger_findings(path, manager)
    for number, item in enumerate(manager.access_log):
        place = f"{path}.access_log[{number}].typed_config"
        config = item.typed_config.unpack() if item.typed_config else None
        if config is None:
            continue
        tree = to_json_message(config)
        formatted = tree.get("log_format", {})
        if "path" in tree and not any(it in formatted for it in _FORMATTED):
            yield f"{place}.log_format: Envoy's own has the query; set json_format"
        for secret in sorted(set(_given_away(tree))):
            yield f"{place}: would log {secret}; take that out"


_PATH = "the path, where clients put keys; %ROUTE_NAME% tells what it was"


def _given_away(tree: Any) -> Iterator[str]:
    match tree:
        case dict():
            for value in tree.values():
                yield from _given_away(value)
        case list():
            for value in tree:
                yield from _given_away(value)
        case str() if tree.lower() in _SECRET_HEADERS | _PATHS:
            yield f"`{tree.lower()}`"  # a list of headers, as the gRPC log has
        case str():
            for name, argument in _OPERATOR.findall(tree):
                yield from _of_operator(name, argument)


def _of_operator(name: str, argument: str) -> Iterator[str]:
    headers = {it.lower() for it in argument.split("?")}
    if secrets := headers & _SECRET_HEADERS:
        yield f"`{min(secrets)}`"
    if headers & _PATHS:
        yield _PATH
    if name == "PATH":
        yield _PATH
    if name.startswith("QUERY_PARAM"):
        yield f"the query, by %{name}%"


def _ledger_findings(path: str, manager: hcm.HttpConnectionManager) -> Iterator[str]:
    logs = [it.typed_config.unpack() for it in manager.access_log if it.typed_config]
    fields = [
        frozenset(_json_fields(it.log_format))
        for it in logs
        if isinstance(it, FileAccessLog) and it.log_format
    ]
    best = max(fields, key=lambda it: len(it & LEDGER_FIELDS), default=frozenset[str]())
    if "exchange" not in best:
        yield (
            f"{path}.access_log: the ledger is missing, so nothing is ever billed;"
            " add the file access log with json_format of Tollhouse's envoy.yaml"
        )
    elif missing := sorted(LEDGER_FIELDS - best):
        yield (
            f"{path}.access_log: the ledger's json_format lacks {', '.join(missing)};"
            " settlement needs them"
        )
    options = manager.access_log_options
    beat = options.access_log_flush_interval if options else None
    if beat is None or beat.total_seconds() > LONGEST_BEAT_SECONDS:
        yield (
            f"{path}.access_log_options.access_log_flush_interval: must be set, to"
            f" {LONGEST_BEAT_SECONDS:g} s at most, or long exchanges count as abandoned"
        )


def _json_fields(format_string: SubstitutionFormatString) -> Mapping[str, object]:
    return format_string.json_format.fields if format_string.json_format else {}
