"""The clients' port is ours from the first check to the end, whoever asks for it."""

import socket

import pytest

from tollhouse.adapters.address import Address
from tollhouse.cli.ports import PortError, free_ports, reserved

ANY_PORT = Address(host="127.0.0.1", port=0)


def test_nobody_else_gets_a_reserved_port():
    """Not even while Envoy restarts and nobody listens."""
    with reserved(ANY_PORT) as address, socket.socket() as other:
        with pytest.raises(OSError, match="Address already in use"):
            other.bind((address.host, address.port))
        with (
            pytest.raises(PortError, match="Address already in use"),
            reserved(address),
        ):
            pass


def test_envoy_shares_a_reserved_port_and_gets_all_connections():
    """A bound socket that does not listen takes none."""
    with reserved(ANY_PORT) as address, socket.socket() as envoy:
        envoy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        envoy.bind((address.host, address.port))
        envoy.listen(64)
        for _ in range(32):
            with socket.create_connection((address.host, address.port), 1):
                envoy.accept()[0].close()


def test_an_address_that_is_not_ours_is_refused():
    """With the remedy."""
    with (
        pytest.raises(PortError, match=r"can't listen on 203\.0\.113\.1:1.*--listen"),
        reserved(Address(host="203.0.113.1", port=1)),
    ):
        pass


def test_an_error_of_the_block_is_not_the_ports():
    """A failing part must not read as a port in use."""
    with pytest.raises(FileNotFoundError), reserved(ANY_PORT):
        raise FileNotFoundError


def test_ipv6_works_where_the_machine_has_it():
    """`--listen [::1]:0`."""
    with reserved(Address(host="::1", port=0)) as address:
        assert address.port > 0


def test_free_ports_differ():
    """Four parts, four ports."""
    assert len(set(free_ports(20))) == 20
