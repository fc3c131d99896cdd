"""Envoy's bootstrap, typed: read envoy.yaml, fill in this machine's values, write JSON.

The file in the repository is the real one, with placeholders where only the running
stack knows the value:

    ADMISSION_PROOF      the header value that opens routes to backends
    ledger.jsonl         path of the ledger (file access log)
    meter.lua            path of the meter
    meter_grpc.lua       path of the meter of gRPC, beside it
    errors.lua           path of the script for errors, beside the meter
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
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from tollhouse.adapters.address import ANY_HOST, Address
from tollhouse.cli.envoy_credential import inject_credential
from tollhouse.cli.envoy_tls import Tls, downstream_socket, upstream_socket
from tollhouse.cli.envoy_types import read_message, to_json_message, walk
from tollhouse.cli.unusable import UnusableError

ADMISSION_PROOF = "ADMISSION_PROOF"
LEDGER = "ledger.jsonl"
METER = "meter.lua"
METER_GRPC = "meter_grpc.lua"
ERRORS = "errors.lua"
_SCRIPTS = frozenset({METER, METER_GRPC, ERRORS})


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
    host: str | None = None
    """Host header towards backends, where they need their own name."""


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
            case Listener():
                self._met.add("listener")
                message.address = _pb_address(edge.listen)
                # `up` keeps the port for this Envoy while it restarts.
                message.enable_reuse_port = True
            case Admin():
                self._met.add("admin")
                message.address = _pb_address(edge.admin)
            case StringMatcher(exact=str() as exact) if exact == ADMISSION_PROOF:
                self._met.add(ADMISSION_PROOF)
                message.exact = edge.proof
            case FileAccessLog() if Path(message.path).name == LEDGER:
                self._met.add(LEDGER)
                message.path = str(edge.ledger)
            case DataSource(filename=str() as file) if Path(file).name in _SCRIPTS:
                self._met.add(Path(file).name)
                message.filename = str(edge.meter.with_name(Path(file).name))
            case FilterChain() if edge.secret is not None:
                message.transport_socket = downstream_socket(edge.secret)
            case VirtualHost():
                _add_domains(message, edge.listen.host, edge.domains)
            case RouteAction() if edge.host and message.cluster_header:
                message.host_rewrite_literal = edge.host
            case Cluster():
                self._fill_cluster(message)

    def faults(self) -> Iterator[str]:
        for what in ("listener", "admin", ADMISSION_PROOF, LEDGER, METER, ERRORS):
            if what not in self._met:
                yield f"has no `{what}`, so the running stack's value has no place"
        for name in sorted(set(self._edge.clusters) - self._clusters):
            yield f"static_resources.clusters: has no cluster `{name}`; add it"

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


def _add_domains(host: VirtualHost, listen: str, names: Sequence[str]) -> None:
    """Let clients use the name we listen on; any, where that is no one name."""
    if listen in ANY_HOST:
        host.domains = ["*"]
    if "*" in host.domains:
        return
    name = f"[{listen}]" if ":" in listen else listen
    host.domains = list(dict.fromkeys((*host.domains, name, *names)))


def _pb_address(address: Address) -> PbAddress:
    if address.path is not None:
        return PbAddress(pipe=Pipe(path=address.path))
    return PbAddress(
        socket_address=SocketAddress(address=address.host, port_value=address.port)
    )


def _is_name(address: Address) -> bool:
    return address.path is None and not (
        ":" in address.host or address.host.replace(".", "").isdecimal()
    )
