"""`tollhouse envoy render`: what an init container writes before Envoy starts."""

import json

import pytest

from tollhouse.cli.__main__ import main as tollhouse
from tollhouse.cli.places import repository_root

BASE = repository_root() / "deploy" / "base"


@pytest.fixture
def render(tmp_path):
    def run(*options: str) -> int:
        return tollhouse(
            [
                *("envoy", "render", f"--config={BASE / 'tollhouse.yaml'}"),
                *(f"--add={BASE / it}" for it in ("backends.yaml", "pod.yaml")),
                f"--out={tmp_path / 'envoy.json'}",
                f"--proof-file={tmp_path / 'proof'}",
                f"--ledger={tmp_path / 'ledger.jsonl'}",
                *("--listen=0.0.0.0:8443", f"--admin=unix:{tmp_path}/admin.sock"),
                *options,
            ]
        )

    return run


def test_the_proof_is_kept_and_the_rest_written_anew(render, tmp_path):
    """Containers that start again find the proof that the others hold."""
    proof = "a" * 64
    (tmp_path / "proof").write_text(f"{proof}\n")

    assert 0 == render("--domain=llm.example.test")

    text = (tmp_path / "envoy.json").read_text()
    resources = json.loads(text)["static_resources"]
    [edge, *others] = resources["listeners"]
    manager = edge["filter_chains"][0]["filters"][0]["typed_config"]
    [host] = manager["route_config"]["virtual_hosts"]
    names = [it["name"] for it in resources["clusters"]]
    assert proof in text
    assert (tmp_path / "proof").read_text().strip() == proof
    assert ["probe", "stats"] == [it["name"] for it in others]
    assert {"llama-3.1-8b", "envoy_admin"} <= set(names)
    assert ["localhost", "127.0.0.1", "[::1]", "llm.example.test"] == host["domains"]


@pytest.mark.parametrize("proof", ["", "short", "with spaces " * 4])
def test_a_proof_that_is_none_is_refused(render, tmp_path, capsys, proof):
    """Routes would open to whoever says it: nothing, or what is soon found."""
    (tmp_path / "proof").write_text(f"{proof}\n")

    assert 2 == render("--domain=llm.example.test")
    assert "must hold 32 to 256 of" in capsys.readouterr().err
    assert not (tmp_path / "envoy.json").exists()


@pytest.mark.parametrize(
    ("collector", "percent"),
    [([], 0.0), (["--cluster=collector=collector.test:4317"], 25.0)],
)
def test_spans_leave_where_there_is_a_collector(render, tmp_path, collector, percent):
    """As many as tollhouse.yaml says."""
    config = tmp_path / "tollhouse.yaml"
    text = (BASE / "tollhouse.yaml").read_text()
    config.write_text(f"{text}\ntelemetry: {{sample_ratio: 0.25}}\n")

    assert 0 == render(f"--config={config}", *collector)

    tree = json.loads((tmp_path / "envoy.json").read_text())
    edge = tree["static_resources"]["listeners"][0]
    manager = edge["filter_chains"][0]["filters"][0]["typed_config"]
    sampling = manager["tracing"]["random_sampling"]
    assert percent == sampling.get("value", 0.0)


def test_what_check_config_refuses_is_not_written(render, tmp_path, capsys):
    (tmp_path / "tollhouse.yaml").write_text(
        (BASE / "tollhouse.yaml")
        .read_text()
        .replace("cluster: llama", "cluster: other")
    )

    assert 2 == render(f"--config={tmp_path / 'tollhouse.yaml'}")

    assert not (tmp_path / "envoy.json").exists()
    assert "goes to cluster `other-3.1-8b`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-cert=edge.pem"], "--tls-cert and --tls-key go together"),
        (["--add=nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--cluster=none=127.0.0.1:1"], "has no cluster `none`"),
    ],
)
def test_options_that_do_not_fit_are_said(render, capsys, options, said):
    assert 2 == render(*options)
    assert said in capsys.readouterr().err
