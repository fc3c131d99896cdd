"""What extproc knows of backends' health, from Envoy's own statistics."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from tollhouse.adapters.address import Address
from tollhouse.adapters.live import Live
from tollhouse.extproc.backends import Backends, unhealthy

_MODEL = {
    "operations": ["chat"],
    "context": 100,
    "default_output_tokens": 10,
    "max_output_tokens": 50,
}
STATS = b"""\
cluster.authz.membership_healthy: 1
cluster.big.membership_healthy: 0
cluster.big.v2.membership_healthy: 3
cluster.a_b.membership_healthy: 0
cluster.other.membership_healthy: 0
"""


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_cluster_is_down_when_envoy_says_that_nobody_is_healthy(newline):
    """Of which it says nothing counts as healthy; a colon it writes otherwise."""
    clusters = ["big", "big.v2", "a:b", "unknown"]

    assert {"big", "a:b"} == unhealthy(STATS.replace(b"\n", newline), clusters)
    assert frozenset() == unhealthy(b"", clusters)
    assert frozenset() == unhealthy(b"<html>", clusters)


class Admin:
    """Envoy's admin listener, as far as it is asked here."""

    def __init__(self) -> None:
        self.status, self.stats = 200, STATS
        self.asked = list[str]()

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split()[1])
        writer.write(b"HTTP/1.1 %d X\r\n\r\n%s" % (self.status, self.stats))
        writer.close()


@pytest.fixture
async def admin() -> AsyncIterator[tuple[Admin, Address]]:
    made = Admin()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield made, Address(host="127.0.0.1", port=port)


def live(tmp_path: Path, fallback: list[str]) -> Live:
    models = {
        "m": _MODEL | {"cluster": "big", "fallback": fallback},
        "o": _MODEL | {"cluster": "small"},
    }
    path = tmp_path / "tollhouse.yaml"
    path.write_text(yaml.safe_dump({"models": models, "plans": {"p": {}}}))
    return Live(path)


async def test_the_last_answer_counts(admin, tmp_path):
    """An admin listener that is away, or says no, changes nothing."""
    envoy, address = admin
    backends = Backends(address, live(tmp_path, ["o"]))
    assert frozenset() == backends.down

    await backends.look()
    assert {"big"} == backends.down
    envoy.status, envoy.stats = 503, b""
    await backends.look()
    assert {"big"} == backends.down
    envoy.status, envoy.stats = 200, b"cluster.big.membership_healthy: 2\n"
    await backends.look()
    assert frozenset() == backends.down


async def test_nobody_is_asked_for_nothing(admin, tmp_path):
    """While no model has a fallback, or where the admin listener is not known."""
    envoy, address = admin
    await Backends(address, live(tmp_path, [])).look()
    await Backends(None, live(tmp_path, ["o"])).look()

    assert [] == envoy.asked


async def test_an_admin_that_is_gone_is_no_error(tmp_path, free_port):
    backends = Backends(
        Address(host="127.0.0.1", port=free_port()), live(tmp_path, ["o"])
    )
    await backends.look()

    assert frozenset() == backends.down
