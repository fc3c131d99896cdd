"""TCP ports: one kept for clients, some found for ourselves."""

import contextlib
import socket
from collections.abc import Iterator

from tollhouse.adapters.address import Address
from tollhouse.cli.unusable import UnusableError


class PortError(UnusableError):
    """Nobody can listen there; the text is one line with the remedy."""


@contextlib.contextmanager
def reserved(listen: Address) -> Iterator[Address]:
    """Keep the listening port for our Envoy; port 0 becomes a free one.

    A bound socket that does not listen keeps others from the port, also while Envoy
    restarts; Envoy itself may share it (SO_REUSEPORT, same user). Raises PortError.
    """
    with contextlib.ExitStack() as held:
        try:
            address = _reserve(listen, held)
        except OSError as error:
            raise PortError(
                f"can't listen on {listen}: {error.strerror or error};"
                " choose another address with --listen"
            ) from error
        yield address


def free_ports(count: int) -> list[int]:
    """Find ports of 127.0.0.1 that nobody listens on; all are different."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _reserve(listen: Address, held: contextlib.ExitStack) -> Address:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as alone:
        # As Envoy does: connections of the last run that linger don't matter.
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind((listen.host, listen.port))
        alone.listen(1)
        port: int = alone.getsockname()[1]
    shared = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    shared.bind((listen.host, port))
    return Address(host=listen.host, port=port)
