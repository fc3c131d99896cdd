"""--backend takes what can be reached, and says why it can't take the rest."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from tollhouse.adapters.address import Address
from tollhouse.adapters.configuration import Configuration, load
from tollhouse.cli.backend import Backend, follow, for_backend, to_yaml
from tollhouse.cli.bootstrap import Edge, read_bootstrap, render_bootstrap
from tollhouse.cli.envoy_credential import credential_text, findings
from tollhouse.cli.places import default_envoy, repository_root
from tollhouse.cli.unusable import UnusableError


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


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        ("sk-1 sk-2", 0o600, "more or less than one key"),
        ("", 0o600, "more or less than one key"),
        ("schlüssel", 0o600, "can't read a key"),
        ("sk-1", 0o644, "everybody on this machine"),
        (None, 0o600, "can't read a key"),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path, content, mode, why):
    """Before a backend is asked with it; the text of the file is not repeated."""
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)

    with pytest.raises(UnusableError, match=why) as caught:
        Backend.parse("http://gpu").with_key(path)
    assert "sk-1" not in str(caught.value)


def test_a_key_is_named_and_never_written_down(tmp_path):
    """Envoy's configuration leads to the file, of this cluster only."""
    path, leads = tmp_path / "key", tmp_path / "backend.json"
    path.write_text("sk-of-ours\n")
    path.chmod(0o600)
    backend = Backend.parse("http://127.0.0.1:1").with_key(path)
    assert backend.key_file == path

    text = credential_text(path)
    assert "sk-of-ours" not in text
    assert str(path) in text
    leads.write_text(text)
    cluster = {
        it["name"]: it
        for it in json.loads(
            render_bootstrap(default_envoy(), edge(credentials={"tiny-chat": leads}))
        )["static_resources"]["clusters"]
    }
    assert str(leads) in str(cluster["tiny-chat"])
    assert str(leads) not in str(cluster["authz"])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda key, _: key.unlink(), "can't read"),
        (lambda key, _: key.chmod(0o644), "everybody on this machine can use it"),
        (lambda _, leads: leads.unlink(), "can't read"),
        (lambda *_: None, None),
    ],
)
def test_check_config_reads_the_files_of_a_key(tmp_path, harm, said):
    """Both that Envoy reads: it would start without, and send no key."""
    key, leads = tmp_path / "key", tmp_path / "backend.json"
    key.write_text("sk-of-ours")
    key.chmod(0o600)
    leads.write_text(credential_text(key))
    changed = tmp_path / "envoy.yaml"
    changed.write_text(
        render_bootstrap(default_envoy(), edge(credentials={"tiny-chat": leads}))
    )
    harm(key, leads)

    found = [it for it in findings(read_bootstrap(changed)) if "tiny-chat" in it]
    assert bool(found) == (said is not None)
    assert all(said in it for it in found)


def edge(**about):
    return Edge(
        listen=Address(host="127.0.0.1", port=1),
        admin=Address(host="127.0.0.1", port=2),
        clusters={"tiny-chat": [Address(host="127.0.0.1", port=3)]},
        proof="p",
        ledger=Path("/l/ledger.jsonl"),
        meter=Path("/m/meter.lua"),
        **about,
    )


@pytest.mark.asyncio
async def test_the_copy_follows_its_source(tmp_path):
    """Faults as well: whoever reads the copy says what is wrong."""
    source, path = tmp_path / "mine.yaml", tmp_path / "run.yaml"
    text = (repository_root() / "tollhouse.yaml").read_text()
    source.write_text(text)
    path.write_text("")
    following = asyncio.create_task(follow(source, path, interval_seconds=0.02))

    async def until(has_come):
        async with asyncio.timeout(30):
            while not has_come(path.read_text()):  # noqa: ASYNC110  # a file
                await asyncio.sleep(0.01)

    await until(len)
    first = load(path)
    assert first == for_backend(load(source))
    source.write_text(text.replace("plans:", "plans:\n  another: {}", 1))
    await until(lambda it: "another" in it)
    assert load(path) == for_backend(load(source))
    source.write_text("models: 7\n")
    await until(lambda it: it == "models: 7\n")
    source.write_text(text)
    await until(lambda it: "another" not in it and "7" != it.strip()[-1:])
    assert load(path) == first
    following.cancel()
    await asyncio.wait({following})
