"""Containers of one pod mean the same places: sockets, proof, ledger, Envoy's admin."""

from collections.abc import Iterator

from deploy.check.tree import Document, Tree, containers, environment
from tollhouse.extproc.config import Settings

_PLACES = (
    # Of `tollhouse envoy render`, and who has to say the same.
    ("--proof-file", "extproc", "TOLLHOUSE_ADMISSION_PROOF_FILE"),
    ("--ledger", "extproc", "TOLLHOUSE_LEDGER"),
    ("--admin", "extproc", "TOLLHOUSE_ENVOY_ADMIN"),
    ("--cluster=authz", "authz", "TOLLHOUSE_LISTEN"),
    ("--cluster=extproc", "extproc", "TOLLHOUSE_LISTEN"),
)


def check(tree: Tree) -> Iterator[str]:
    """Yield where two containers of a pod mean different places."""
    for where, documents, document in tree.pods():
        by_name = {it["name"]: it for it in containers(document)}
        if "envoy" not in by_name:
            continue
        settings = {name: environment(it, documents) for name, it in by_name.items()}
        for fault in (
            *faults(by_name["envoy-config"]["args"], settings),
            *_drain_faults(document, by_name, settings["extproc"]),
        ):
            yield f"{where}: {fault}"


def faults(arguments: list[str], settings: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield where Envoy's file would lead past the processes beside it."""
    given = dict(it.rsplit("=", 1) for it in arguments if "=" in it)
    for option, service, name in _PLACES:
        if given.get(option) != settings[service].get(name):
            yield (
                f"{option} is {given.get(option)}, {name} of {service} is"
                f" {settings[service].get(name)}"
            )


def _drain_faults(
    document: Document, by_name: dict[str, Document], extproc: dict[str, str]
) -> Iterator[str]:
    grace = document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    # Settling is waited for twice: by the drain, and by extproc's own end.
    needed = _seconds(extproc, "drain_seconds") + 2 * _seconds(
        extproc, "finish_seconds"
    )
    if grace <= needed:
        yield (
            f"terminationGracePeriodSeconds: {grace}, but to drain and to settle may"
            f" take {needed:.0f}"
        )
    hook = _hook(by_name["envoy"]).get("httpGet", {})
    port = extproc.get("TOLLHOUSE_DRAIN_LISTEN", "").rpartition(":")[2]
    if hook.get("path") != "/drain" or str(hook.get("port")) != port:
        yield f"preStop of envoy asks {hook}, extproc drains at port {port or 'none'}"
    made = _hook(by_name["extproc"]).get("exec", {}).get("command", [])
    permit = extproc.get("TOLLHOUSE_DRAIN_PERMIT")
    if made != ["touch", permit]:
        yield f"preStop of extproc is {made}, its TOLLHOUSE_DRAIN_PERMIT {permit}"


def _hook(container: Document) -> Document:
    hook: Document = container.get("lifecycle", {}).get("preStop", {})
    return hook


def _seconds(extproc: dict[str, str], name: str) -> float:
    default = Settings.model_fields[name].get_default()
    return float(extproc.get(f"TOLLHOUSE_{name.upper()}", default))
