"""--backend takes what can be reached, and says why it can't take the rest."""

import pytest
import yaml

from tollhouse.adapters.address import Address
from tollhouse.adapters.configuration import Configuration, load
from tollhouse.cli.backend import Backend, for_backend, to_yaml
from tollhouse.cli.places import repository_root


@pytest.mark.parametrize(
    ("url", "address", "host"),
    [
        (
            "http://127.0.0.1:8080",
            Address(host="127.0.0.1", port=8080),
            "127.0.0.1:8080",
        ),
        ("http://gpu", Address(host="gpu", port=80), "gpu"),
        ("http://gpu:1/v1/", Address(host="gpu", port=1), "gpu:1"),
        ("http://[::1]:8000", Address(host="::1", port=8000), "[::1]:8000"),
    ],
)
def test_a_server_is_found_by_its_url(url, address, host):
    """With or without port and /v1."""
    backend = Backend.parse(url)

    assert address == backend.address
    assert host == backend.host
    assert backend.trusted_ca is None


def test_https_needs_someone_who_vouches():
    """The system's certificates."""
    backend = Backend.parse("https://llm.example.test")

    assert Address(host="llm.example.test", port=443) == backend.address
    assert backend.trusted_ca is not None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:8080", "is not http://HOST:PORT"),
        ("ftp://host", "is not http://HOST:PORT"),
        ("http://host/openai/v1", "under /v1"),
        ("http://user:secret@host", "only scheme, host and port"),
        ("http://host:99999", "ort"),
    ],
)
def test_what_can_not_be_reached_is_refused(url, why):
    """At the command line, not at the first request."""
    with pytest.raises(ValueError, match=why):
        Backend.parse(url)


def test_all_models_go_to_the_one_backend(tmp_path):
    """The written file is a valid tollhouse.yaml that says so."""
    changed = for_backend(load(repository_root() / "tollhouse.yaml"))
    path = tmp_path / "tollhouse.yaml"
    path.write_text(to_yaml(changed))

    assert changed == load(path)
    assert {"openai"} == {str(it.provider) for it in changed.models.values()}
    assert isinstance(changed, Configuration)
    assert yaml.safe_load(path.read_text())["models"]["tiny-chat"]["context"] > 0
