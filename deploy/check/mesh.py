"""The examples of deploy/mesh: they lead to what the base has, and Envoy knows them."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from deploy.check.tree import Document, Tree
from tollhouse.cli.places import envoy_binary

_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    },
}


def check(tree: Tree) -> Iterator[str]:
    """Yield what can't work."""
    services = {
        it["metadata"]["name"]: [port["port"] for port in it["spec"]["ports"]]
        for it in tree.rendered["base"]
        if it["kind"] == "Service"
    }
    for file in sorted((tree.deploy / "mesh").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text("utf-8")):
            where = f"{file.name}: {document['kind']}/{document['metadata']['name']}"
            for name, port in _backends(document):
                if port not in services.get(name, []):
                    yield f"{where}: leads to {name}:{port}, which is no Service"
            if document["kind"] == "EnvoyFilter":
                yield from (f"{where}: {it}" for it in _filter_faults(tree, document))


def _backends(document: Document) -> Iterator[tuple[str, int]]:
    match document["kind"]:
        case "HTTPRoute":
            for rule in document["spec"]["rules"]:
                for it in rule["backendRefs"]:
                    yield it["name"], it["port"]
        case "VirtualService":
            for rule in document["spec"]["http"]:
                for it in rule["route"]:
                    to = it["destination"]
                    yield to["host"].partition(".")[0], to["port"]["number"]


def _filter_faults(tree: Tree, document: Document) -> Iterator[str]:
    """Have Envoy read the values, which no schema of Istio's describes."""
    values: dict[str, list[Any]] = {}
    for it in document["spec"]["configPatches"]:
        values.setdefault(it["applyTo"], []).append(it["patch"]["value"])
    manager = {
        "stat_prefix": "edge",
        "route_config": {"name": "edge"},
        "http_filters": [*values["HTTP_FILTER"], _ROUTER],
    }
    for it in values["NETWORK_FILTER"]:
        manager |= it["typed_config"]
    name = "envoy.filters.network.http_connection_manager"
    listener = {
        "name": "edge",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }
    resources = {"listeners": [listener], "clusters": values["CLUSTER"]}
    file = tree.scratch / "istio.json"
    file.write_text(json.dumps({"static_resources": resources}))
    asked = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", file],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        yield f"envoy: {asked.stderr.strip().splitlines()[-1]}"
