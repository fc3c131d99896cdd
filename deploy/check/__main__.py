"""`make deploy-check`: is what deploy/ says possible, and does it fit the code?

One line for each check, its faults below it; exit status 1 when there is one. Nothing
is deployed: what a cluster or a container engine would say, only they can say.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deploy.check import (
    agreement,
    compose,
    edge,
    image,
    manifests,
    mesh,
    references,
    rules,
    scripts,
    selectors,
    settings,
)
from deploy.check.tree import KUSTOMIZATIONS, Tree, UnusableTreeError

Check = Callable[[Tree], Iterator[str]]

CHECKS: dict[str, Check] = {
    "kustomize renders": manifests.render,
    "schemas of Kubernetes": manifests.schemas,
    "Pod Security: restricted": manifests.restricted,
    "names lead somewhere": references.check,
    "selectors select": selectors.check,
    "settings are settings": settings.check,
    "containers agree": agreement.check,
    "Envoy takes its file": edge.check,
    "compose.yaml": compose.check,
    "images can be built": image.building,
    "images have their packages": image.starting,
    "mesh examples": mesh.check,
    "rules of Prometheus": rules.check,
    "shell scripts": scripts.check,
}


def run(
    root: Path,
    names: Sequence[str] = tuple(CHECKS),
    kustomizations: Sequence[str] = KUSTOMIZATIONS,
) -> dict[str, list[str]]:
    """Return the faults that each check finds."""
    with tempfile.TemporaryDirectory(prefix="tollhouse-check-") as scratch:
        tree = Tree(root, Path(scratch), kustomizations)
        return {
            name: list(_faults(check, tree))
            for name, check in CHECKS.items()
            if name in names
        }


def _faults(check: Check, tree: Tree) -> Iterator[str]:
    try:
        yield from check(tree)
    except UnusableTreeError as error:
        yield str(error)


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(prog="deploy-check", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the checkout")
    found = run(parser.parse_args().root.resolve())
    for name, faults in found.items():
        print(f"{'FAIL' if faults else 'ok  '} {name}")
        for fault in faults:
            print(f"     {fault}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
