"""A real Envoy with the real envoy.yaml and TLS as the recipes have it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.certificates import Authority, Pair
from tests.e2e.edge.conftest import find_port
from tests.e2e.edge.edge import start_envoy
from tests.e2e.tls.recipes import placed, recipe
from tollhouse.adapters.address import Address
from tollhouse.cli.bootstrap import Edge, render_bootstrap

PROOF = "proof-of-this-run-and-of-no-other"
_FOLDER = Path(__file__).parents[3] / "envoy"
_SOCKETS = "transport_socket"
QUESTION: dict[str, Any] = {
    "model": "tiny-chat",
    "messages": [{"role": "user", "content": "Tell me about the road."}],
}


@dataclass(frozen=True)
class Envoy:
    """A running one."""

    port: int
    admin: int
    folder: Path

    async def stat(self, name: str) -> int:
        """Return a counter or gauge; 0 for one that is not there."""
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{self.admin}/stats"
            text = (await client.get(url, params={"filter": f"^{name}$"})).text
        return int(text.rpartition(":")[2] or 0)

    async def ask(self, key: str, **headers: str) -> httpx.Response:
        """Ask the model, without TLS."""
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.post(
                f"http://127.0.0.1:{self.port}/v1/chat/completions",
                json=QUESTION,
                headers={"authorization": f"Bearer {key}", **headers},
            )


@contextlib.asynccontextmanager
async def running_envoy(
    folder: Path,
    clusters: Mapping[str, Sequence[Address]],
    sockets: Mapping[str, Any] | None = None,
    *,
    downstream: Any = None,
    ledger: Path | None = None,
) -> AsyncIterator[Envoy]:
    """Run one until the block ends; `sockets` are clusters' transport sockets."""
    values = Edge(
        listen=Address(host="127.0.0.1", port=find_port()),
        admin=Address(host="127.0.0.1", port=find_port()),
        clusters=clusters,
        proof=PROOF,
        ledger=ledger or folder / "ledger.jsonl",
        meter=_FOLDER / "meter.lua",
    )
    tree = json.loads(render_bootstrap(_FOLDER / "envoy.yaml", values))
    for cluster in tree["static_resources"]["clusters"]:
        if socket := (sockets or {}).get(cluster["name"]):
            cluster[_SOCKETS] = socket
            cluster["connect_timeout"] = "1s"
    if downstream is not None:
        (chain,) = tree["static_resources"]["listeners"][0]["filter_chains"]
        chain[_SOCKETS] = downstream
    (folder / "envoy.json").write_text(json.dumps(tree))
    process = await start_envoy(folder)
    envoy = Envoy(values.listen.port, values.admin.port, folder)
    try:
        await _until_ready(envoy, process)
        yield envoy
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _until_ready(envoy: Envoy, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient() as client:
        while process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{envoy.admin}/ready"
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.02)
    raise AssertionError((envoy.folder / "envoy.log").read_text())


def services_socket(
    folder: Path, name: str, trusted: Authority, pair: Pair | None
) -> Any:
    """Return the recipe for authz and extproc, its files in a folder.

    `name` is what the server's certificate must have; without a pair Envoy shows no
    certificate of its own.
    """
    folder.mkdir(exist_ok=True)
    socket, client, authorities = recipe("authz and extproc on TCP")
    socket = placed(
        socket[_SOCKETS],
        {"/etc/envoy/sds": folder, "authz.tollhouse.internal": name},
    )
    if pair is None:
        context = socket["typed_config"]["common_tls_context"]
        del context["tls_certificate_sds_secret_configs"]
    else:
        client = placed(client, {"/etc/edge-client-tls": pair.key.parent})
        (folder / "edge-client.yaml").write_text(yaml.safe_dump(client))
    (folder / "services-ca.yaml").write_text(
        yaml.safe_dump(
            placed(
                placed(authorities, {"/etc/edge-client-tls/ca.crt": trusted.file}),
                {"/etc/edge-client-tls": trusted.file.parent},
            )
        )
    )
    return socket
