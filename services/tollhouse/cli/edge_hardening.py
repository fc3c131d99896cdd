"""What keeps odd requests from meaning two things: more rules of envoy.yaml.

Without one of them some request is read in one way here and in another behind us. Each
is in the attack table (docs/security.md), which runs against the repository's file;
these rules are for the files that operators make of it.
"""

import re
from collections.abc import Iterator

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.core.v3 import (
    HttpProtocolOptionsHeadersWithUnderscoresAction as Underscores,
)
from envoy_data_plane.envoy.config.route.v3 import Route, RouteMatch
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: E501
    HttpConnectionManagerPathWithEscapedSlashesAction as EscapedSlashes,
)

PRIVATE_HEADERS = ("authorization", "x-api-key", "cookie", "accept-encoding")
"""What no backend may get: secrets, and leave to blind the meter."""
_ANYTHING = re.compile(r"(?<!\\)\.[*+?{]")


def admin_findings(bootstrap: Bootstrap) -> Iterator[str]:
    """Yield what is wrong with the admin listener."""
    admin = bootstrap.admin
    if admin is not None and not admin.allow_paths:
        yield (
            "admin.allow_paths: is missing, so /config_dump shows the admission proof;"
            " list the paths that operating needs"
        )


def manager_findings(path: str, manager: hcm.HttpConnectionManager) -> Iterator[str]:
    """Yield what a connection manager lets pass that is read in two ways."""
    common = manager.common_http_protocol_options
    slashes = manager.path_with_escaped_slashes_action
    if slashes is not EscapedSlashes.REJECT_REQUEST:
        yield (
            f"{path}.path_with_escaped_slashes_action: %2F is one path here and another"
            " behind us; set REJECT_REQUEST"
        )
    if common is None or (
        common.headers_with_underscores_action is not Underscores.REJECT_REQUEST
    ):
        yield (
            f"{path}.common_http_protocol_options.headers_with_underscores_action: a"
            " backend may take X_Y for x-y; set REJECT_REQUEST"
        )
    if not manager.normalize_path:
        yield f"{path}.normalize_path: dots reach the backend as they came; set true"
    if not manager.use_remote_address:
        yield (
            f"{path}.use_remote_address: clients would choose their own address and"
            " request id; set true"
        )
    if common is None or not common.max_stream_duration:
        yield (
            f"{path}.common_http_protocol_options.max_stream_duration: slow uploads"
            " are kept for ever; set 30s"
        )


def backend_findings(path: str, route: Route) -> Iterator[str]:
    """Yield what a route to a backend lets through."""
    if route.match is not None and not _is_exact(route.match):
        yield (
            f"{path}.match: is no exact path, so `;x=1` and all below it reach the"
            " backend; use path, or a safe_regex without . and with an end"
        )
    kept = [it for it in PRIVATE_HEADERS if it not in route.request_headers_to_remove]
    if kept:
        yield f"{path}.request_headers_to_remove: the backend gets {', '.join(kept)}"
    longest = None if route.route is None else route.route.max_stream_duration
    if route.route is not None and (
        longest is None or longest.max_stream_duration is None
    ):
        yield (
            f"{path}.route.max_stream_duration: answers are cut when the time for"
            " uploads is over; set 600s"
        )


def _is_exact(match: RouteMatch) -> bool:
    """Whether it names its paths, or patterns of them that end in a name."""
    if match.safe_regex is None:
        return bool(match.path)
    regex = match.safe_regex.regex
    return not (_ANYTHING.search(regex) or regex.endswith(("+", "*", "}")))
