"""`tollhouse envoy render`: from envoy.yaml to the file that one Envoy runs with.

`tollhouse up` does the same for its own Envoy (`edge_file`). This is for a pod or a
machine where something else starts Envoy: it knows the places, we know the file.
"""

import argparse
import dataclasses
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tollhouse.adapters.address import Address
from tollhouse.adapters.admission_proof import read_proof
from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.cli.console import Console
from tollhouse.cli.edge_certificate import EdgeCertificate
from tollhouse.cli.places import default_config, default_envoy
from tollhouse.cli.state import write_secret, write_whole
from tollhouse.cli.unusable import UnusableError

if TYPE_CHECKING:  # typed classes that take most of a second to import
    from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
    from envoy_data_plane.envoy.config.listener.v3 import Listener

COLLECTOR = "collector"
"""The cluster of envoy.yaml that spans go to."""

_DESCRIPTION = """\
Write the configuration of one Envoy: envoy.yaml with the addresses, the paths and the
admission proof of the place where it runs. Refuses what `check-config` refuses. The
scripts (meter.lua and others) are taken from beside envoy.yaml.
"""
_EXAMPLES = """\
examples:
  tollhouse envoy render --out /run/tollhouse/envoy.json \\
    --listen 0.0.0.0:8443 --admin unix:/run/tollhouse/envoy-admin.sock \\
    --cluster authz=unix:/run/tollhouse/authz.sock \\
    --cluster extproc=unix:/run/tollhouse/extproc.sock \\
    --proof-file /run/tollhouse/proof --ledger /var/lib/tollhouse/ledger/ledger.jsonl \\
    --tls-cert /etc/edge-tls/tls.crt --tls-key /etc/edge-tls/tls.key

Exit status: 0 it is written; 2 a file or an option is not right, nothing is written.
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "envoy",
        help="write the configuration of an Envoy that something else starts",
        description="`tollhouse envoy COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    render = commands.add_parser(
        "render",
        help="fill envoy.yaml in for one Envoy",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(render)
    render.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file; 2 when something is wrong."""
    try:
        _render(args)
    except (UnusableError, ConfigurationError) as error:
        for line in str(error).splitlines():
            Console(sys.stderr).error(line)
        return 2
    except OSError as error:
        Console(sys.stderr).error(f"{error.filename}: {error.strerror}")
        return 2
    return 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    def file(option: str, help_: str, **about: object) -> None:
        parser.add_argument(option, type=Path, metavar="FILE", help=help_, **about)  # type: ignore[arg-type]

    file("--out", "where to write it; readable by its owner only", required=True)
    file("--proof-file", "the admission proof; drawn if it is not there", required=True)
    file("--ledger", "where Envoy shall write its ledger", required=True)
    parser.add_argument(
        "--listen",
        type=_address,
        metavar="HOST:PORT",
        required=True,
        help="for clients",
    )
    parser.add_argument(
        "--admin",
        type=_address,
        metavar="ADDRESS",
        required=True,
        help="of Envoy's admin listener: unix:/path or HOST:PORT",
    )
    parser.add_argument(
        "--cluster",
        type=_cluster,
        action="append",
        default=[],
        metavar="NAME=ADDRESS[,…]",
        help="where a cluster of the file is: unix:/path or HOST:PORT; without the"
        " collector's no span leaves",
    )
    file(
        "--add",
        "clusters and listeners beside those of envoy.yaml, in the same form; a cluster"
        " of a name that is there takes its place",
        action="append",
        default=[],
    )
    file("--config", "models and plans (default: ./tollhouse.yaml)")
    file("--envoy", "the edge (default: the repository's envoy/envoy.yaml)")
    file("--tls-cert", "the certificate for clients, whose names are added as hosts")
    file("--tls-key", "its key")
    parser.add_argument(
        "--domain",
        action="append",
        default=[],
        metavar="NAME",
        help="a host that clients may name, beside those of envoy.yaml",
    )


def _render(args: argparse.Namespace) -> None:
    # Not at the top: the typed classes take most of a second to import.
    from tollhouse.cli.bootstrap import (  # noqa: PLC0415
        BootstrapError,
        Edge,
        fill_bootstrap,
        read_bootstrap,
    )
    from tollhouse.cli.edge_rules import findings  # noqa: PLC0415
    from tollhouse.cli.envoy_tls import secret_text  # noqa: PLC0415

    configuration = load(args.config or default_config())
    envoy = (args.envoy or default_envoy()).absolute()
    certificate = _certificate(args.tls_cert, args.tls_key)
    bootstrap = read_bootstrap(envoy)
    listeners = _add(bootstrap, [read_bootstrap(path) for path in args.add])
    if faults := list(findings(bootstrap, configuration)):
        raise BootstrapError("\n".join(f"{envoy}: {fault}" for fault in faults))
    secret = args.out.with_name("edge-certificate.json").absolute()
    clusters = dict(args.cluster)
    telemetry = configuration.catalog().telemetry
    if COLLECTOR not in clusters:  # nobody to take spans
        telemetry = dataclasses.replace(telemetry, sample_ratio=0.0)
    edge = Edge(
        listen=args.listen,
        admin=args.admin,
        clusters=clusters,
        proof=_proof(args.proof_file),
        ledger=args.ledger.absolute(),
        meter=envoy.with_name("meter.lua"),
        secret=None if certificate is None else secret,
        domains=[*(certificate.domains if certificate else ()), *args.domain],
        is_open=False,
        telemetry=telemetry,
    )
    text = _with_listeners(fill_bootstrap(bootstrap, edge, envoy), listeners)
    if certificate is not None:
        write_whole(secret, secret_text(certificate), mode=0o600)
    write_whole(args.out, text, mode=0o600)


def _add(bootstrap: "Bootstrap", added: "Sequence[Bootstrap]") -> "list[Listener]":
    """Put clusters into a bootstrap; return the listeners that go beside its own.

    Those are no edge: no rule of envoy.yaml is meant for them.
    """
    resources = bootstrap.static_resources
    more = [it.static_resources for it in added if it.static_resources]
    if resources is not None:
        clusters = {it.name: it for it in resources.clusters}
        clusters |= {it.name: it for of in more for it in of.clusters}
        resources.clusters = list(clusters.values())
    return [it for of in more for it in of.listeners]


def _with_listeners(text: str, listeners: "Sequence[Listener]") -> str:
    from tollhouse.cli.envoy_types import to_json_message  # noqa: PLC0415 - as above

    tree = json.loads(text)
    tree["static_resources"]["listeners"] += map(to_json_message, listeners)
    return json.dumps(tree, indent=1)


def _proof(path: Path) -> str:
    """Return what stands there, else draw it: extproc reads the same file."""
    if not path.exists():
        write_secret(path, secrets.token_hex(32))
    try:
        return read_proof(path)
    except ValueError as error:
        raise UnusableError(f"--proof-file: {error}") from error


def _certificate(chain: Path | None, key: Path | None) -> EdgeCertificate | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise UnusableError("--tls-cert and --tls-key go together")
    certificate = EdgeCertificate.read(chain, key)
    if certificate.warning is not None:
        Console(sys.stderr).warning(certificate.warning)
    return certificate


def _cluster(text: str) -> tuple[str, list[Address]]:
    name, equals, addresses = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"`{text}` is not NAME=ADDRESS")
    return name, [_address(it) for it in addresses.split(",")]


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
