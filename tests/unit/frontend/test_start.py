"""Starting the frontend: sockets, files, and one clear line for each fault."""

import json
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tollhouse.adapters.http_server import listening
from tollhouse.adapters.process import StartError
from tollhouse.cli.engine import release_dir
from tollhouse.frontend.config import load_models
from tollhouse.frontend.release import Release


def test_a_socket_file_is_ours_alone_and_goes(tmp_path: Path):
    """Nobody outside user and group may connect; nothing is left behind."""
    path = tmp_path / "s"
    with listening(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path):
    """What a killed process left is no reason to fail."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening(f"unix:{path}") as listener:
        listener.listen()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))


def test_a_served_socket_is_left_alone(tmp_path: Path):
    """A second frontend must not take the first one's place."""
    listen = f"unix:{tmp_path / 's'}"
    with listening(listen) as listener:
        listener.listen()
        with pytest.raises(StartError, match="another process"), listening(listen):
            pass
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(tmp_path / "s"))


def test_addresses_that_can_not_be_had(tmp_path: Path, free_port: Callable[[], int]):
    """Each with its reason."""
    (tmp_path / "file").touch()
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        for listen in (
            f"unix:{tmp_path / 'file'}",
            f"unix:{tmp_path / 'nowhere' / 's'}",
            f"unix:{tmp_path / ('x' * 120)}",
            f"127.0.0.1:{taken}",
            "127.0.0.1:99999",
            "nonsense",
        ):
            with pytest.raises(StartError, match="can't listen on"), listening(listen):
                pass
    assert (tmp_path / "file").exists()


def test_a_models_file(tmp_path: Path):
    """A relative release directory starts beside the file."""
    file = tmp_path / "models.yaml"
    section = {
        "triton_model": "t",
        "contract": "ensemble",
        "release_dir": "r",
        "context": 9,
    }
    file.write_text(json.dumps({"models": {"m": section}}))

    assert load_models(file)["m"].release_dir == tmp_path / "r"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "valid dictionary"),
        ("models: {}", "models"),
        ("models: {m: {}}", "models.m.triton_model"),
        ("models: {m: {contract: other}}", "models.m.contract"),
        ("models: {m: {tool_parser: other}}", "models.m.tool_parser"),
        ("models: {m: {contxt: 3}}", "models.m.contxt"),
        ("models: [", "can't be read"),
        ("\x00", "can't be read"),
    ],
)
def test_faults_of_a_models_file_are_named(tmp_path: Path, content: str, named: str):
    """Path in the file first, then what is wrong."""
    file = tmp_path / "models.yaml"
    file.write_text(content)
    with pytest.raises(StartError, match=named) as caught:
        load_models(file)

    assert all(line.startswith(str(file)) for line in str(caught.value).splitlines())


def test_a_missing_models_file(tmp_path: Path):
    """One line as well."""
    with pytest.raises(StartError, match="can't be read"):
        load_models(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", "{% if %}"),
        ("generation_config.json", "{"),
        ("generation_config.json", "[]"),
    ],
)
def test_a_broken_release_is_named(tmp_path: Path, name: str, content: str):
    """The file that is at fault."""
    for file in release_dir().iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    (tmp_path / name).write_text(content)
    with pytest.raises(StartError, match=name):
        Release.open(tmp_path)


def test_tokens_for_the_template(tmp_path: Path):
    """tokenizer_config.json, in both of its forms; end ids may be a list."""
    tokenizer = (release_dir() / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(tokenizer)
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ eos_token }}")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    )
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [7, 8], "temperature": 0.6, "top_k": "many"})
    )
    release = Release.open(tmp_path)

    assert release.chat_template is not None
    assert release.chat_template.render([]) == "<s></s>"
    assert release.end_id == 7
    assert release.defaults == {"temperature": 0.6}
