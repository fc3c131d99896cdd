"""What envoy.yaml needs for the fallbacks of tollhouse.yaml to be of use."""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

from tollhouse.adapters.configuration import Configuration
from tollhouse.core.catalog import Model, Provider
from tollhouse.core.servers import SERVERS


def findings(bootstrap: Bootstrap, configuration: Configuration) -> Iterator[str]:
    """Yield each cluster whose hosts nobody would know to be down."""
    resources = bootstrap.static_resources
    unchecked = {
        cluster.name
        for cluster in (resources.clusters if resources else ())
        if not cluster.health_checks
    }
    for name, section in configuration.models.items():
        if section.fallback and section.cluster in unchecked:
            yield (
                f"static_resources.clusters ({section.cluster}): model `{name}` has a"
                " fallback, which serves while Envoy finds nobody healthy here, and"
                f" nobody is checked; add health_checks with path"
                f" {_health_path(section.model(name))}"
            )


def _health_path(model: Model) -> str:
    if model.provider is Provider.TRITON:
        return "/healthz"
    return SERVERS[model.server].health or "of its server"
