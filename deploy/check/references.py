"""What pods name is there: volumes and what is in them, ports, variables."""

import re
from collections.abc import Iterator

from deploy.check.tree import Document, Tree, config_map, containers, environment

GIVEN = {
    "stripe": {"key", "webhook-secret"},
    "stripe-operator": {"key"},
    "redis-ca": {"ca.crt"},
}
"""Secrets that nobody can draw: README.md says what has to be in them."""
_VARIABLE = re.compile(r"\$\((\w+)\)")
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def check(tree: Tree) -> Iterator[str]:
    """Yield every name that leads nowhere."""
    for where, documents, document in tree.pods():
        for fault in _pod_faults(tree, documents, document):
            yield f"{where}: {fault}"


def _pod_faults(
    tree: Tree, documents: list[Document], document: Document
) -> Iterator[str]:
    spec = document["spec"]["template"]["spec"]
    claimed = document["spec"].get("volumeClaimTemplates", [])
    volumes = {it["name"]: it for it in spec.get("volumes", [])}
    volumes |= {it["metadata"]["name"]: {} for it in claimed}
    for name, volume in volumes.items():
        for kind, missing in _sources(tree, documents, volume):
            yield f"volume {name}: there is no {kind} {missing}"
    account = spec.get("serviceAccountName")
    if account and not _named(documents, "ServiceAccount", account):
        yield f"there is no ServiceAccount {account}"
    sidecars = [
        it.get("restartPolicy") == "Always" for it in spec.get("initContainers", [])
    ]
    if sidecars != sorted(sidecars):
        yield "an init container waits behind a sidecar, which may wait for it"
    everybody = containers(document)
    ports = {it["containerPort"] for of in everybody for it in of.get("ports", [])}
    mounts = {it["name"]: _mounts(it, volumes) for it in everybody}
    of_pod = {at: it for own in mounts.values() for at, it in own.items()}
    for container in everybody:
        own = mounts[container["name"]]
        named = environment(container, documents)
        for fault in (
            *(f"mount {at} has no volume" for at, it in own.items() if it is None),
            *_port_faults(container, ports),
            *_variable_faults(container, documents),
            *_file_faults(tree, documents, named, own),
            # An init container writes for the others.
            *_file_faults(tree, documents, _options(container), of_pod),
        ):
            yield f"{container['name']}: {fault}"
    mounted = {it["name"] for of in everybody for it in of.get("volumeMounts", [])}
    for name in volumes.keys() - mounted:
        yield f"volume {name}: nobody mounts it"


def _mounts(
    container: Document, volumes: dict[str, Document]
) -> dict[str, Document | None]:
    mounts = container.get("volumeMounts", [])
    return {it["mountPath"]: volumes.get(it["name"]) for it in mounts}


def _options(container: Document) -> dict[str, str]:
    given = [it.partition("=") for it in container.get("args", [])]
    return {option: value for option, _, value in given}


def _sources(
    tree: Tree, documents: list[Document], volume: Document
) -> Iterator[tuple[str, str]]:
    match volume:
        case {"configMap": {"name": name}}:
            if config_map(documents, name) is None:
                yield "ConfigMap", name
        case {"secret": {"secretName": name}}:
            if name not in GIVEN and not (tree.secrets / name).is_dir():
                yield "Secret", name
        case {"persistentVolumeClaim": {"claimName": name}}:
            if not _named(documents, "PersistentVolumeClaim", name):
                yield "PersistentVolumeClaim", name


def _named(documents: list[Document], kind: str, name: str) -> bool:
    return any(
        it["kind"] == kind and it["metadata"]["name"] == name for it in documents
    )


def _port_faults(container: Document, of_pod: set[int]) -> Iterator[str]:
    """A probe asks the container itself, a hook any of its pod."""
    own = {it.get("name"): it["containerPort"] for it in container.get("ports", [])}
    for name in _PROBES:
        for how in ("grpc", "httpGet", "tcpSocket"):
            port = container.get(name, {}).get(how, {}).get("port")
            if port is not None and port not in own and port not in own.values():
                yield f"{name}: port {port} is none of its own"
    hook = container.get("lifecycle", {}).get("preStop", {}).get("httpGet", {})
    if hook and hook["port"] not in of_pod:
        yield f"preStop: port {hook['port']} is none of the pod's"


def _variable_faults(container: Document, documents: list[Document]) -> Iterator[str]:
    known: set[str] = set()
    for source in container.get("envFrom", []):
        found = config_map(documents, source["configMapRef"]["name"])
        if found is None:
            yield f"there is no ConfigMap {source['configMapRef']['name']}"
        known |= set(found or ())
    for it in container.get("env", []):
        for name in _VARIABLE.findall(str(it.get("value", ""))):
            if name not in known:
                yield f"{it['name']}: $({name}) is not set before it"
        if it["name"] in known:
            yield f"{it['name']} is set twice"
        known.add(it["name"])
    for text in (*container.get("command", []), *container.get("args", [])):
        for name in _VARIABLE.findall(text):
            if name not in known:
                yield f"{text}: $({name}) is not set"


def _file_faults(
    tree: Tree,
    documents: list[Document],
    named: dict[str, str],
    mounts: dict[str, Document | None],
) -> Iterator[str]:
    """Yield paths that are in no volume, or not in the one they should be in."""
    for name, value in named.items():
        path = value.removeprefix("unix:")
        if not path.startswith("/"):
            continue
        below = [at for at in mounts if path == at or path.startswith(f"{at}/")]
        if not below:
            yield f"{name}: {path} is in no volume"
            continue
        mount = max(below, key=len)
        file = path.removeprefix(mount).removeprefix("/")
        match mounts[mount]:
            case {"configMap": {"name": of}}:
                there = file in (config_map(documents, of) or {})
            case {"secret": {"secretName": of}}:
                there = (
                    file in GIVEN.get(of, ()) or (tree.secrets / of / file).is_file()
                )
            case _:
                there = True
        if not there:
            yield f"{name}: {path} is not in its volume"
