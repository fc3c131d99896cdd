"""Rendered manifests by themselves: their schemas, and Pod Security "restricted"."""

from collections.abc import Iterator

import kubernetes_validate

from deploy.check.tree import Document, Tree, containers, label

KUBERNETES = "1.33"
"""The oldest we say we run on: native sidecars are there for good."""
_OURS = {"", "apps", "autoscaling", "batch", "policy"}
"""Kubernetes' own API groups, beside those of k8s.io."""
_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
_SECCOMP = {"RuntimeDefault", "Localhost"}


def render(tree: Tree) -> Iterator[str]:
    """Yield what does not render, or renders to nothing."""
    for name, documents in tree.rendered.items():
        if not documents:
            yield f"deploy/{name}: renders to nothing"


def schemas(tree: Tree) -> Iterator[str]:
    """Yield what Kubernetes' own schemas refuse, unknown fields among it."""
    for name, documents in tree.rendered.items():
        for document in documents:
            group = document["apiVersion"].rpartition("/")[0]
            if group not in _OURS and not group.endswith(".k8s.io"):
                continue  # a custom resource: its schema is not ours to have
            try:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: {label(document)}: {error.message[:200]}"


def restricted(tree: Tree) -> Iterator[str]:
    """Yield where a pod is not what the Pod Security Standard "restricted" asks for.

    And what we ask beside it: a read-only root, a memory limit, an image by tag or
    digest. The standard is in Kubernetes' documentation; Windows and sysctls are left
    out.
    """
    for where, _, document in tree.pods():
        for fault in _pod_faults(document):
            yield f"{where}: {fault}"


def _pod_faults(document: Document) -> Iterator[str]:
    spec = document["spec"]["template"]["spec"]
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    if spec.get("automountServiceAccountToken") is not False:
        yield "gets a token of the Kubernetes API"
    for volume in spec.get("volumes", []):
        for kind in set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']}: is a {kind}"
    for container in containers(document):
        for fault in (*_context_faults(spec, container), *_other_faults(container)):
            yield f"{container['name']}: {fault}"


def _context_faults(spec: Document, container: Document) -> Iterator[str]:
    context = spec.get("securityContext", {}) | container.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    if context.get("privileged"):
        yield "is privileged"
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "may run as root"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("seccompProfile", {}).get("type") not in _SECCOMP:
        yield "has no seccomp profile"
    if "ALL" not in capabilities.get("drop", []) or capabilities.get("add"):
        yield "keeps capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"


def _other_faults(container: Document) -> Iterator[str]:
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "has a port of the node"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "has no memory limit"
    image = container["image"]
    # `tollhouse` is the base's placeholder: an overlay says where the image is.
    tagged = "@" in image or ":" in image.rsplit("/", 1)[-1]
    if image.endswith(":latest") or not (tagged or image == "tollhouse"):
        yield f"image {image} may be another tomorrow"
