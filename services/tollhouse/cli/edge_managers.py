"""Where an Envoy bootstrap speaks HTTP to clients."""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)

Placed = tuple[str, hcm.HttpConnectionManager]
"""A connection manager, after its place in the file."""


def every(bootstrap: Bootstrap) -> Iterator[Placed]:
    """Yield those of all listeners."""
    for path, listener in listeners(bootstrap):
        yield from of_listener(path, listener)


def listeners(bootstrap: Bootstrap) -> Iterator[tuple[str, Listener]]:
    """Yield each listener after its place."""
    resources = bootstrap.static_resources
    for number, listener in enumerate(resources.listeners if resources else ()):
        yield f"static_resources.listeners[{number}]", listener


def of_listener(path: str, listener: Listener) -> Iterator[Placed]:
    """Yield those of one; `path` is its place."""
    for index, chain in enumerate(listener.filter_chains):
        for number, item in enumerate(chain.filters):
            inner = item.typed_config.unpack() if item.typed_config else None
            if isinstance(inner, hcm.HttpConnectionManager):
                place = f"{path}.filter_chains[{index}].filters[{number}].typed_config"
                yield place, inner
