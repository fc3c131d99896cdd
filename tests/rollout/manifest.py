"""What Kubernetes is told of a gateway's pod, read from deploy/base/gateway.yaml.

A roll does what stands there: Envoy's arguments, and what is run before a container is
stopped.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).parents[2] / "deploy" / "base" / "gateway.yaml"


def _pod() -> dict[str, Any]:
    for document in yaml.safe_load_all(_FILE.read_text("utf-8")):
        if document["kind"] == "Deployment":
            pod: dict[str, Any] = document["spec"]["template"]["spec"]
            return pod
    raise LookupError(f"{_FILE}: no Deployment")


def _container(name: str) -> dict[str, Any]:
    pod = _pod()
    for container in (*pod["initContainers"], *pod["containers"]):
        if container["name"] == name:
            found: dict[str, Any] = container
            return found
    raise LookupError(f"{_FILE}: no container {name}")


def envoy_arguments(places: Mapping[str, str]) -> list[str]:
    """Envoy's arguments, with our places for the pod's."""
    return [places.get(it, it) for it in _container("envoy")["args"]]


def sidecar_hook(places: Mapping[str, str]) -> Sequence[str]:
    """The command that extproc's preStop hook runs, with our places for the pod's."""
    command = _container("extproc")["lifecycle"]["preStop"]["exec"]["command"]
    return [places.get(it, it) for it in command]


def envoy_hook() -> str:
    """The path that Envoy's preStop hook asks for."""
    path: str = _container("envoy")["lifecycle"]["preStop"]["httpGet"]["path"]
    return path
