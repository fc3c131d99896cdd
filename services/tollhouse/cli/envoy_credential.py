"""Our own credential towards a backend, which Envoy puts in where the client's was.

Envoy's credential injector, an upstream filter of the cluster, takes it from a file
through SDS: it is in no configuration, and a replaced file counts without a restart.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import (
    ConfigSource,
    DataSource,
    PathConfigSource,
    TypedExtensionConfig,
    WatchedDirectory,
)
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import (
    CredentialInjector,
)
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import (
    UpstreamCodec,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: E501
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import (
    Generic,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    GenericSecret,
    SdsSecretConfig,
    Secret,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Any as PbAny

from tollhouse.adapters.secret_file import openness
from tollhouse.cli.envoy_types import to_json_message
from tollhouse.cli.unusable import UnusableError

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SECRET = "backend"  # noqa: S105 - a name
_KEY = re.compile(r"[!-~]{1,4096}\s*")
"""One word that fits a header; editors put a newline behind it."""
_FILENAME = re.compile(r"""\bfilename["']?\s*:\s*["']?([^"'\s,}]+)""")


def check_key_file(path: Path) -> None:
    """Raise UnusableError for what is no file with one key in it, or is everybody's."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableError(f"can't read a key from {path}") from error
    if wrong := openness(path, mode):
        raise UnusableError(f"{path}: {wrong}")
    if not _KEY.fullmatch(text):
        raise UnusableError(f"{path}: holds more or less than one key")


def credential_text(key_file: Path) -> str:
    """The file from which Envoy learns where the key is (SDS); it holds no secret.

    Envoy reads the key anew whenever something is renamed into its folder.
    """
    source = DataSource(
        filename=str(key_file),
        watched_directory=WatchedDirectory(path=str(key_file.parent)),
    )
    secret = Secret(name=_SECRET, generic_secret=GenericSecret(secret=source))
    response = DiscoveryResponse(resources=[PbAny.pack(secret)])
    return json.dumps(to_json_message(response), indent=1)


def inject_credential(cluster: Cluster, secret_file: Path) -> None:
    """Have a cluster's requests carry the key that such a file leads to."""
    sds = ConfigSource(path_config_source=PathConfigSource(path=str(secret_file)))
    generic = Generic(
        credential=SdsSecretConfig(name=_SECRET, sds_config=sds),
        header_value_prefix="Bearer ",
    )
    injector = CredentialInjector(
        overwrite=True,
        credential=TypedExtensionConfig(
            name="envoy.http.injected_credentials.generic",
            typed_config=PbAny.pack(generic),
        ),
    )
    options = _options(cluster) or HttpProtocolOptions()
    options.http_filters = [
        HttpFilter(
            name="envoy.filters.http.credential_injector",
            typed_config=PbAny.pack(injector),
        ),
        HttpFilter(
            name="envoy.filters.http.upstream_codec",
            typed_config=PbAny.pack(UpstreamCodec()),
        ),
    ]
    cluster.typed_extension_protocol_options[_OPTIONS] = PbAny.pack(options)


def findings(bootstrap: Bootstrap) -> Iterator[str]:
    """Yield what is wrong with the files of clusters' credentials."""
    resources = bootstrap.static_resources
    for cluster in resources.clusters if resources else ():
        path = f"static_resources.clusters ({cluster.name})"
        for generic in _generics(cluster):
            sds = generic.credential and generic.credential.sds_config
            source = sds.path_config_source if sds else None
            if source is None:
                yield (
                    f"{path}: its credential stands in this file; put it into one of"
                    " its own and name that in sds_config.path_config_source"
                )
            else:
                yield from _file_findings(path, Path(source.path))


def _generics(cluster: Cluster) -> Iterator[Generic]:
    options = _options(cluster)
    for item in options.http_filters if options else ():
        injector = item.typed_config.unpack() if item.typed_config else None
        if isinstance(injector, CredentialInjector) and injector.credential:
            config = injector.credential.typed_config
            generic = config.unpack() if config else None
            if isinstance(generic, Generic):
                yield generic


def _options(cluster: Cluster) -> HttpProtocolOptions | None:
    packed = cluster.typed_extension_protocol_options.get(_OPTIONS)
    options = packed.unpack() if packed else None
    return options if isinstance(options, HttpProtocolOptions) else None


def _file_findings(path: str, secret_file: Path) -> Iterator[str]:
    try:
        text = secret_file.read_text("utf-8")
        files = [secret_file, *map(Path, _FILENAME.findall(text))]
        modes = [(it, it.stat().st_mode) for it in files]
    except (OSError, UnicodeDecodeError) as error:
        name = getattr(error, "filename", None) or secret_file
        yield f"{path}: can't read {name}, which its credential comes from"
        return
    for file, mode in modes[-1:]:  # the last has the secret in it
        if wrong := openness(file, mode):
            yield f"{path}: {file}: {wrong}"
