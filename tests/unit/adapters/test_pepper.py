"""The pepper file and the digests made with it."""

import hashlib
from pathlib import Path

import pytest

from tollhouse.adapters.pepper import Pepper, PepperError


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_digest():
    """Keyed BLAKE2b of the whole key under a version."""
    expected = (
        "v1:" + hashlib.blake2b(b"key", digest_size=32, key=b"p" * 32).hexdigest()
    )

    assert Pepper({"v1": b"p" * 32}).digest("key") == expected


def test_another_pepper():
    """Without the pepper a digest can't be made."""
    assert Pepper({"v1": b"p" * 32}).digest("key") != Pepper({"v1": b"q" * 32}).digest(
        "key"
    )


def test_read(tmp_path: Path):
    """White space around the content does not count: editors add a newline."""
    path = write(tmp_path / "pepper", b"p" * 32 + b"\n")

    assert Pepper.read(path).digest("key") == Pepper({"v1": b"p" * 32}).digest("key")


def test_all_bytes_count():
    """A pepper longer than BLAKE2b's key is not cut."""
    assert Pepper({"v1": b"p" * 64 + b"a"}).digest("k") != Pepper(
        {"v1": b"p" * 64 + b"b"}
    ).digest("k")


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o660])
def test_modes(tmp_path: Path, mode: int):
    """Owner and group may hold it: a mounted secret belongs to a group."""
    Pepper.read(write(tmp_path / "pepper", b"p" * 32, mode))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_open_modes(tmp_path: Path, mode: int):
    """What everybody can read or write is no secret; the remedy is named."""
    path = write(tmp_path / "pepper", b"p" * 32, mode)
    with pytest.raises(PepperError, match=f"chmod o= {path}"):
        Pepper.read(path)


def test_short(tmp_path: Path):
    """31 bytes are refused, and not repeated."""
    with pytest.raises(PepperError, match="31 bytes, needs 32") as raised:
        Pepper.read(write(tmp_path / "pepper", b"p" * 31 + b"\n"))
    assert "ppp" not in str(raised.value).replace("pepper", "")


def test_missing(tmp_path: Path):
    """The file is named."""
    with pytest.raises(PepperError, match="nothing: No such file"):
        Pepper.read(tmp_path / "nothing")


def test_folder(tmp_path: Path):
    """A folder, as a wrong volume mount makes one, is named too."""
    tmp_path.chmod(0o700)
    with pytest.raises(PepperError, match="directory"):
        Pepper.read(tmp_path)


def test_several(tmp_path: Path):
    """The first line makes digests; a key may be kept under any."""
    path = write(tmp_path / "pepper", b"v2:" + b"q" * 32 + b"\nv1:" + b"p" * 32 + b"\n")
    pepper = Pepper.read(path)
    old, new = Pepper({"v1": b"p" * 32}), Pepper({"v2": b"q" * 32})

    assert pepper.versions == ("v2", "v1")
    assert pepper.digest("key") == new.digest("key")
    assert pepper.digests("key") == (new.digest("key"), old.digest("key"))


@pytest.mark.parametrize("versions", [(1, 2), (2, 1), (2, 1, 3), (3, 1, 2), (9, 4, 2)])
def test_orders(tmp_path: Path, versions: tuple[int, ...]):
    """The current one first, the next one last."""
    lines = [b"v%d:" % version + b"p" * 32 for version in versions]
    pepper = Pepper.read(write(tmp_path / "pepper", b"\n".join(lines)))

    assert pepper.versions == tuple(f"v{version}" for version in versions)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"\n".join(b"v%d:" % n + b"p" * 32 for n in (1, 2, 3)),
            "line 2: v2 is newer than v1 in line 1; only the last line may be",
        ),
        (b"", "it is empty"),
        (b"v1:" + b"p" * 32 + b"\n" + b"q" * 32, "line 2: name its version, as v1:"),
        (b"v1:" + b"p" * 32 + b"\nv1:" + b"q" * 32, "line 2: v1 is given twice"),
        (b"v1: " + b"p" * 32, "line 1: write v2:<secret>, without spaces"),
        (b"v2:" + b"p" * 31, "pepper v2 has 31 bytes, needs 32"),
        (b"\n".join(b"v%d:" % n + b"p" * 32 for n in range(1, 6)), "at most 4"),
    ],
)
def test_lines(tmp_path: Path, content: bytes, reason: str):
    """A file that could be read in two ways is refused, and no secret repeated."""
    path = write(tmp_path / "pepper", content)
    with pytest.raises(PepperError, match=reason) as raised:
        Pepper.read(path)
    said = str(raised.value).replace(str(path), "").replace("pepper", "")
    assert "pp" not in said
    assert "qq" not in said
