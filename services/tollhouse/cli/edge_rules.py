"""What an envoy.yaml must keep for Tollhouse's promises to hold, whoever edits it.

Envoy accepts many files in which a request reaches a backend unpaid, a body hangs or
an exchange is never billed. Each rule here names one such mistake, its place and the
remedy. They read the file that operators edit, and `tollhouse up` before each start.
"""

from collections.abc import Iterator

from betterproto2 import Message
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import (
    FilterConfig,
    HeaderMatcher,
    Route,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    ExtAuthz,
    ExtAuthzPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExtProcPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ProcessingModeBodySendMode as BodyMode,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ProcessingModeHeaderSendMode as HeaderMode,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (  # noqa: E501
    v3 as early,
)
from envoy_data_plane.google.protobuf import Any as PbAny

from tollhouse.adapters.configuration import Configuration
from tollhouse.cli import (
    edge_clusters,
    edge_fallback,
    edge_hardening,
    edge_headers,
    edge_logs,
    edge_managers,
    edge_streams,
    edge_tracing,
    envoy_credential,
)
from tollhouse.cli.bootstrap import ANSWERS, METER, TRIES

PROOF_HEADER = "x-tollhouse-admitted"
OUR_PREFIX = "x-tollhouse-"
_SCRIPTS = {
    METER: "the meter (meter.lua) is missing, so nothing is counted",
    ANSWERS: "answers.lua is missing, so what foreign backends say of their failures"
    " reaches clients, and any backend's headers",
    TRIES: "tries.lua is missing, so nobody who tries keys is slowed down",
}
"""What Envoy runs, and what is wrong without it."""


def findings(bootstrap: Bootstrap, configuration: Configuration) -> Iterator[str]:
    """Yield `place: what is wrong; remedy` for the two files together."""
    yield from edge_clusters.findings(bootstrap, configuration)
    yield from edge_hardening.admin_findings(bootstrap)
    yield from envoy_credential.findings(bootstrap)
    yield from edge_fallback.findings(bootstrap, configuration)
    has_manager = False
    for path, listener in edge_managers.listeners(bootstrap):
        managers = list(edge_managers.of_listener(path, listener))
        has_manager = has_manager or bool(managers)
        largest = max((_largest_body(manager) for _, manager in managers), default=0)
        yield from _size_findings(path, listener, largest)
        for place, manager in managers:
            yield from _manager_findings(place, manager)
            yield from edge_tracing.findings(place, manager, bootstrap)
    if not has_manager:
        yield "static_resources.listeners: no listener speaks HTTP; add the edge's"


def _size_findings(path: str, listener: Listener, largest: int) -> Iterator[str]:
    limit = listener.per_connection_buffer_limit_bytes
    if largest and (limit is None or limit < 2 * largest):
        yield (
            f"{path}.per_connection_buffer_limit_bytes: is {limit}, below twice the"
            f" buffer filter's {largest}: uploads would hang; set {2 * largest} or more"
        )


def _largest_body(manager: hcm.HttpConnectionManager) -> int:
    sizes = [
        it.max_request_bytes or 0 for it in _filters(manager) if isinstance(it, Buffer)
    ]
    return max(sizes, default=0)


def _filters(manager: hcm.HttpConnectionManager) -> list[Message | None]:
    return [
        item.typed_config.unpack() if item.typed_config else None
        for item in manager.http_filters
    ]


def _manager_findings(path: str, manager: hcm.HttpConnectionManager) -> Iterator[str]:
    yield from _filter_findings(f"{path}.http_filters", _filters(manager))
    yield from edge_hardening.manager_findings(path, manager)
    yield from edge_headers.findings(path, manager)
    yield from edge_streams.findings(path, manager)
    if not any(
        _strips_ours(item.typed_config)
        for item in manager.early_header_mutation_extensions
    ):
        yield (
            f"{path}.early_header_mutation_extensions: clients' own {OUR_PREFIX}*"
            f" headers are not removed; add remove_on_match with prefix {OUR_PREFIX}"
        )
    yield from edge_logs.findings(path, manager)
    if manager.route_config is None:
        yield f"{path}.route_config: is missing, so the routes can't be checked"
        return
    preadmission = 0
    for number, host in enumerate(manager.route_config.virtual_hosts):
        place = f"{path}.route_config.virtual_hosts[{number}]"
        yield from _host_findings(place, host)
        preadmission += sum(map(_enables_ext_proc, host.routes))
    by_default = any(
        isinstance(it.typed_config.unpack(), ExternalProcessor) and not it.disabled
        for it in manager.http_filters
        if it.typed_config
    )
    if not preadmission and not by_default:
        yield (
            f"{path}.route_config: no route enables ext_proc, so nothing is ever"
            " admitted; enable it on the routes before admission"
        )


def _filter_findings(path: str, filters: list[Message | None]) -> Iterator[str]:
    order = [type(it) for it in filters]
    if Buffer not in order or order.index(Buffer) != 0:
        yield f"{path}: `buffer` must come first, or fast uploads hang; move it up"
    scripts = [it for it in filters if isinstance(it, Lua)]
    for script, why in _SCRIPTS.items():
        if not any(_runs(script, it) for it in scripts):
            yield f"{path}: {why}; add it"
    for kind, name in ((ExtAuthz, "ext_authz"), (ExternalProcessor, "ext_proc")):
        if kind not in order:
            yield f"{path}: `{name}` is missing; add it before the router"
    if {ExtAuthz, ExternalProcessor} <= set(order) and order.index(
        ExtAuthz
    ) > order.index(ExternalProcessor):
        yield f"{path}: `ext_authz` must come before `ext_proc`, which needs its answer"
    for number, item in enumerate(filters):
        place = f"{path}[{number}].typed_config"
        if isinstance(item, ExtAuthz | ExternalProcessor):
            yield from _fail_closed_findings(place, item)
        if isinstance(item, ExternalProcessor) and not edge_streams.is_duplex(item):
            yield from _mode_findings(f"{place}.processing_mode", item)


def _runs(script: str, item: Lua) -> bool:
    source = item.default_source_code
    return bool(source and (source.filename or "").endswith(script))


def _fail_closed_findings(
    path: str, item: ExtAuthz | ExternalProcessor
) -> Iterator[str]:
    if item.failure_mode_allow:
        yield (
            f"{path}.failure_mode_allow: true lets requests pass while the service is"
            " down; set false"
        )
    if item.status_on_error is None or int(item.status_on_error.code) != 503:  # noqa: PLR2004
        yield (
            f"{path}.status_on_error: an outage of ours should answer 503, not a"
            " refusal; set {code: ServiceUnavailable}"
        )


def _mode_findings(path: str, item: ExternalProcessor) -> Iterator[str]:
    mode = item.processing_mode
    if mode is None or mode.request_header_mode is not HeaderMode.SEND:
        yield (
            f"{path}.request_header_mode: must be SEND, or requests without a body are"
            " never judged"
        )
    if mode is None or mode.request_body_mode is not BodyMode.BUFFERED:
        yield f"{path}.request_body_mode: must be BUFFERED: what is judged is forwarded"
    if mode is not None and mode.response_body_mode is not BodyMode.NONE:
        yield f"{path}.response_body_mode: must be NONE; the meter counts answers"


def _strips_ours(config: PbAny | None) -> bool:
    mutation = config.unpack() if config else None
    if not isinstance(mutation, early.HeaderMutation):
        return False
    matchers = [
        it.remove_on_match.key_matcher
        for it in mutation.mutations
        if it.remove_on_match
    ]
    return any(it is not None and it.prefix == OUR_PREFIX for it in matchers)


def _host_findings(path: str, host: VirtualHost) -> Iterator[str]:
    for number, route in enumerate(host.routes):
        name = f" ({route.name})" if route.name else ""
        place = f"{path}.routes[{number}]{name}"
        if route.route is not None:
            yield from _backend_findings(place, route)
            yield from edge_hardening.backend_findings(place, route)
        if _enables_ext_proc(route) and _skips_authz(route):
            yield (
                f"{place}.typed_per_filter_config: ext_authz is disabled where"
                " admission happens, so anybody would be admitted; remove that"
            )


def _backend_findings(path: str, route: Route) -> Iterator[str]:
    headers = route.match.headers if route.match else []
    if not any(map(_is_guard, headers)):
        yield (
            f"{path}: leads to a backend without the admission guard: an outage of ours"
            f" would be an open door; match header {PROOF_HEADER} exact ADMISSION_PROOF"
        )
    elif PROOF_HEADER not in route.request_headers_to_remove:
        yield (
            f"{path}.request_headers_to_remove: the admission proof would reach the"
            f" backend; add {PROOF_HEADER}"
        )


def _is_guard(header: HeaderMatcher) -> bool:
    return (
        header.name.lower() == PROOF_HEADER
        and not header.invert_match
        and not header.treat_missing_header_as_empty
        and header.string_match is not None
        and bool(header.string_match.exact)
        and not header.string_match.ignore_case
    )


def _enables_ext_proc(route: Route) -> bool:
    return any(map(_is_enabled, route.typed_per_filter_config.values()))


def _is_enabled(config: PbAny) -> bool:
    match config.unpack():
        case FilterConfig(config=PbAny() as inner, disabled=False):
            return _is_enabled(inner)
        case ExtProcPerRoute(disabled=disabled):
            return not disabled
        case _:
            return False


def _skips_authz(route: Route) -> bool:
    return any(
        isinstance(it := config.unpack(), ExtAuthzPerRoute) and bool(it.disabled)
        for config in route.typed_per_filter_config.values()
    )
