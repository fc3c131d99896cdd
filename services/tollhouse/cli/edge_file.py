"""From the repository's envoy.yaml to the file this machine's Envoy runs with."""

from dataclasses import dataclass
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
from tollhouse.cli.parts import LOCAL_CLUSTER, Stack
from tollhouse.cli.state import write_whole


@dataclass(frozen=True, slots=True)
class EdgeFile:
    """An envoy.yaml that was read and found right."""

    path: Path
    bootstrap: Bootstrap


def read(path: Path, configuration: Configuration) -> EdgeFile:
    """Read envoy.yaml. Raises BootstrapError with all that is wrong with it."""
    bootstrap = read_bootstrap(path)
    if faults := list(findings(bootstrap, configuration)):
        raise BootstrapError("\n".join(f"{path}: {fault}" for fault in faults))
    return EdgeFile(path, bootstrap)


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
        },
        proof=stack.state.proof.read_text("ascii").strip(),
        ledger=stack.ledger,
        meter=places.meter(),
        tls=tls,
        credentials=credentials,
        secret=None if certificate is None else stack.secret,
        domains=() if certificate is None else certificate.domains,
        host=backend.host if backend else None,
    )
    text = fill_bootstrap(file.bootstrap, edge, file.path)
    write_whole(stack.bootstrap, text, mode=0o600)


def _triton(stack: Stack) -> dict[str, list[Address]]:
    """The local Triton itself, for clients that speak its own protocols."""
    if stack.engine is None:
        return {}
    ports = stack.engine.ports
    return {
        f"{LOCAL_CLUSTER}-{protocol}": [Address(host="127.0.0.1", port=port)]
        for protocol, port in (("grpc", ports.grpc), ("http", ports.http))
    }
