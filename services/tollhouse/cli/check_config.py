"""`tollhouse check-config`: are tollhouse.yaml and envoy.yaml right, also together?"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.cli.advice import advice
from tollhouse.cli.console import Console
from tollhouse.cli.places import default_config, default_envoy

_DESCRIPTION = """\
Check tollhouse.yaml (models, plans) and envoy.yaml (the edge) without starting
anything. Reports every fault with its file, its place and what to do. `tollhouse up`
refuses to start with what this command refuses, but for the section `telemetry`, which
it writes into Envoy's file itself. Warns of limits that are valid and may
not be meant: too small for any request, or in shadow.
"""
_EXAMPLES = """\
examples:
  tollhouse check-config
  tollhouse check-config --config tollhouse.yaml --envoy envoy/envoy.yaml

Exit status: 0 both are fine, also with warnings; 2 something is wrong.
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check-config",
        help="check tollhouse.yaml and envoy.yaml, separately and together",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="models and plans (default: ./tollhouse.yaml, else the repository's)",
    )
    parser.add_argument(
        "--envoy",
        type=Path,
        metavar="FILE",
        help="the edge (default: the repository's envoy/envoy.yaml)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print all findings; 2 when there are faults."""
    config, envoy = args.config or default_config(), args.envoy or default_envoy()
    found = list(check(config, envoy))
    for line in found:
        Console(sys.stderr).error(line)
    if found:
        return 2
    for line in advice(load(config).catalog()):
        Console(sys.stderr).warning(f"{config}: {line}")
    Console().line(f"{config} and {envoy} are fine")
    return 0


def check(config: Path, envoy: Path) -> Iterator[str]:
    """Yield one line for each fault of either file, then of the two together."""
    # Not at the top: the typed classes take most of a second to import.
    from tollhouse.cli import edge_tracing  # noqa: PLC0415
    from tollhouse.cli.bootstrap import BootstrapError, read_bootstrap  # noqa: PLC0415
    from tollhouse.cli.edge_rules import findings  # noqa: PLC0415

    configuration = bootstrap = None
    try:
        configuration = load(config)
    except ConfigurationError as error:
        yield from str(error).splitlines()
    try:
        bootstrap = read_bootstrap(envoy)
    except BootstrapError as error:
        yield from str(error).splitlines()
    if configuration is not None and bootstrap is not None:
        for finding in findings(bootstrap, configuration):
            yield f"{envoy}: {finding}"
        telemetry = configuration.catalog().telemetry
        for difference in edge_tracing.differences(bootstrap, telemetry):
            yield f"{envoy}: {difference}"
