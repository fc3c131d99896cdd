"""compose.yaml: hardened, whole, and set to what the services read."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.check import agreement, edge, settings
from deploy.check.tree import Tree

Service = dict[str, Any]

_BROUGHT = ("secrets", "models")
"""Folders beside compose.yaml that whoever runs it makes."""
_SECRETS = "/run/secrets/"
_VARIABLE = re.compile(r"\$\{[^}]*\}")
# Triton's image keeps its state where it likes.
_WRITABLE_ROOT = {"triton"}


def check(tree: Tree) -> Iterator[str]:
    """Yield what is wrong with it."""
    file = tree.deploy / "compose.yaml"
    stack = yaml.safe_load(file.read_text("utf-8"))
    services: dict[str, Service] = stack["services"]
    for name, service in services.items():
        for fault in (
            *_hardening_faults(name, service),
            *_mount_faults(tree, stack, service),
            *_secret_faults(tree, stack, service),
            *_order_faults(services, service),
        ):
            yield f"{name}: {fault}"
        module = settings.service_of(service.get("command", []))
        if module is not None:
            for fault in settings.faults(module, service["environment"]):
                yield f"{name}: {fault}"
    own = {name: services[name]["environment"] for name in ("authz", "extproc")}
    yield from agreement.faults(services["envoy-config"]["command"], own)
    yield from _edge_faults(tree, services)
    yield from _engine_faults(file)


def _hardening_faults(name: str, service: Service) -> Iterator[str]:
    if service.get("cap_drop") != ["ALL"]:
        yield "keeps capabilities"
    if service.get("security_opt") != ["no-new-privileges:true"]:
        yield "may gain privileges"
    if str(service.get("user", "0")).partition(":")[0] == "0":
        yield "runs as root"
    if not service.get("read_only") and name not in _WRITABLE_ROOT:
        yield "may write to its root"
    for port in service.get("ports", []):
        if not port.startswith("127.0.0.1:"):
            yield f"port {port} is open to the network"


def _mount_faults(tree: Tree, stack: Service, service: Service) -> Iterator[str]:
    for text in service.get("volumes", []):
        source = _source(text)
        if not source.startswith("."):
            if source not in stack["volumes"]:
                yield f"volume {source} is not declared"
            continue
        path = tree.deploy / source
        if not path.exists() and path.relative_to(tree.deploy).parts[0] not in _BROUGHT:
            yield f"{source} is not there"


def _source(text: str) -> str:
    """Return what a volume mounts, with the default of a variable."""
    if text.startswith("${"):
        return text[2:].partition(":-")[2].partition("}")[0]
    return text.partition(":")[0]


def _secret_faults(tree: Tree, stack: Service, service: Service) -> Iterator[str]:
    given = set()
    for it in service.get("secrets", []):
        name = it if isinstance(it, str) else it["source"]
        given.add(it if isinstance(it, str) else it["target"])
        file = stack["secrets"].get(name, {}).get("file", "")
        if not (tree.secrets / file.removeprefix("./secrets/")).is_file():
            yield f"secret {name}: deploy/secrets.sh makes no {file or 'such file'}"
    texts = [*service.get("command", []), *service.get("environment", {}).values()]
    for text in texts:
        _, found, name = str(text).partition(_SECRETS)
        if found and name not in given:
            yield f"{text}: the secret is not given to it"


def _order_faults(services: dict[str, Service], service: Service) -> Iterator[str]:
    after = service.get("depends_on", {})
    for name in after:
        condition = after[name]["condition"] if isinstance(after, dict) else ""
        if name not in services:
            yield f"waits for {name}, which is no service"
        elif condition == "service_healthy" and "healthcheck" not in services[name]:
            yield f"waits for the health of {name}, which has no check"


def _edge_faults(tree: Tree, services: dict[str, Service]) -> Iterator[str]:
    mounts: dict[str, Path] = {}
    for name in ("envoy-config", "envoy"):
        for text in services[name]["volumes"]:
            source, target = _source(text), _VARIABLE.sub("", text).split(":")[1]
            if source.startswith("."):
                path = (tree.deploy / source).resolve()
            else:
                path = tree.scratch / "compose" / source
                path.mkdir(parents=True, exist_ok=True)
            # What is mounted as a file is found by its folder.
            file = path.is_file()
            mounts[str(Path(target).parent) if file else target] = (
                path.parent if file else path
            )
    certificate = tree.secrets / "edge-tls"
    writing = [
        _VARIABLE.sub("backend:8000", it)
        .replace(f"{_SECRETS}edge-cert", str(certificate / "tls.crt"))
        .replace(f"{_SECRETS}edge-key", str(certificate / "tls.key"))
        for it in services["envoy-config"]["command"][1:]
    ]
    yield from edge.faults(writing, services["envoy"]["command"], mounts)


def _engine_faults(file: Path) -> Iterator[str]:
    """What Docker Compose itself says, where it is installed."""
    docker = shutil.which("docker")
    if docker is None:
        return
    plugin = [docker, "compose", "version"]
    if subprocess.run(plugin, capture_output=True, check=False).returncode:
        return
    asked = subprocess.run(
        [docker, "compose", "--file", str(file), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        yield asked.stderr.strip()
