"""`tollhouse up`: the whole stack on this machine, ready for a client."""

import argparse
import asyncio
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from tollhouse.adapters.address import Address
from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.core_dump import leave_no_core
from tollhouse.adapters.pepper import PepperError
from tollhouse.adapters.redis.keyring import KeyringError
from tollhouse.cli import engine, places
from tollhouse.cli.backend import Backend, follow, for_backend, to_yaml
from tollhouse.cli.console import Console
from tollhouse.cli.edge_certificate import EdgeCertificate
from tollhouse.cli.local_engine import local_engine
from tollhouse.cli.parts import Stack, StripeAccount
from tollhouse.cli.ports import free_ports, reserved
from tollhouse.cli.receiver import Receiver
from tollhouse.cli.running import Running
from tollhouse.cli.state import StateDirectory, write_whole
from tollhouse.cli.supervisor import PartError
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.problems import Unavailable

DEFAULT_LISTEN = "127.0.0.1:10000"
DEFAULT_STATE = Path(".tollhouse")

_DESCRIPTION = """\
Start the whole stack on this machine: Redis, Triton with a simulated model, the
frontend, authz, extproc, billing, admin and Envoy. Makes a demo tenant with a key, says
when all is ready and how to call it, starts again what dies, and stops it all on
Ctrl-C. Data survives in the state directory.
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
        "--backend-ca",
        type=Path,
        metavar="FILE",
        help="PEM: the authorities that sign its certificate (default: the system's)",
    )
    parser.add_argument(
        "--backend-key-file",
        type=Path,
        metavar="FILE",
        help="the key it asks for, sent as Bearer; a replaced file counts without a"
        " restart",
    )
    parser.add_argument(
        "--tls-cert",
        type=Path,
        metavar="FILE",
        help="PEM: certificate for clients, then those that lead to it; they use https,"
        " and its names. Replaced files count without a restart",
    )
    parser.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="PEM: its private key"
    )
    parser.add_argument(
        "--workers",
        type=_argument(_positive),
        default=max(1, (os.cpu_count() or 1) // 2),
        metavar="N",
        help="extproc processes (default: half the cores, here %(default)s)",
    )
    parser.add_argument(
        "--stripe-key-file",
        type=Path,
        metavar="FILE",
        help="bill to the Stripe account of this key, not to files in DIR/billing",
    )
    parser.add_argument(
        "--stripe-url",
        metavar="URL",
        help="what stands for Stripe's API, to try it without an account",
    )
    parser.add_argument(
        "--telemetry",
        action="store_true",
        help="trace every request to a collector of our own; print traces here, metrics"
        " on a page",
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
        UnusableError,
        ConfigurationError,
        PepperError,
        KeyringError,
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
    leave_no_core()  # nor does any part, Envoy and Triton included
    backend = _backend(args)
    certificate = _certificate(args)
    config: Path = args.config or places.default_config()
    configuration = load(config)
    if backend is not None:
        configuration = for_backend(configuration)
    tools = None if backend else _find_engine()
    envoy, redis = places.envoy_binary(), places.redis_binary()
    state = StateDirectory(args.state_dir)
    with (
        state.hold() as lock,
        reserved(args.listen) as listen,
        _announced_in(args.ready_file),
    ):
        console = Console()
        if certificate is not None and certificate.warning is not None:
            console.warning(certificate.warning)
        console.line(f"Starting Tollhouse; state and logs are in {state.path}")
        # Not at the top: the typed Envoy classes take most of a second to import.
        from tollhouse.cli import edge_file  # noqa: PLC0415

        edge = edge_file.read(places.default_envoy(), configuration)
        background = []
        if backend is not None:
            source, config = config, state.run / "tollhouse.yaml"
            write_whole(config, to_yaml(configuration))
            background.append(partial(follow, source, config))
        admin, *ports = free_ports(6)
        receiver = _receiver(*ports[3:]) if args.telemetry else None
        local = None
        if tools is not None:
            traces_url = "" if receiver is None else receiver.traces_url
            local = local_engine(
                state, tools, configuration, ports[:3], traces_url=traces_url
            )
        stack = Stack(
            state=state,
            config=config.absolute(),
            envoy=envoy,
            redis=redis,
            listen=listen,
            admin=Address(host="127.0.0.1", port=admin),
            workers=args.workers,
            engine=local,
            certificate=certificate,
            stripe=_stripe(args),
            receiver=receiver,
        )
        edge_file.write(edge, stack, backend)
        running = Running(
            stack,
            configuration,
            console,
            ready_file=args.ready_file,
            began=began,
            background=background,
        )
        asyncio.run(running.main(lock))


def _backend(args: argparse.Namespace) -> Backend | None:
    backend: Backend | None = args.backend
    if args.backend_key_file is not None:
        if backend is None:
            raise UnusableError("--backend-key-file needs --backend URL")
        backend = backend.with_key(args.backend_key_file)
    if args.backend_ca is None:
        return backend
    if backend is None or backend.trusted_ca is None:
        raise UnusableError("--backend-ca needs --backend https://…")
    return backend.trusting(args.backend_ca)


def _certificate(args: argparse.Namespace) -> EdgeCertificate | None:
    if args.tls_cert is None and args.tls_key is None:
        return None
    if args.tls_cert is None or args.tls_key is None:
        raise UnusableError("--tls-cert and --tls-key go together")
    return EdgeCertificate.read(args.tls_cert, args.tls_key)


def _stripe(args: argparse.Namespace) -> StripeAccount | None:
    if args.stripe_key_file is None:
        if args.stripe_url is not None:
            raise UnusableError("--stripe-url needs --stripe-key-file")
        return None
    if not args.stripe_key_file.is_file():
        raise UnusableError(f"--stripe-key-file: no file {args.stripe_key_file}")
    return StripeAccount(args.stripe_key_file, args.stripe_url)


def _receiver(*ports: int) -> Receiver:
    return Receiver(*(Address(host="127.0.0.1", port=port) for port in ports))


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
        raise UnusableError(
            "the local engine (tritonserver) exists for Linux on x86-64 only, not for"
            f" {system} on {machine}; {instead}"
        )
    try:
        return engine.find_tools()
    except places.MissingError as error:
        raise UnusableError(f"{error}, or {instead}") from error


@contextlib.contextmanager
def _announced_in(ready_file: Path | None) -> Iterator[None]:
    """Have the ready file there only while the stack is ready."""
    if ready_file is None:
        yield
        return
    if not ready_file.absolute().parent.is_dir():
        raise UnusableError(
            f"--ready-file: {ready_file.absolute().parent} is no directory"
        )
    ready_file.unlink(missing_ok=True)
    try:
        yield
    finally:
        ready_file.unlink(missing_ok=True)
