"""How to take a guard out of a bootstrap: each function makes one change."""

from collections.abc import Callable
from typing import Any

from tests.e2e.attacks.places import BUFFER, mapped, matched, mutations
from tests.e2e.attacks.rig import Change, Tree, manager


def field(*path: str, value: Any = None) -> Change:
    """Take a field of the connection manager away, or give it another value."""

    def change(tree: Tree) -> None:
        _put(manager(tree), path, value)

    return change


def _put(at: Tree, path: tuple[str, ...], value: Any) -> None:
    *outer, last = path
    for name in outer:
        at = at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value


def of_filter(name: str, *path: str, value: Any = None) -> Change:
    """Take a field of a filter away, or give it another value."""

    def change(tree: Tree) -> None:
        for item in manager(tree)["http_filters"]:
            if item["name"] == name:
                _put(item["typed_config"], path, value)

    return change


def always(name: str) -> Change:
    def change(tree: Tree) -> None:
        for item in manager(tree)["http_filters"]:
            if item["name"] == name:
                del item["disabled"]

    return change


def without_filter(name: str) -> Change:
    def change(tree: Tree) -> None:
        edge = manager(tree)
        edge["http_filters"] = [it for it in edge["http_filters"] if it["name"] != name]
        for route in _routes(tree):
            route.get("typed_per_filter_config", {}).pop(name, None)

    return change


def mutation(name: str) -> Change:
    def change(tree: Tree) -> None:
        listed = mutations(manager(tree))
        listed[:] = [it for it in listed if matched(it) != name]

    return change


def _routes(tree: Tree) -> list[Tree]:
    (host,) = manager(tree)["route_config"]["virtual_hosts"]
    found: list[Tree] = host["routes"]
    return found


def without_route(name: str) -> Change:
    def change(tree: Tree) -> None:
        listed = _routes(tree)
        listed[:] = [it for it in listed if it["name"] != name]

    return change


def of_routes(edit: Callable[[Tree], None], *names: str) -> Change:
    def change(tree: Tree) -> None:
        for route in _routes(tree):
            if not names or route["name"] in names:
                edit(route)

    return change


def any_proof(route: Tree) -> None:
    del route["match"]["headers"]


def buffered(route: Tree) -> None:
    del route["typed_per_filter_config"][BUFFER]


def kept(header: str) -> Change:
    def edit(route: Tree) -> None:
        listed = route.get("request_headers_to_remove", [])
        listed[:] = [it for it in listed if it != header]

    return of_routes(edit)


def prefix(path: str) -> Change:
    def edit(route: Tree) -> None:
        if route["match"].get("path") == path:
            route["match"]["prefix"] = route["match"].pop("path")

    return of_routes(edit)


def loosened(name: str) -> Change:
    """Let the pattern of this route, in all that have it, match what begins alike."""

    def change(tree: Tree) -> None:
        routes = _routes(tree)
        (pattern,) = (
            it["match"]["safe_regex"]["regex"] for it in routes if it["name"] == name
        )
        for route in routes:
            if route["match"].get("safe_regex", {}).get("regex") == pattern:
                route["match"]["safe_regex"]["regex"] = f"{pattern}.*"

    return change


def mapper(name: str) -> Change:
    def change(tree: Tree) -> None:
        config = manager(tree)["local_reply_config"]
        config["mappers"] = [it for it in config["mappers"] if mapped(it) != name]

    return change


def any_host(tree: Tree) -> None:
    (host,) = manager(tree)["route_config"]["virtual_hosts"]
    host["domains"] = ["*"]


def open_admin(tree: Tree) -> None:
    del tree["admin"]["allow_paths"]
