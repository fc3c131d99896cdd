"""What manifests select is there: pods, their ports, their containers."""

from collections.abc import Iterator

from deploy.check.tree import Document, Tree, containers, label, pod_makers

_OPERATOR = "operator"
"""The base names it in policies, a component brings it."""


def check(tree: Tree) -> Iterator[str]:
    """Yield every selector that selects nothing, or not what it should."""
    for name, documents in tree.rendered.items():
        for document in documents:
            for fault in _selector_faults(documents, document):
                yield f"{name}: {label(document)}: {fault}"


def _selector_faults(documents: list[Document], document: Document) -> Iterator[str]:
    spec = document.get("spec") or {}
    match document["kind"]:
        case "Service":
            ports = _ports(_selected(documents, spec["selector"]))
            yield from (
                f"port {it['targetPort']} is of no pod"
                for it in spec["ports"]
                if it["targetPort"] not in ports
            )
        case "PodDisruptionBudget":
            if not _selected(documents, spec["selector"]["matchLabels"]):
                yield "selects no pod"
        case "PodMonitor":
            ports = _ports(_selected(documents, spec["selector"]["matchLabels"]))
            yield from (
                f"port {it['port']} is of no pod"
                for it in spec["podMetricsEndpoints"]
                if it["port"] not in ports
            )
        case "Deployment" | "StatefulSet":
            yield from _template_faults(spec)
        case "HorizontalPodAutoscaler":
            yield from _scaling_faults(documents, spec)
        case "NetworkPolicy":
            yield from _policy_faults(documents, spec)


def _template_faults(spec: Document) -> Iterator[str]:
    template = spec["template"]
    spread = template["spec"].get("topologySpreadConstraints", [])
    selectors = [spec["selector"], *(it["labelSelector"] for it in spread)]
    labels = template["metadata"]["labels"].items()
    if not all(it["matchLabels"].items() <= labels for it in selectors):
        yield "selects other pods than its own"


def _scaling_faults(documents: list[Document], spec: Document) -> Iterator[str]:
    of = "{kind}/{name}".format(**spec["scaleTargetRef"])
    found = [it for it in documents if label(it) == of]
    names = {it["name"] for of in found for it in containers(of)}
    for it in spec["metrics"]:
        container = it["containerResource"]["container"]
        if container not in names:
            yield f"{of} has no container {container}"
    if any("replicas" in it["spec"] for it in found):
        yield f"{of} has replicas: each apply would undo the scaling"


def _policy_faults(documents: list[Document], spec: Document) -> Iterator[str]:
    selector = spec["podSelector"]
    own = _selected(documents, selector.get("matchLabels", {}))
    for it in selector.get("matchExpressions", []):
        key, values = it["key"], it["values"]
        chosen = {value: _selected(own, {key: value}) for value in values}
        own = [pod for pods in chosen.values() for pod in pods]
        yield from (f"there is no {key} {of}" for of in values if not chosen[of])
    if not own:
        yield "is for no pod"
    for rule in spec.get("ingress", []):
        yield from (f"lets in to port {it}" for it in _missing(rule, own))
    for way, other in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(way, []):
            for peer in rule.get(other, []):
                if "namespaceSelector" in peer or "podSelector" not in peer:
                    continue
                labels = peer["podSelector"]["matchLabels"]
                pods = _selected(documents, labels)
                if not pods and _OPERATOR not in labels.values():
                    yield f"{other} pods {labels}: there are none"
                if way == "egress":
                    yield from (f"lets out to port {it}" for it in _missing(rule, pods))


def _missing(rule: Document, pods: list[Document]) -> list[int]:
    """Return ports of a rule that no pod of its other end has."""
    return [it["port"] for it in rule["ports"] if it["port"] not in _ports(pods)]


def _selected(documents: list[Document], labels: dict[str, str]) -> list[Document]:
    return [
        it
        for it in pod_makers(documents)
        if labels.items() <= it["spec"]["template"]["metadata"]["labels"].items()
    ]


def _ports(pods: list[Document]) -> set[object]:
    everybody = [it for pod in pods for it in containers(pod)]
    declared = [it for of in everybody for it in of.get("ports", [])]
    return {it["containerPort"] for it in declared} | {
        it.get("name") for it in declared
    }
