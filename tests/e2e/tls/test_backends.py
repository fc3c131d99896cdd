"""TLS towards backends: who is believed, and what a failed one costs."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.certificates import Authority, Pair
from tests.e2e.edge.backend import Backend, answer
from tests.e2e.edge.threads import running_backend
from tests.e2e.running_stack import running_stack, short_folder, wait_until
from tests.e2e.tls.conftest import ANSWER
from tests.e2e.tls.envoy import QUESTION, Envoy, running_envoy, services_socket
from tests.e2e.tls.fleet import EDGE, Fleet
from tests.e2e.tls.recipes import placed, recipe
from tollhouse.adapters.address import Address

NAME = "llm.example.com"
"""The recipe's."""


def serving(pair: Pair, clients: Authority | None = None) -> ssl.SSLContext:
    """Return a server's context; with clients' authority it asks for a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)
    return context


def by_recipe(trusted: Authority) -> Any:
    """Return the recipe for a backend, with this authority."""
    (block,) = recipe("A backend over TLS")
    system = "/etc/ssl/certs/ca-certificates.crt"
    return placed(block["transport_socket"], {system: trusted.file})


@contextlib.asynccontextmanager
async def edge(
    folder: Path, fleet: Fleet, backend_socket: Any, tls: ssl.SSLContext
) -> AsyncIterator[tuple[Envoy, Backend]]:
    """The fleet before a backend with TLS."""
    backend = Backend(usual=answer(ANSWER), tls=tls)
    await backend.start()
    pair = fleet.authority.issue(EDGE)
    sockets = {
        name: services_socket(folder / name, f"{name}.test", fleet.authority, pair)
        for name in ("authz", "extproc")
    }
    clusters = {
        name: [Address(host="127.0.0.1", port=port)]
        for name, port in {**fleet.ports, "tiny-chat": backend.port}.items()
        if name != "billing"
    }
    sockets["tiny-chat"] = backend_socket
    try:
        async with running_envoy(
            folder, clusters, sockets, ledger=fleet.ledger
        ) as running:
            yield running, backend
    finally:
        await backend.stop()


async def test_a_backend_that_proves_its_name_is_asked(fleet, folder):
    """By name, and by no other than the client's question: its key stays here."""
    key = await asyncio.to_thread(fleet.make_key, "proven")
    authority = Authority(folder / "pki")
    tls = serving(authority.issue(NAME))
    asked_for: list[str] = []
    tls.sni_callback = lambda _, name, __: asked_for.append(name)
    async with edge(folder, fleet, by_recipe(authority), tls) as (envoy, backend):
        answered = await envoy.ask(key, cookie="a=b")
        assert answered.status_code == 200
        (received,) = backend.received
    assert asked_for == [NAME]
    assert received.headers["content-type"] == "application/json"
    assert key not in received.head
    assert {"authorization", "cookie"}.isdisjoint(received.headers)


@pytest.mark.parametrize("fault", ["authority", "name", "ended", "plain"])
async def test_a_backend_that_does_not_is_not_asked(fleet, folder, fault):
    """503 in OpenAI's words, tried twice, nothing sent, and nothing billed."""
    tenant = f"backend-{fault}"
    key = await asyncio.to_thread(fleet.make_key, tenant)
    authority = Authority(folder / "pki")
    match fault:
        case "authority":
            pair = Authority(folder / "other").issue(NAME)
        case "name":
            pair = authority.issue("other.example.com", f"{NAME}.evil.test")
        case "ended":
            pair = authority.issue(NAME, days=-1)
        case _:
            pair = authority.issue(NAME)
    tls = serving(pair)
    async with edge(folder, fleet, by_recipe(authority), tls) as (envoy, backend):
        if fault == "plain":
            backend.tls = None
            await backend.stop()
            await backend.start()
        answered = await envoy.ask(key)
        assert answered.status_code == 503
        assert answered.json()["error"]["code"] == "service_unavailable"
        assert "retry-after" in answered.headers
        for word in ("tls", "certificate", "verif", "ssl"):
            assert word not in answered.text.lower()
        assert backend.received == []
        assert await envoy.stat("cluster.tiny-chat.upstream_rq_retry") <= 1
        assert await envoy.stat("cluster.tiny-chat.upstream_cx_connect_fail") <= 2

        def counted() -> list[dict[str, Any]]:
            return [it for it in fleet.usage() if it["tenant"] == tenant]

        await asyncio.to_thread(wait_until, counted, 15)
        (row,) = await asyncio.to_thread(counted)
    assert (row["input_tokens"], row["output_tokens"]) == (0, 0)
    line = next(
        it
        for it in map(json.loads, fleet.ledger.read_text().splitlines())
        if it["tenant"] == tenant and it["type"] == "DownstreamEnd"
    )
    assert "UF" in line["flags"]


async def test_a_backend_may_ask_for_our_certificate(fleet, folder):
    """By the recipe's advice: a secret like `edge-client`, and a followed authority."""
    key = await asyncio.to_thread(fleet.make_key, "mutual")
    authority, ours = Authority(folder / "pki"), Authority(folder / "ours")
    pair = ours.issue("gateway.test")
    tls = serving(authority.issue(NAME), clients=ours)
    socket = by_recipe(authority)
    async with edge(folder, fleet, socket, tls) as (envoy, backend):
        assert (await envoy.ask(key)).status_code == 503
        assert backend.received == []

    (folder / "mutual").mkdir()
    services = services_socket(folder / "mutual", "unused", authority, pair)
    like = services["typed_config"]["common_tls_context"]
    common = socket["typed_config"]["common_tls_context"]
    secrets = "tls_certificate_sds_secret_configs"
    common[secrets] = like[secrets]
    del common["validation_context"]
    followed = "validation_context_sds_secret_config"
    common[followed] = like["combined_validation_context"][followed]
    async with edge(folder, fleet, socket, tls) as (envoy, backend):
        assert (await envoy.ask(key)).status_code == 200


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_up_believes_the_authority_it_is_given(name):
    """`--backend https://… --backend-ca FILE`, by name and by address."""
    with short_folder() as folder:
        authority, other = Authority(folder / "pki"), Authority(folder / "other")
        tls = serving(authority.issue(name))
        with running_backend(usual=answer(ANSWER), tls=tls) as backend:
            url = f"https://{name}:{backend.port}"
            for trusted, status in ((authority, 200), (other, 503)):
                options = ("--backend", url, "--backend-ca", str(trusted.file))
                with running_stack(folder, *options) as stack:
                    answered = httpx.post(
                        f"{stack.base_url}/chat/completions",
                        json=QUESTION,
                        headers={"authorization": f"Bearer {stack.api_key}"},
                        timeout=60,
                    )
                assert answered.status_code == status
                assert all(stack.api_key not in it.head for it in backend.received)
            (received,) = backend.received
    assert received.headers["host"] == f"{name}:{backend.port}"
