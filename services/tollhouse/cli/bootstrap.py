"""Envoy's bootstrap, typed: read envoy.yaml, fill in this machine's values, write JSON.

The file in the repository is the real one, with placeholders where only the running
stack knows the value:

    ADMISSION_PROOF      the header value that opens routes to backends
    ledger.jsonl         path of the ledger (file access log)
    /dev/stdout          path of the log of requests, where it is to be a file
    meter.lua            path of the meter
    meter_grpc.lua       path of the meter of gRPC, beside it
    answers.lua          path of the script for what else of answers is told
    tries.lua            path of the script for tries of keys, beside the meter
    addresses            of listener, admin and of every cluster's endpoints

It is read through envoy-data-plane's classes, which know every field of Envoy's API: a
typing mistake at any depth is an error with its place. Importing them takes most of a
second, so only commands that need them import this module.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from betterproto2 import Message
from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap
from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address as PbAddress,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import RouteAction, VirtualHost
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: E501
    HttpConnectionManagerTracing,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (  # noqa: E501
    HeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from tollhouse.adapters.address import ANY_HOST, Address
from tollhouse.cli import edge_tracing
from tollhouse.cli.envoy_credential import inject_credential
from tollhouse.cli.envoy_tls import Tls, downstream_socket, upstream_socket
from tollhouse.cli.envoy_types import read_message, to_json_message, walk
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.catalog import Telemetry

ADMISSION_PROOF = "ADMISSION_PROOF"
LEDGER = "ledger.jsonl"
REQUEST_LOG = "/dev/stdout"
METER = "meter.lua"
METER_GRPC = "meter_grpc.lua"
ANSWERS = "answers.lua"
TRIES = "tries.lua"
_SCRIPTS = frozenset({METER, METER_GRPC, ANSWERS, TRIES})


UNTRACED = Telemetry(sample_ratio=0.0)
"""Trace ids are made, no span leaves: what there is without a collector."""


class BootstrapError(UnusableError):
    """The file can't be used; the text has one line per fault, ready to print."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """This machine's values for the placeholders of envoy.yaml."""

    listen: Address
    admin: Address
    clusters: Mapping[str, Sequence[Address]]
    """Endpoints of the clusters that are ours to fill; the others keep theirs."""
    proof: str
    ledger: Path
    meter: Path
    """The other scripts are beside it."""
    tls: Mapping[str, Tls] = dataclasses.field(default_factory=dict)
    """Clusters to be reached over TLS."""
    credentials: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Clusters that want a key of ours, and the file that leads to it."""
    secret: Path | None = None
    """Where the certificate for clients stands; None: they come without TLS."""
    domains: Sequence[str] = ()
    """Names clients may use for us, beside those of the file and the listener's."""
    is_open: bool = True
    """Whether any name will do where we listen on all addresses."""
    request_log: Path | None = None
    """Where requests are logged; None: on Envoy's standard output."""
    host: str | None = None
    """Host header towards backends, where they need their own name."""
    telemetry: Telemetry = UNTRACED


def read_bootstrap(path: Path) -> Bootstrap:
    """Read envoy.yaml. Raises BootstrapError naming every fault and its place."""
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise BootstrapError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        what = getattr(error, "problem", None) or "is not YAML in UTF-8"
        raise BootstrapError(f"{path}{line}: {what}") from error
    if not isinstance(tree, dict):
        raise BootstrapError(
            f"{path}: is not a mapping; it should be an Envoy bootstrap"
        )
    faults: list[str] = []
    bootstrap = read_message(Bootstrap, tree, faults)
    if faults:
        raise BootstrapError("\n".join(f"{path}: {fault}" for fault in faults))
    return bootstrap


def render_bootstrap(path: Path, edge: Edge) -> str:
    """Return envoy.yaml as JSON with the values of `edge` in place.

    Raises BootstrapError for a file that can't be read, or that lacks the place of one
    of the values: the value would have no effect.
    """
    return fill_bootstrap(read_bootstrap(path), edge, path)


def fill_bootstrap(bootstrap: Bootstrap, edge: Edge, path: Path) -> str:
    """Fill in a bootstrap that was read from `path`; as `render_bootstrap`."""
    filled = _Filled(edge)
    walk(bootstrap, filled.fill)
    if faults := list(filled.faults()):
        raise BootstrapError("\n".join(f"{path}: {fault}" for fault in faults))
    return json.dumps(to_json_message(bootstrap), indent=1)


