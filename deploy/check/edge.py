"""Envoy's own word on the file that a pod's init container would write for it."""

import contextlib
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy.check.tree import Document, Tree, config_map, containers
from tollhouse.cli.__main__ import main as tollhouse
from tollhouse.cli.places import envoy_binary


def check(tree: Tree) -> Iterator[str]:
    """Yield what `tollhouse envoy render` or Envoy says against it."""
    seen = list[object]()
    for where, documents, document in tree.pods():
        by_name = {it["name"]: it for it in containers(document)}
        if "envoy-config" not in by_name:
            continue
        config, envoy = by_name["envoy-config"], by_name["envoy"]
        spec = document["spec"]["template"]["spec"]
        named = [it["configMap"]["name"] for it in spec["volumes"] if "configMap" in it]
        files = [config_map(documents, it) for it in named]
        if (case := (config["args"], envoy["args"], files)) in seen:
            continue
        seen.append(case)
        place = tree.scratch / "pods" / where.replace("/", "-")
        mounts = _laid_out(tree, documents, document, place)
        writing = [*config["command"][1:], *config["args"]]
        for fault in faults(writing, envoy["args"], mounts):
            yield f"{where}: {fault}"


def faults(
    writing: list[str], running: list[str], mounts: dict[str, Path]
) -> Iterator[str]:
    """Write and validate, with the places of `mounts` on this disk in both commands."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = tollhouse([_placed(it, mounts) for it in writing])
    if status:
        yield from said.getvalue().splitlines()
        return
    arguments = [_placed(it, mounts) for it in running]
    asked = subprocess.run(
        [envoy_binary(), "--mode", "validate", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        yield f"envoy: {asked.stderr.strip().splitlines()[-1]}"


def _placed(argument: str, mounts: dict[str, Path]) -> str:
    for mount, path in mounts.items():
        argument = argument.replace(f"{mount}/", f"{path}/")
    return argument.replace("$(POD_NAME)", "pod")


def _laid_out(
    tree: Tree, documents: list[Document], document: Document, place: Path
) -> dict[str, Path]:
    """Make the volumes of a pod on this disk; return mount path → folder."""
    folders = {}
    for volume in document["spec"]["template"]["spec"]["volumes"]:
        folder = folders[volume["name"]] = place / volume["name"]
        folder.mkdir(parents=True)
        match volume:
            case {"configMap": {"name": name}}:
                for key, text in (config_map(documents, name) or {}).items():
                    (folder / key).write_text(text)
            case {"secret": {"secretName": name}}:
                folders[volume["name"]] = tree.secrets / name
    return {
        mount["mountPath"]: folders[mount["name"]]
        for name in ("envoy-config", "envoy")
        for it in containers(document)
        if it["name"] == name
        for mount in it["volumeMounts"]
    }
