"""Rendered manifests, played: each container is a process, each volume a folder.

Containers start and end in the order that Kubernetes promises: an init container to its
end, a sidecar until its startup probe passes, then the others; at the end all preStop
hooks at once, then Envoy, then the sidecars in reverse. Ports become free ones, paths
lead into the folder, and names that no DNS knows here are localhost.
"""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.check.tree import Document, Tree, config_map, containers, environment
from tests.e2e.running_stack import wait_until
from tollhouse.cli.places import envoy_binary
from tollhouse.cli.ports import free_ports

START_SECONDS = 60.0
SECRETS = "/etc/tollhouse/secrets"


class PlayedPod:
    """The pod of one Deployment."""

    def __init__(
        self, tree: Tree, documents: list[Document], name: str, changes: "Changes"
    ) -> None:
        [self.document] = (
            it
            for it in documents
            if it["kind"] == "Deployment" and it["metadata"]["name"] == name
        )
        self._documents = documents
        self._changes = changes
        self._folder = tree.scratch / name
        self.volumes = {
            it["name"]: self._volume(tree, it)
            for it in self.document["spec"]["template"]["spec"]["volumes"]
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for container in containers(self.document):
            self._start(container)

    def stop(self) -> None:
        """End it as the kubelet does."""
        hooks = [
            threading.Thread(target=self._hook, args=[it])
            for it in containers(self.document)
        ]
        for hook in hooks:
            hook.start()
        for hook in hooks:
            hook.join()
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait(30)

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def placed(self, container: Document, text: str) -> str:
        """What a path or an address of the manifest is here."""
        others = [it for it in containers(self.document) if it != container]
        for of in (container, *others):
            for mount in of.get("volumeMounts", []):
                at, folder = mount["mountPath"], self.volumes[mount["name"]]
                # Each container has secrets of its own at the same place.
                if of is container or at != SECRETS:
                    text = re.sub(f"{re.escape(at)}(?=/|$)", str(folder), text)
        return self._changes.applied(text)

    def _volume(self, tree: Tree, volume: Document) -> Path:
        folder = self._folder / str(volume["name"])
        folder.mkdir(parents=True)
        match volume:
            case {"secret": {"secretName": name}}:
                return tree.secrets / str(name)
            case {"configMap": {"name": name}}:
                for key, text in (config_map(self._documents, name) or {}).items():
                    (folder / key).write_text(self._changes.applied(text))
        return folder

    def _start(self, container: Document) -> None:
        name = container["name"]
        values = environment(container, self._documents) | self._changes.settings
        given = {key: self.placed(container, it) for key, it in values.items()}
        command = [*container["command"], *container.get("args", [])]
        program, *arguments = (self.placed(container, it) for it in command)
        programs = {
            "python": [sys.executable],
            "tollhouse": [sys.executable, "-P", "-m", "tollhouse.cli"],
            "/usr/local/bin/envoy": [str(envoy_binary())],
        }
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*programs[program], *arguments],
                env={
                    **{it: given[it] for it in given if not it.startswith("OTEL_")},
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": os.pathsep.join(sys.path),
                },
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        if "startupProbe" not in container:
            assert process.wait(START_SECONDS) == 0, self.log(name)
            # The places that the file itself names, not its arguments.
            file = self.volumes["run"] / "envoy.json"
            file.write_text(self.placed(container, file.read_text()))
            return
        self.processes[name] = process
        wait_until(lambda: self._has_started(container), START_SECONDS)
        assert self._has_started(container), self.log(name)

    def _has_started(self, container: Document) -> bool:
        process = self.processes[container["name"]]
        assert process.poll() is None, self.log(container["name"])
        match container["startupProbe"]:
            case {"grpc": {"port": port}}:
                return serves(self._changes.ports[port])
            case {"httpGet": {"path": path, "port": name}}:
                declared = {
                    it["name"]: it["containerPort"] for it in container["ports"]
                }
                return status(self._changes.ports[declared[name]], path) == 200
        raise AssertionError(container["startupProbe"])

    def _hook(self, container: Document) -> None:
        match container.get("lifecycle", {}).get("preStop"):
            case {"exec": {"command": command}}:
                placed = [self.placed(container, it) for it in command]
                subprocess.run(placed, check=True)
            case {"httpGet": {"path": path, "port": port}}:
                status(self._changes.ports[port], path)


class Changes:
    """What is another here than in the manifests."""

    def __init__(
        self,
        documents: list[Document],
        texts: dict[str, str],
        settings: dict[str, str],
    ) -> None:
        """`texts` are replaced wherever they stand; all containers get `settings`."""
        declared = {
            port["containerPort"]
            for it in documents
            if it["kind"] == "Deployment"
            for of in containers(it)
            for port in of.get("ports", [])
        }
        self.ports = dict(zip(declared, free_ports(len(declared)), strict=True))
        self.settings = settings
        self._texts = texts

    def applied(self, text: str) -> str:
        for before, after in self._texts.items():
            text = text.replace(before, after)
        for old, new in self.ports.items():
            text = re.sub(rf"(:|port_value: ){old}\b(?!\.)", rf"\g<1>{new}", text)
        return text


def serves(port: int) -> bool:
    """Ask as a kubelet does."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        with contextlib.suppress(grpc.RpcError):
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


def status(port: int, path: str, method: str = "GET") -> int:
    """Return what a plain HTTP request is answered with; 0: nobody is there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request(method, path)
        return connection.getresponse().status
    return 0


@contextlib.contextmanager
def played(pods: Sequence[PlayedPod]) -> Iterator[None]:
    """Run them until the block ends."""
    try:
        for pod in pods:
            pod.start()
        yield
    finally:
        for pod in pods:
            pod.kill()