class _Filled:
    """Fills placeholders and remembers which it met."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._met: set[str] = set()
        self._clusters: set[str] = set()

    def fill(self, message: Message) -> None:
        edge = self._edge
        match message:
            case Listener() | Admin():
                self._fill_address(message)
            case StringMatcher(exact=str() as exact) if exact == ADMISSION_PROOF:
                self._met.add(ADMISSION_PROOF)
                message.exact = edge.proof
            case FileAccessLog():
                self._fill_log(message)
            case DataSource(filename=str() as file) if Path(file).name in _SCRIPTS:
                self._met.add(Path(file).name)
                message.filename = str(edge.meter.with_name(Path(file).name))
            case FilterChain() if edge.secret is not None:
                message.transport_socket = downstream_socket(edge.secret)
            case VirtualHost():
                _add_domains(message, edge)
            case RouteAction() if edge.host and message.cluster_header:
                message.host_rewrite_literal = edge.host
            case HttpConnectionManagerTracing() | HeaderMutation():
                edge_tracing.decide(message, edge.telemetry)
            case Cluster():
                self._fill_cluster(message)

    def faults(self) -> Iterator[str]:
        for what in ("listener", "admin", ADMISSION_PROOF, LEDGER, METER, ANSWERS):
            if what not in self._met:
                yield f"has no `{what}`, so the running stack's value has no place"
        for name in sorted(set(self._edge.clusters) - self._clusters):
            yield f"static_resources.clusters: has no cluster `{name}`; add it"

    def _fill_address(self, message: Listener | Admin) -> None:
        if isinstance(message, Admin):
            self._met.add("admin")
            message.address = _pb_address(self._edge.admin, mode=0o600)
            return
        self._met.add("listener")
        message.address = _pb_address(self._edge.listen)
        # `up` keeps the port for this Envoy while it restarts.
        message.enable_reuse_port = True

    def _fill_log(self, log: FileAccessLog) -> None:
        if Path(log.path).name == LEDGER:
            self._met.add(LEDGER)
            log.path = str(self._edge.ledger)
        elif log.path == REQUEST_LOG and self._edge.request_log is not None:
            log.path = str(self._edge.request_log)

    def _fill_cluster(self, cluster: Cluster) -> None:
        self._clusters.add(cluster.name)
        addresses = self._edge.clusters.get(cluster.name)
        if addresses is None:
            return
        if any(_is_name(address) for address in addresses):
            cluster.type = ClusterDiscoveryType.STRICT_DNS
            # Envoy's default asks ::1 alone for `localhost`, where few servers listen.
            cluster.dns_lookup_family = ClusterDnsLookupFamily.V4_PREFERRED
        endpoints = [
            LbEndpoint(endpoint=Endpoint(address=_pb_address(address)))
            for address in addresses
        ]
        cluster.load_assignment = ClusterLoadAssignment(
            cluster_name=cluster.name,
            endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)],
        )
        if tls := self._edge.tls.get(cluster.name):
            cluster.transport_socket = upstream_socket(tls)
        if secret_file := self._edge.credentials.get(cluster.name):
            inject_credential(cluster, secret_file)


def _add_domains(host: VirtualHost, edge: Edge) -> None:
    """Let clients use the name we listen on; any, where that is no one name."""
    listen, names = edge.listen.host, list(edge.domains)
    if listen in ANY_HOST and edge.is_open:
        host.domains = ["*"]
    if "*" in host.domains:
        return
    if listen not in ANY_HOST:
        names.insert(0, f"[{listen}]" if ":" in listen else listen)
    host.domains = list(dict.fromkeys((*host.domains, *names)))


def _pb_address(address: Address, mode: int = 0) -> PbAddress:
    """`mode` is of a socket's file; 0 leaves it to Envoy and its umask."""
    if address.path is not None:
        return PbAddress(pipe=Pipe(path=address.path, mode=mode))
    return PbAddress(
        socket_address=SocketAddress(address=address.host, port_value=address.port)
    )


def _is_name(address: Address) -> bool:
    return address.path is None and not (
        ":" in address.host or address.host.replace(".", "").isdecimal()
    )
