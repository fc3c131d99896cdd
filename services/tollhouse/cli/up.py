"""`tollhouse up`: the whole stack on this machine, ready for a client."""

import argparse
import asyncio
import contextlib
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tollhouse.adapters.configuration import Configuration, ConfigurationError, load
from tollhouse.adapters.pepper import PepperError
from tollhouse.adapters.redis.keyring import KeyringError
from tollhouse.cli import engine, places
from tollhouse.cli.backend import Backend, for_backend, to_yaml
from tollhouse.cli.console import Console
from tollhouse.cli.parts import LOCAL_CLUSTER, Stack, local_engine
from tollhouse.cli.probes import Address
from tollhouse.cli.running import Running
from tollhouse.cli.state import StateDirectory, StateError, write_whole
from tollhouse.cli.supervisor import PartError
from tollhouse.core.problems import Unavailable

DEFAULT_LISTEN = "127.0.0.1:10000"
DEFAULT_STATE = Path(".tollhouse")
DEFAULT_ADMIN_PORT = 9901

_DESCRIPTION = """\
Start the whole stack on this machine: Redis, Triton with a simulated model, the
frontend, authz, extproc, billing and Envoy. Makes a demo tenant with a key, says when
all is ready and how to call it, starts again what dies, and stops it all on Ctrl-C.
Data survives in the state directory.
"""
_EXAMPLES = """\
examples:
  tollhouse up
  tollhouse up --listen 127.0.0.1:0 --state-dir /tmp/try --ready-file /tmp/try.json
  tollhouse up --backend http://127.0.0.1:8080 --config my-models.yaml

Exit status: 0 stopped as asked, 1 a part failed to start, 2 the command line, a file or
the machine is not right; then nothing is left running.
"""

_Value = TypeVar("_Value")


