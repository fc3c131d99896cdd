"""Tokens of the admin API: who they name, and files that open nothing."""

from pathlib import Path

import pytest

from tollhouse.admin.tokens import Caller, Tokens, TokensError

ONE, TWO = "1" * 32, "2" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o640)
    return path


def test_callers(file: Path):
    """By name and role; a name may have two, and comments are none."""
    file.write_text(f"\n# all of us\nci:{ONE}\n  board:{TWO}:read \nci:{'3' * 40}\n")
    tokens = Tokens(file)

    assert tokens.caller([f"Bearer {ONE}"]) == Caller("ci", reads_only=False)
    assert tokens.caller([f"Bearer {'3' * 40}"]) == Caller("ci", reads_only=False)
    board = tokens.caller([f"Bearer {TWO}"])
    assert board == Caller("board", reads_only=True)
    assert board.who == "api:board"
    for shown in ([], [f"Bearer {'4' * 40}"], [ONE], [f"Bearer {ONE}"] * 2):
        assert tokens.caller(shown) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no token in it"),
        ("# nothing\n", "there is no token in it"),
        (f"ci:{ONE}\nci\n", "line 2: write name:token"),
        (f"Ci:{ONE}\n", "line 1: write name:token"),
        (f"ci:{ONE}:write\n", "line 1: write name:token"),
        (f"ci:{ONE} {TWO}\n", "line 1: write name:token"),
        ("ci:short\n", "line 1: the token has 5 characters, needs 32"),
        (f"ci:{ONE}\nboard:{ONE}:read\n", "line 2: the token is given twice"),
        (
            "".join(f"ci:{number:032}\n" for number in range(1001)),
            "1001 tokens, at most 1000",
        ),
    ],
)
def test_no_tokens(file: Path, text: str, reason: str):
    """Each fault with its line, without the token."""
    file.write_text(text)
    with pytest.raises(TokensError, match=reason) as refused:
        Tokens(file)

    assert ONE not in str(refused.value)


def test_open_to_everybody(file: Path):
    """Tokens that all can read are none."""
    file.write_text(f"ci:{ONE}\n")
    file.chmod(0o644)
    with pytest.raises(TokensError, match="everybody on this machine"):
        Tokens(file)


def test_closed_while_it_runs(file: Path):
    """A file that becomes open, broken or missing opens nothing until it is mended."""
    file.write_text(f"ci:{ONE}\n")
    tokens, shown = Tokens(file), [f"Bearer {ONE}"]
    for spoil in (lambda: file.chmod(0o644), file.unlink):
        spoil()
        assert tokens.caller(shown) is None
        file.touch()
        file.chmod(0o600)
        file.write_text(f"ci:{ONE}\n# {spoil}\n")
        assert tokens.caller(shown) is not None
