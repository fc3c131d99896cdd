"""A real Envoy with the real envoy.yaml, and everything around it in this process."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.e2e.edge import services
from tests.e2e.edge.backend import Backend
from tollhouse.adapters.address import Address
from tollhouse.cli.bootstrap import Edge as Values
from tollhouse.cli.bootstrap import render_bootstrap

_FOLDER = Path(__file__).parents[3] / "envoy"
_ENVOY = Path(sys.executable).with_name("envoy")
KEY = "Bearer good-key-of-enough-letters"


@dataclass
class Edge:
    """One running Envoy."""

    port: int
    admin: int
    folder: Path
    process: asyncio.subprocess.Process
    backend: Backend
    authorization: services.Authorization
    processor: services.ExternalProcessor

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, *, http2: bool = False) -> httpx.AsyncClient:
        """Return a client with a good key."""
        return httpx.AsyncClient(
            base_url=self.url,
            http1=not http2,
            http2=http2,
            headers={"authorization": KEY, "content-type": "application/json"},
            timeout=30,
        )

    def lines(self) -> list[dict[str, Any]]:
        """Return the ledger's whole lines."""
        text = (self.folder / "ledger.jsonl").read_text()
        return [
            json.loads(line)
            for line in text.splitlines(keepends=True)
            if line[-1:] == "\n"
        ]

    async def ended(self, value: str, field: str = "exchange") -> dict[str, Any]:
        """Return the end line with this value in a field, as soon as it is there."""
        async with asyncio.timeout(30):
            while True:
                for line in self.lines():
                    if line[field] == value and line["type"] == "DownstreamEnd":
                        return line
                await asyncio.sleep(0.02)

    async def counter(self, name: str) -> int:
        """Return one of Envoy's counters."""
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{self.admin}/stats?filter={name}$"
            text = (await client.get(url)).text
        return int(text.rpartition(":")[2])

    async def restart(self) -> None:
        """Start it again, with the same files, as if it had been killed."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.process = await start_envoy(self.folder)
        await _until_ready(self)

    def rss(self) -> int:
        """Return Envoy's resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextlib.asynccontextmanager
async def running_edge(
    folder: Path,
    find_port: Any,
    *,
    authz: bool = True,
    extproc: bool = True,
    patched: Mapping[str, Any] | None = None,
    without_route: str = "",
    hosts: Sequence[Address] = (),
    change: Callable[[Any], None] = lambda _: None,
) -> AsyncIterator[Edge]:
    """Run it; `patched` gives other values to fields of the bootstrap, by name.

    `hosts` are further ones of the backend's cluster; `change` has the last word on
    the bootstrap.
    """
    backend = Backend()
    await backend.start()
    authorization, processor, stops = await services.serve(folder)
    absent = Address(path=str(folder / "nobody.sock"))
    values = Values(
        listen=Address(host="127.0.0.1", port=find_port()),
        admin=Address(host="127.0.0.1", port=find_port()),
        clusters={
            "authz": [Address(path=f"{folder}/authz.sock") if authz else absent],
            "extproc": [Address(path=f"{folder}/extproc.sock") if extproc else absent],
            "tiny-chat": [Address(host="127.0.0.1", port=backend.port), *hosts],
        },
        proof=services.PROOF,
        ledger=folder / "ledger.jsonl",
        request_log=folder / "access.log",
        meter=_FOLDER / "meter.lua",
    )
    tree = json.loads(render_bootstrap(_FOLDER / "envoy.yaml", values))
    config = folder / "envoy.json"
    tree = _without_route(with_values(tree, patched or {}), without_route)
    change(tree)
    config.write_text(json.dumps(tree))
    process = await start_envoy(folder)
    edge = Edge(
        port=values.listen.port,
        admin=values.admin.port,
        folder=folder,
        process=process,
        backend=backend,
        authorization=authorization,
        processor=processor,
    )
    try:
        await _until_ready(edge)
        yield edge
    finally:
        with contextlib.suppress(ProcessLookupError):
            edge.process.kill()
        await edge.process.wait()
        for stop in stops:
            await stop(0)
        await backend.stop()


async def start_envoy(folder: Path) -> asyncio.subprocess.Process:
    """Start one with envoy.json of a folder; it logs to envoy.log there."""
    with (folder / "envoy.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *(str(_ENVOY), "-c", str(folder / "envoy.json"), "--concurrency", "1"),
            *("--disable-hot-restart", "-l", "warning"),
            *("--file-flush-interval-msec", "20"),
            stdout=log,
            stderr=log,
            # Python ignores SIGXFSZ: to Envoy a limit on file sizes is a full disk.
            restore_signals=False,
        )


async def _until_ready(edge: Edge) -> None:
    async with asyncio.timeout(60), edge.client() as client:
        while edge.process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/healthz")).status_code == 200:
                    return
            await asyncio.sleep(0.02)
    raise AssertionError((edge.folder / "envoy.log").read_text())


def with_values(tree: Any, values: Mapping[str, Any]) -> Any:
    """Give fields of a bootstrap other values, by their name."""
    match tree:
        case dict():
            return {
                name: values[name] if name in values else with_values(value, values)
                for name, value in tree.items()
            }
        case list():
            return [with_values(item, values) for item in tree]
        case _:
            return tree


def _without_route(tree: Any, name: str) -> Any:
    match tree:
        case dict():
            return {key: _without_route(value, name) for key, value in tree.items()}
        case list():
            return [
                _without_route(item, name)
                for item in tree
                if not (name and isinstance(item, dict) and item.get("name") == name)
            ]
        case _:
            return tree