class UpError(Exception):
    """The stack can't be started; one line per fault, ready to print."""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "up",
        help="start the whole stack on this machine",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen",
        type=_argument(Address.parse),
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help="where clients connect; port 0 finds a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=DEFAULT_STATE,
        metavar="DIR",
        help="data, keys and logs (default: %(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="models and plans (default: ./tollhouse.yaml, else the repository's)",
    )
    parser.add_argument(
        "--backend",
        type=_argument(Backend.parse),
        metavar="URL",
        help="serve all models from this OpenAI-compatible server, without Triton",
    )
    parser.add_argument(
        "--workers",
        type=_argument(_positive),
        default=max(1, (os.cpu_count() or 1) // 2),
        metavar="N",
        help="extproc processes (default: half the cores, here %(default)s)",
    )
    parser.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="write base_url, api_key and pids here (JSON) when all is ready",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the stack until asked to stop."""
    try:
        _run(args)
    except (
        *(UpError, StateError, ConfigurationError, PepperError, KeyringError),
        *(places.MissingError, engine.EngineMissing),
    ) as error:
        return _fail(error, 2)
    except (PartError, Unavailable) as error:
        return _fail(error, 1)
    return 0


def _fail(error: Exception, status: int) -> int:
    for line in str(error).splitlines():
        Console(sys.stderr).error(line)
    return status


def _run(args: argparse.Namespace) -> None:
    began = time.monotonic()
    console = Console()
    backend: Backend | None = args.backend
    config: Path = args.config or places.default_config()
    configuration = load(config)
    tools = None if backend else _find_engine()
    envoy, redis = places.envoy_binary(), places.redis_binary()
    state = StateDirectory(args.state_dir)
    with state.hold() as lock, _announced_in(args.ready_file):
        listen, ports = _choose_ports(args.listen, 4)
        console.line(f"Starting Tollhouse; state and logs are in {state.path}")
        if backend is not None:
            configuration = for_backend(configuration)
            config = state.run / "tollhouse.yaml"
            write_whole(config, to_yaml(configuration))
        admin = _admin_address(ports.pop())
        local = None
        if tools is not None:
            engine_ports = engine.EnginePorts(*ports)
            local = local_engine(state, tools, configuration, engine_ports)
        stack = Stack(
            state=state,
            config=config.resolve(),
            envoy=envoy,
            redis=redis,
            listen=listen,
            admin=admin,
            workers=args.workers,
            engine=local,
        )
        _render_envoy(stack, configuration, backend)
        running = Running(
            stack, configuration, console, ready_file=args.ready_file, began=began
        )
        asyncio.run(running.main(lock))


def _argument(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """Let argparse show what a parser says is wrong."""

    def parsed(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"`{text}` is not a positive number")
    return int(text)


def _find_engine() -> engine.EngineTools:
    """Find the local engine, or say what to do without it."""
    system, machine = platform.system(), platform.machine()
    instead = "use an OpenAI-compatible server of yours with --backend URL"
    if (system, machine) != ("Linux", "x86_64"):
        raise UpError(
            "the local engine (tritonserver) exists for Linux on x86-64 only, not for"
            f" {system} on {machine}; {instead}"
        )
    try:
        return engine.find_tools()
    except engine.EngineMissing as error:
        raise UpError(f"{error}, or {instead}") from error


@contextlib.contextmanager
def _announced_in(ready_file: Path | None) -> Iterator[None]:
    """Have the ready file there only while the stack is ready."""
    if ready_file is None:
        yield
        return
    if not ready_file.absolute().parent.is_dir():
        raise UpError(f"--ready-file: {ready_file.absolute().parent} is no directory")
    ready_file.unlink(missing_ok=True)
    try:
        yield
    finally:
        ready_file.unlink(missing_ok=True)


def _choose_ports(listen: Address, others: int) -> tuple[Address, list[int]]:
    """Check the listening port, or find one for port 0; find some for ourselves.

    All are held at the same time, so they differ. Raises UpError.
    """
    with contextlib.ExitStack() as held:
        chosen = _bind(listen, held)
        loopback = Address(host="127.0.0.1", port=0)
        return chosen, [_bind(loopback, held).port for _ in range(others)]


def _bind(address: Address, held: contextlib.ExitStack) -> Address:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    probe = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    # As Envoy does, so that connections of the last run that linger don't matter.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((address.host, address.port))
        probe.listen(1)
    except OSError as error:
        raise UpError(
            f"can't listen on {address}: {error.strerror or error};"
            " choose another address with --listen"
        ) from error
    return Address(host=address.host, port=probe.getsockname()[1])


def _admin_address(otherwise: int) -> Address:
    """Return Envoy's usual admin port if it is free, else the other one."""
    usual = Address(host="127.0.0.1", port=DEFAULT_ADMIN_PORT)
    with contextlib.ExitStack() as held, contextlib.suppress(UpError):
        return _bind(usual, held)
    return Address(host="127.0.0.1", port=otherwise)


def _render_envoy(
    stack: Stack, configuration: Configuration, backend: Backend | None
) -> None:
    """Write Envoy's configuration. Raises UpError with all that is wrong with it."""
    # Not at the top: the typed classes take most of a second to import.
    from tollhouse.cli.bootstrap import (  # noqa: PLC0415
        BootstrapError,
        Edge,
        Tls,
        read_bootstrap,
        render_bootstrap,
    )
    from tollhouse.cli.edge_rules import findings  # noqa: PLC0415

    source = places.default_envoy()
    tls = {}
    if backend is not None and backend.trusted_ca is not None:
        tls[LOCAL_CLUSTER] = Tls(backend.address.host, backend.trusted_ca)
    edge = Edge(
        listen=stack.listen,
        admin=stack.admin,
        clusters={
            "authz": [stack.socket("authz")],
            "extproc": [stack.socket(name) for name in stack.extprocs],
            LOCAL_CLUSTER: [backend.address if backend else stack.socket("frontend")],
        },
        proof=stack.state.proof.read_text("ascii").strip(),
        ledger=stack.ledger,
        meter=places.meter(),
        tls=tls,
        host=backend.host if backend else None,
    )
    try:
        if faults := list(findings(read_bootstrap(source), configuration)):
            raise UpError("\n".join(f"{source}: {fault}" for fault in faults))
        text = render_bootstrap(source, edge)
    except BootstrapError as error:
        raise UpError(str(error)) from error
    write_whole(stack.bootstrap, text, mode=0o600)
