"""From the repository's envoy.yaml to the file this machine's Envoy runs with."""

from dataclasses import dataclass, replace
from pathlib import Path

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

from tollhouse.adapters.address import Address
from tollhouse.adapters.configuration import Configuration
from tollhouse.cli import places
from tollhouse.cli.backend import Backend
from tollhouse.cli.bootstrap import (
    BootstrapError,
    Edge,
    fill_bootstrap,
    read_bootstrap,
)
from tollhouse.cli.edge_rules import findings
from tollhouse.cli.envoy_credential import credential_text
from tollhouse.cli.envoy_tls import Tls, secret_text
from tollhouse.cli.local_engine import LOCAL_CLUSTER
from tollhouse.cli.parts import Stack
from tollhouse.cli.state import REQUESTS, write_whole
from tollhouse.core.catalog import Telemetry


@dataclass(frozen=True, slots=True)
class EdgeFile:
    """An envoy.yaml that was read and found right."""

    path: Path
    bootstrap: Bootstrap
    telemetry: Telemetry


def read(path: Path, configuration: Configuration) -> EdgeFile:
    """Read envoy.yaml. Raises BootstrapError with all that is wrong with it."""
    bootstrap = read_bootstrap(path)
    if faults := list(findings(bootstrap, configuration)):
        raise BootstrapError("\n".join(f"{path}: {fault}" for fault in faults))
    return EdgeFile(path, bootstrap, configuration.catalog().telemetry)


def write(file: EdgeFile, stack: Stack, backend: Backend | None) -> None:
    """Write Envoy's configuration with this machine's values. Raises BootstrapError."""
    tls = {}
    if backend is not None and backend.trusted_ca is not None:
        tls[LOCAL_CLUSTER] = Tls(backend.address.host, backend.trusted_ca)
    credentials = {}
    if backend is not None and backend.key_file is not None:
        write_whole(stack.credential, credential_text(backend.key_file))
        credentials[LOCAL_CLUSTER] = stack.credential
    certificate = stack.certificate
    if certificate is not None:
        write_whole(stack.secret, secret_text(certificate), mode=0o600)
    edge = Edge(
        listen=stack.listen,
        admin=stack.admin,
        clusters={
            "authz": [stack.socket("authz")],
            "extproc": [stack.socket(name) for name in stack.extprocs],
            LOCAL_CLUSTER: [backend.address if backend else stack.socket("frontend")],
            **_triton(stack),
            **({"collector": [stack.collector]} if stack.collector else {}),
        },
        proof=stack.state.proof.read_text("ascii").strip(),
        ledger=stack.ledger,
        request_log=stack.state.logs / f"{REQUESTS}.log",
        meter=places.meter(),
        tls=tls,
        credentials=credentials,
        secret=None if certificate is None else stack.secret,
        domains=() if certificate is None else certificate.domains,
        host=backend.host if backend else None,
        telemetry=_telemetry(file, stack),
    )
    text = fill_bootstrap(file.bootstrap, edge, file.path)
    write_whole(stack.bootstrap, text, mode=0o600)


def _telemetry(file: EdgeFile, stack: Stack) -> Telemetry:
    """Which spans leave; none, where there is nobody to take them."""
    told = file.telemetry
    ratio = told.sample_ratio if stack.sample_ratio is None else stack.sample_ratio
    return replace(told, sample_ratio=ratio if stack.collector else 0.0)


def _triton(stack: Stack) -> dict[str, list[Address]]:
    """The local Triton itself, for clients that speak its own protocols."""
    if stack.engine is None:
        return {}
    ports = stack.engine.ports
    return {
        f"{LOCAL_CLUSTER}-{protocol}": [Address(host="127.0.0.1", port=port)]
        for protocol, port in (("grpc", ports.grpc), ("http", ports.http))
    }
