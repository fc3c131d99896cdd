"""A checkout under test: what it renders to, with a new deployment's secrets."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

KUSTOMIZATIONS = ("base", "overlays/local", "overlays/production")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1"


class UnusableTreeError(Exception):
    """A check can't be made; the text is one line with the remedy."""


class Tree:
    """The repository's files, and what becomes of them."""

    def __init__(
        self,
        root: Path,
        scratch: Path,
        kustomizations: Sequence[str] = KUSTOMIZATIONS,
    ) -> None:
        self._kustomizations = kustomizations
        self.root = root
        self.deploy = root / "deploy"
        self.scratch = scratch

    @functools.cached_property
    def secrets(self) -> Path:
        """What deploy/secrets.sh makes: a folder for each secret."""
        folder = self.scratch / "secrets"
        made = subprocess.run(
            [self.deploy / "secrets.sh", folder, "localhost", "llm.example.com"],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise UnusableTreeError(f"deploy/secrets.sh: {made.stderr.strip()}")
        return folder

    @functools.cached_property
    def rendered(self) -> dict[str, list[Document]]:
        """The documents of each kustomization. Raises UnusableTreeError."""
        return {name: self._render(name) for name in self._kustomizations}

    def pods(self) -> Iterator[tuple[str, list[Document], Document]]:
        """Yield (where, all documents of the rendering, one that makes pods)."""
        for name, documents in self.rendered.items():
            for document in pod_makers(documents):
                yield f"{name}: {label(document)}", documents, document

    def _render(self, name: str) -> list[Document]:
        done = subprocess.run(
            [*_renderer(self.root), self.deploy / name],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UnusableTreeError(f"deploy/{name}: {done.stderr.strip()}")
        return [it for it in yaml.load_all(done.stdout, Loader=_LOADER) if it]


def label(document: Document) -> str:
    """Return `Kind/name` for a message."""
    return f"{document['kind']}/{document['metadata'].get('name', '?')}"


def pod_makers(documents: list[Document]) -> Iterator[Document]:
    """Yield what makes pods; of a CronJob its job, under the CronJob's name."""
    for it in documents:
        spec = it.get("spec") or {}
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield {**it, "spec": spec}


def containers(document: Document) -> list[Document]:
    """Return the containers of what makes pods, in the order in which they start."""
    spec = document["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def config_map(documents: list[Document], name: str) -> dict[str, str] | None:
    """Return what is in a ConfigMap; None: there is none of that name."""
    for it in documents:
        if it["kind"] == "ConfigMap" and it["metadata"]["name"] == name:
            return it.get("data") or {}
    return None


def environment(document: Document, documents: list[Document]) -> dict[str, str]:
    """Return what a container's process finds in its environment, in that order."""
    found: dict[str, str] = {}
    for source in document.get("envFrom", []):
        found |= config_map(documents, source["configMapRef"]["name"]) or {}
    for it in document.get("env", []):
        found[it["name"]] = str(it.get("value", "pod"))  # from a field: its own name
    return found


@functools.cache
def _renderer(root: Path) -> list[str]:
    """Return the command that renders, built where need be and Go is there."""
    if found := shutil.which("kubectl"):
        return [found, "kustomize"]
    own = root / ".tools" / "kustomize"
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), str(own)))
    if found := shutil.which("kustomize", path=path):
        return [found, "build"]
    if go := shutil.which("go"):
        built = subprocess.run(
            [go, "install", _KUSTOMIZE],
            env={**os.environ, "GOBIN": str(own)},
            capture_output=True,
            check=False,
        )
        if not built.returncode:
            return [str(own / "kustomize"), "build"]
    raise UnusableTreeError(
        "nothing here renders kustomizations: install kubectl, or kustomize 5, or Go"
    )
