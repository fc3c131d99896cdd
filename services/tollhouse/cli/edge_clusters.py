"""Rules of envoy.yaml for the clusters that tollhouse.yaml leads to, and for ours."""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions

from tollhouse.adapters.configuration import Configuration
from tollhouse.adapters.sections import ModelSection

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def findings(bootstrap: Bootstrap, configuration: Configuration) -> Iterator[str]:
    """Yield what is wrong with them."""
    resources = bootstrap.static_resources
    clusters = {it.name: it for it in resources.clusters} if resources else {}
    for name, model in configuration.models.items():
        for field, cluster in _named(model).items():
            place = f"models.{name}.{field}"
            if cluster not in clusters:
                yield (
                    f"static_resources.clusters: model `{name}` of tollhouse.yaml goes"
                    f" to cluster `{cluster}`, which is not here; add it, or name one"
                    f" of {', '.join(clusters) or 'none'} in {place}"
                )
            elif field == "triton.grpc" and not speaks_http2(clusters[cluster]):
                yield (
                    f"static_resources.clusters: `{cluster}`, which is {place} of"
                    " tollhouse.yaml, must speak HTTP/2, as gRPC does; set"
                    " explicit_http_config with http2_protocol_options"
                )
    for name in ("authz", "extproc"):
        if name not in clusters:
            yield f"static_resources.clusters: has no cluster `{name}`; add it"


def _named(model: ModelSection) -> dict[str, str]:
    named = {"cluster": model.cluster}
    if model.triton is not None:
        named |= {"triton.grpc": model.triton.grpc, "triton.http": model.triton.http}
    return named


def speaks_http2(cluster: Cluster) -> bool:
    """Whether it is told to, as gRPC needs."""
    options = options_of(cluster)
    if options is None or options.explicit_http_config is None:
        return False
    return options.explicit_http_config.http2_protocol_options is not None


def options_of(cluster: Cluster) -> HttpProtocolOptions | None:
    """Return how it speaks HTTP, if it says so."""
    options = cluster.typed_extension_protocol_options.get(_OPTIONS)
    found = options.unpack() if options else None
    return found if isinstance(found, HttpProtocolOptions) else None
