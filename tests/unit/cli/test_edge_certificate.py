"""`up --tls-cert FILE --tls-key FILE`: what is refused, and what Envoy is told."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.certificates import Authority, Pair
from tollhouse.cli import up
from tollhouse.cli.bootstrap import read_bootstrap
from tollhouse.cli.edge_certificate import EdgeCertificate
from tollhouse.cli.envoy_tls import Tls, downstream_socket, secret_text, upstream_socket
from tollhouse.cli.envoy_types import to_json_message
from tollhouse.cli.places import default_envoy
from tollhouse.cli.unusable import UnusableError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    names = ("*.example.test", "llm.example.test", "::1", "10.0.0.1")
    return authority.issue(*names, into="pair")


@pytest.fixture
def here(authority: Authority, pair: Pair, monkeypatch, tmp_path) -> None:
    """Another pair and an open key, named from where we are."""
    authority.issue("other.test", into="other")
    (tmp_path / "open.key").write_bytes(pair.key.read_bytes())
    monkeypatch.chdir(tmp_path)


def read(pair: Pair) -> EdgeCertificate:
    return EdgeCertificate.read(pair.certificate, pair.key)


def test_its_names_are_what_clients_may_call_us(pair):
    """The listener's if it is among them; no wildcard is an address."""
    certificate = read(pair)
    assert certificate.domains == [
        *("*.example.test", "llm.example.test", "[::1]", "10.0.0.1"),
    ]
    assert certificate.host("10.0.0.1") == "10.0.0.1"
    assert certificate.host("127.0.0.1") == "llm.example.test"
    assert certificate.warning is None


def test_one_without_names_leaves_the_listeners(authority):
    assert read(authority.issue(into="nameless")).host("localhost") == "localhost"


def test_an_ended_one_is_served_with_a_warning(authority):
    """Replacing it needs no restart; refusing to start would not help anybody."""
    warning = read(authority.issue("a.test", days=-1)).warning
    assert warning is not None
    assert "tls.crt ended on 20" in warning


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("none", "none", ["--tls-cert: can't read none", "--tls-key: can't read none"]),
        ("pair/tls.key", None, ["--tls-cert: pair/tls.key holds no certificate"]),
        (None, "pair/tls.crt", ["--tls-key: pair/tls.crt: everybody"]),
        (None, "other/tls.key", ["--tls-key: other/tls.key is not the key of"]),
        (None, "open.key", ["--tls-key: open.key: everybody on this machine"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_files_that_can_not_be_served(cert, key, said):
    """Each fault once, with the option, the path and what to do."""
    with pytest.raises(UnusableError) as raised:
        EdgeCertificate.read(Path(cert or "pair/tls.crt"), Path(key or "pair/tls.key"))
    lines = str(raised.value).splitlines()
    assert len(lines) == len(said)
    assert all(map(str.startswith, lines, said))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (["--tls-key", "x"], "--tls-cert and --tls-key go together"),
        (["--backend-ca", "x"], "--backend-ca needs --backend https://"),
        (["--backend", "http://gpu", "--backend-ca", "x"], "needs --backend https://"),
        (["--backend", "https://gpu", "--backend-ca", "x"], "--backend-ca: can't read"),
    ],
)
def test_options_that_do_not_fit_together(options, said, capsys, tmp_path):
    parser = argparse.ArgumentParser()
    up.add_parser(parser.add_subparsers())
    state = ("--state-dir", str(tmp_path / "state"))
    args = parser.parse_args(["up", *state, *options])
    assert args.run(args) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_envoy_follows_the_folder_or_else_the_files(pair, authority, tmp_path):
    """One folder is watched as a whole: a secret's files change in one step."""

    def watched(certificate: EdgeCertificate) -> Any:
        (secret,) = json.loads(secret_text(certificate))["resources"]
        return secret["tls_certificate"].get("watched_directory")

    assert watched(read(pair)) == {"path": str(pair.key.parent)}
    elsewhere = tmp_path / "elsewhere.key"
    elsewhere.write_bytes(pair.key.read_bytes())
    elsewhere.chmod(0o600)
    assert watched(EdgeCertificate.read(pair.certificate, elsewhere)) is None


def test_links_stay_links(pair, tmp_path):
    """What they point to is what changes."""
    for file in (pair.certificate, pair.key):
        (tmp_path / file.name).symlink_to(file)
    certificate = EdgeCertificate.read(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert certificate.chain == tmp_path / "tls.crt"


def test_a_backend_without_a_name_is_known_by_its_address():
    def context(name: str) -> Any:
        socket = upstream_socket(Tls(name, Path("/ca.pem")))
        return to_json_message(socket)["typed_config"]

    named, numbered = context("gpu.test"), context("10.0.0.7")
    assert (named["sni"], named["auto_sni_san_validation"]) == ("gpu.test", True)
    assert "sni" not in numbered
    (matcher,) = numbered["common_tls_context"]["validation_context"][
        "match_typed_subject_alt_names"
    ]
    assert matcher == {"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.7"}}


def test_our_own_reader_knows_the_recipes_for_clients(tmp_path):
    """`check-config` takes an envoy.yaml with TLS."""
    tree = yaml.safe_load(default_envoy().read_text())
    socket = to_json_message(downstream_socket(Path("/sds/edge.json")))
    (chain,) = tree["static_resources"]["listeners"][0]["filter_chains"]
    chain["transport_socket"] = socket
    changed = tmp_path / "envoy.yaml"
    changed.write_text(yaml.safe_dump(tree))
    found = to_json_message(read_bootstrap(changed))
    (chain,) = found["static_resources"]["listeners"][0]["filter_chains"]
    assert chain["transport_socket"] == socket
