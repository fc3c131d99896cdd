"""Envoy before the real services on TCP: mTLS, by the recipe."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from tests.certificates import Authority, Pair, replace
from tests.e2e.edge.backend import Backend
from tests.e2e.running_stack import wait_until
from tests.e2e.tls.envoy import Envoy, running_envoy, services_socket
from tests.e2e.tls.fleet import EDGE, RELAY, Fleet
from tollhouse.adapters.address import Address


@contextlib.asynccontextmanager
async def edge(
    folder: Path,
    fleet: Fleet,
    backend: Backend,
    pair: Pair | None,
    *,
    trusted: Authority | None = None,
    name: str = "authz.test",
) -> AsyncIterator[Envoy]:
    """An Envoy with this certificate, which trusts and expects this of authz."""

    def local(port: int) -> list[Address]:
        return [Address(host="127.0.0.1", port=port)]

    def socket(service: str, expected: str, authority: Authority) -> object:
        return services_socket(folder / service, expected, authority, pair)

    async with running_envoy(
        folder,
        {
            "authz": local(fleet.ports["authz"]),
            "extproc": local(fleet.ports["extproc"]),
            "tiny-chat": local(backend.port),
        },
        {
            "authz": socket("authz", name, trusted or fleet.authority),
            "extproc": socket("extproc", "extproc.test", fleet.authority),
        },
        ledger=fleet.ledger,
    ) as running:
        yield running


@contextlib.contextmanager
def looked_up(fleet: Fleet, key: str):
    """Tell which commands about a key authz gave to Redis meanwhile."""
    key_id = key.split("_")[1]
    seen: list[str] = []
    with redis.Redis.from_url(fleet.redis_url) as client, client.monitor() as monitor:
        yield seen
        client.ping()  # the end of what counts
        for command in monitor.listen():
            if command["command"] == "PING":
                break
            if key_id in command["command"]:
                seen.append(command["command"])


async def test_from_a_key_to_a_bill_over_mtls_alone(fleet, backend, folder):
    """Envoy, authz, extproc and billing on TCP: an answer, and ten tokens counted."""
    key = await asyncio.to_thread(fleet.make_key, "whole")
    pair = fleet.authority.issue(EDGE)
    async with edge(folder, fleet, backend, pair) as envoy:
        with looked_up(fleet, key) as commands:
            answer = await envoy.ask(key)
        assert (answer.status_code, answer.json()["usage"]["total_tokens"]) == (200, 10)
        assert commands
        assert (await envoy.ask("th_abcdefghijkl_" + "x" * 43)).status_code == 401

        def counted() -> list[tuple[object, object]]:
            rows = [it for it in fleet.usage() if it["tenant"] == "whole"]
            return [(it["input_tokens"], it["output_tokens"]) for it in rows]

        await asyncio.to_thread(wait_until, lambda: counted() == [(7, 3)], 30)
        assert await asyncio.to_thread(counted) == [(7, 3)]


@pytest.mark.parametrize("who", ["nobody", "another authority", "another name"])
async def test_a_wrong_client_reaches_no_handler(fleet, backend, folder, who):
    """503 for a good key, and authz never even looks for it."""
    tenant = who.replace(" ", "-")
    key = await asyncio.to_thread(fleet.make_key, tenant)
    match who:
        case "nobody":
            pair = None
        case "another authority":
            pair = Authority(folder / "other").issue(EDGE)
        case _:
            pair = fleet.authority.issue(RELAY)
    async with edge(folder, fleet, backend, pair) as envoy:
        with looked_up(fleet, key) as commands:
            answer = await envoy.ask(key)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "service_unavailable"
    assert commands == []
    assert backend.received == []
    if who == "another name":
        assert f'"names":["{RELAY}"]' in fleet.log("authz")


@pytest.mark.parametrize("what", ["name", "authority"])
async def test_envoy_refuses_another_server(fleet, backend, folder, what):
    """Whoever answers on authz's port gets no key to see."""
    key = await asyncio.to_thread(fleet.make_key, f"server-{what}")
    pair = fleet.authority.issue(EDGE)
    wrong = (
        {"name": "elsewhere.test"}
        if what == "name"
        else {"trusted": Authority(folder / "other")}
    )
    async with edge(folder, fleet, backend, pair, **wrong) as envoy:
        with looked_up(fleet, key) as commands:
            assert (await envoy.ask(key)).status_code == 503
        errors = "san" if what == "name" else "error"
        assert await envoy.stat(f"cluster.authz.ssl.fail_verify_{errors}") > 0
    assert commands == []


async def test_envoy_takes_up_a_renewed_certificate(fleet, backend, folder):
    """A client certificate of a former authority is replaced, and Envoy is let in."""
    key = await asyncio.to_thread(fleet.make_key, "renewed")
    pair = Authority(folder / "former").issue(EDGE)
    async with edge(folder, fleet, backend, pair) as envoy:
        assert (await envoy.ask(key)).status_code == 503
        renewed = fleet.authority.issue(EDGE, into="renewed")
        replace(pair.key, renewed.key.read_bytes(), mode=0o600)
        replace(pair.certificate, renewed.certificate.read_bytes())

        answers = [503]
        async with asyncio.timeout(30):
            while answers[-1] != 200:
                answers.append((await envoy.ask(key)).status_code)
        assert set(answers) == {200, 503}
