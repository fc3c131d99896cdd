"""Rules of envoy.yaml for streams of requests, which have an ext_proc of their own.

It is in full duplex: no message of a stream waits for the last one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from envoy_data_plane.envoy.config.route.v3 import FilterConfig, Route
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import (
    Buffer,
    BufferPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExtProcPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ProcessingModeBodySendMode as BodyMode,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)
from envoy_data_plane.google.protobuf import Any as PbAny


def is_duplex(item: ExternalProcessor) -> bool:
    """Whether a filter is the one of streams."""
    mode = item.processing_mode
    return mode is not None and mode.request_body_mode is BodyMode.FULL_DUPLEX_STREAMED


def findings(path: str, manager: hcm.HttpConnectionManager) -> Iterator[str]:
    """Yield what is wrong with the filter of streams and the routes that enable it."""
    names = _Names.of(manager)
    for number, it in enumerate(manager.http_filters):
        if it.name in names.streams and not it.disabled:
            yield (
                f"{path}.http_filters[{number}].disabled: must be true: only the routes"
                " of streams may enable it"
            )
    hosts = manager.route_config.virtual_hosts if manager.route_config else []
    for index, host in enumerate(hosts):
        for number, route in enumerate(host.routes):
            place = f"{path}.route_config.virtual_hosts[{index}].routes[{number}]"
            if any(_enables(route, name) for name in names.streams):
                yield from _route_findings(f"{place} ({route.name})", route, names)


@dataclass(frozen=True, slots=True)
class _Names:
    """What the filters of each kind are called."""

    streams: frozenset[str]
    others: frozenset[str]
    buffers: frozenset[str]

    @classmethod
    def of(cls, manager: hcm.HttpConnectionManager) -> "_Names":
        filters = {
            it.name: it.typed_config.unpack()
            for it in manager.http_filters
            if it.typed_config
        }
        processors = {
            name: it
            for name, it in filters.items()
            if isinstance(it, ExternalProcessor)
        }
        streams = frozenset(it for it in processors if is_duplex(processors[it]))
        buffers = frozenset(it for it in filters if isinstance(filters[it], Buffer))
        return cls(streams, frozenset(processors) - streams, buffers)


def _route_findings(path: str, route: Route, names: _Names) -> Iterator[str]:
    if not all(_unbuffers(route, name) for name in names.buffers):
        yield (
            f"{path}.typed_per_filter_config: the buffer would wait for the end of a"
            " stream, which has none; disable it here"
        )
    if not any(_enables(route, name) for name in names.others):
        yield (
            f"{path}.typed_per_filter_config: nobody names the exchange of a stream"
            " before it is judged; enable the other ext_proc, too"
        )


def _enables(route: Route, name: str) -> bool:
    match _of_route(route, name):
        case ExtProcPerRoute(disabled=disabled):
            return not disabled
        case _:
            return False


def _unbuffers(route: Route, name: str) -> bool:
    match _of_route(route, name):
        case BufferPerRoute(disabled=disabled):
            return bool(disabled)
        case _:
            return False


def _of_route(route: Route, name: str) -> object:
    config = route.typed_per_filter_config.get(name)
    inner = config.unpack() if config else None
    match inner:
        case FilterConfig(config=PbAny() as wrapped, disabled=False):
            return wrapped.unpack()
        case _:
            return inner
