"""`tollhouse keys import` and `digest`: keys that are kept in files."""

import contextlib
import io
import json
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.imports import NotImportedError
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.new_keys import draw_key
from tollhouse.core.identity import is_key
from tollhouse.core.key_terms import read_document


@pytest.fixture
def pepper(state: Path) -> Pepper:
    return Pepper.read(state / "pepper")


@pytest.fixture
def make(pepper: Pepper, keyring: Keyring):
    """A key and its document, of a tenant that is there."""
    keyring.create_tenant("acme", "demo")

    def make(**fields: object) -> tuple[str, dict]:
        key = draw_key()[1]
        key_id = key.split("_")[1]
        document = {"key_id": key_id, "digest": pepper.digest(key), "tenant": "acme"}
        return key, {**document, **fields}

    return make


@pytest.fixture
def file(tmp_path: Path):
    """A file of documents, in one form or another."""

    def write(*documents: dict, text: str | None = None) -> str:
        path = tmp_path / "keys.yaml"
        path.write_text(
            yaml.safe_dump({"keys": [*documents]}) if text is None else text
        )
        return str(path)

    return write


def test_story(tollhouse, keyring: Keyring, make, file):
    """Imported keys open, follow their file, and end when they are taken out."""
    first, one = make(scopes=["chat:write=tiny-*"], labels=["ci"], plan="gold")
    second, two = make(expires_at="2031-01-31", networks=["203.0.113.0/24"])
    status, out, err = tollhouse("keys", "import", file(one, two), "--source", "git")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"created  {one['key_id']}",
        f"created  {two['key_id']}",
        "source git: 2 created",
    ]
    found = keyring.find(first)
    assert found is not None
    assert (found.scopes, found.labels, found.plan, found.source) == (
        *("chat:write=tiny-*", ("ci",), "gold", "git"),
    )
    bound = keyring.find(second)
    assert bound is not None
    assert (bound.networks, bound.expires_at) == ("203.0.113.0/24", 1_927_584_000.0)
    entries, _ = keyring.log.latest(100)

    _, out, _ = tollhouse("keys", "import", file(one, two), "--source", "git")
    assert out == "source git: 2 unchanged\n"
    assert keyring.log.latest(100)[0] == entries  # nothing was written

    one["scopes"] = ["models:read"]
    arguments = ("keys", "import", file(one), "--source", "git", "--prune")
    _, out, _ = tollhouse(*arguments, "--check", "--json")
    assert json.loads(out) == {
        "created": [],
        "changed": [one["key_id"]],
        "revoked": [two["key_id"]],
        "ended": [],
        "unchanged": [],
        "check": True,
    }
    assert keyring.log.latest(100)[0] == entries

    tollhouse(*arguments)
    tollhouse(*arguments)  # ends none of them again
    assert keyring.key(one["key_id"]).scopes == "models:read"
    assert keyring.key(two["key_id"]).revoked_at is not None
    status, _, err = tollhouse("keys", "import", file(one, two), "--source", "git")
    assert status == 0
    assert err == f"warning: key {two['key_id']} is over and stays so\n"
    assert keyring.key(two["key_id"]).revoked_at is not None
    actions = [it.action for it in reversed(keyring.log.latest(100)[0])]
    assert actions == [
        *("tenant.created", "key.imported", "key.imported"),
        *("key.changed", "key.revoked"),
    ]


def test_many(tollhouse, keyring: Keyring, make, file):
    """More than one transaction holds; each key is taken once."""
    documents = [make()[1] for _ in range(450)]
    path = file(text="\n".join(map(json.dumps, documents)))
    assert tollhouse("keys", "import", path)[1].endswith(": 450 created\n")
    assert tollhouse("keys", "import", path)[1] == "source import: 450 unchanged\n"
    path = file(text=json.dumps(documents[:10]))
    _, out, _ = tollhouse("keys", "import", path, "--prune")

    assert out.endswith("source import: 440 revoked, 10 unchanged\n")
    assert len(keyring.keys(state="active")) == 10
    assert len(keyring.log.latest(10_000)[0]) == 1 + 450 + 440


def test_changed_half_way(keyring: Keyring, make, redis_url: str):
    """What another changes between check and writing is seen, and not overwritten."""
    documents = [document for _, document in (make() for _ in range(250))]
    last = read_document(documents[-1])

    class Meddled(Keyring):
        steps = 0

        def _change(self, steps):
            self.steps += 1
            if self.steps == 2:  # the first 200 are written
                keyring.import_keys([last], source="other")
            return super()._change(steps)

    ring = Meddled(redis_url, None)
    with pytest.raises(NotImportedError, match="comes from source other") as refused:
        ring.import_keys([read_document(it) for it in documents], source="git")
    ring.close()

    assert [at for at, _ in refused.value.faults] == [249]
    assert len(keyring.keys()) == 201


def test_prunes_its_own_only(tollhouse, keyring: Keyring, make, file):
    """A source ends no key of another source, nor one that was made by hand."""
    _, one = make()
    _, two = make()
    _, by_hand = keyring.create_key("acme")
    tollhouse("keys", "import", file(one), "--source", "a")
    tollhouse("keys", "import", file(two), "--source", "b")

    _, three = make()
    arguments = ("keys", "import", file(three), "--source", "b", "--prune")
    _, out, _ = tollhouse(*arguments, "--json")
    assert json.loads(out)["revoked"] == [two["key_id"]]
    assert keyring.key(one["key_id"]).revoked_at is None
    assert keyring.key(by_hand.key_id).revoked_at is None
    _, err = tollhouse("keys", "import", file(one), "--source", "b")[1:]
    assert "key_id: it comes from source a" in err


def test_an_empty_file_ends_nothing(tollhouse, keyring: Keyring, make, file):
    """What comes out of a pipe that failed is no wish to end every key."""
    _, one = make()
    tollhouse("keys", "import", file(one), "--source", "a")
    status, _, err = tollhouse(
        "keys", "import", file(text=""), "--source", "a", "--prune"
    )

    assert status == 2
    assert "would end every key" in err
    assert keyring.key(one["key_id"]).revoked_at is None


def test_over_is_over(tollhouse, keyring: Keyring, make, file):
    """A file revives no key that expired, nor one whose successor was made for it."""
    key, document = make()
    now = keyring.import_keys(
        [read_document(document | {"expires_at": "2020-01-01"})], source="a"
    )
    assert now.created == [document["key_id"]]
    leaked, record = keyring.create_key("acme")
    keyring.rotate(record.key_id, grace_seconds=0)
    found = keyring.find(leaked)
    assert found is not None
    by_hand = document | {
        "key_id": record.key_id,
        "digest": Pepper({"v1": b"5a" * 32}).digest(leaked),
    }
    tollhouse("keys", "import", file(document, by_hand), "--source", "a")

    states = {it.state(time.time()) for it in map(keyring.find, (key, leaked)) if it}
    assert states == {"expired"}


@pytest.mark.parametrize("form", ["yaml list", "yaml documents", "json", "lines"])
def test_forms(tollhouse, keyring: Keyring, make, monkeypatch, form: str):
    """Every form says the same, also through standard input."""
    keys, documents = zip(*(make(labels=["x"]) for _ in range(3)), strict=True)
    text = {
        "yaml list": yaml.safe_dump(list(documents)),
        "yaml documents": yaml.safe_dump_all(documents),
        "json": json.dumps({"keys": documents}, indent=1),
        "lines": "\n\n".join(map(json.dumps, documents)) + "\n",
    }[form]
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    assert tollhouse("keys", "import", "-")[0] == 0
    assert all(keyring.find(key) for key in keys)


def test_all_faults_at_once(tollhouse, keyring: Keyring, make, file):
    """Each with its place; and nothing of the file is taken."""
    good, fine = make()
    _, unknown = make(tenant="nobody", scope="x")
    _, wrong = make(scopes=["chat:wrte"], networks=["10.0.0.1/8"], labels="a\x07")
    subject = {"key_id": "jwtabcdefghi"}
    path = file(fine, {**unknown, "digest": "v9:12"}, wrong, {"key_id": 7}, subject)
    status, out, err = tollhouse("keys", "import", path)

    assert (status, out) == (2, "")
    assert keyring.find(good) is None
    for place, fault in (
        ("line 5", "scope: unknown field; known: key_id, digest"),
        ("line 5", "digest: a digest is v1:<64"),
        ("line 9", "scopes: unknown scope 'chat:wrte'"),
        ("line 9", "networks: network '10.0.0.1/8' has bits behind its prefix"),
        ("line 9", "labels: label: 1 to 64 printable characters"),
        ("key_id: must be text", ""),
        ("key_id: ids that begin with jwt are those of tokens' subjects", ""),
        ("digest: is not given", ""),
    ):
        assert any(
            place in line and fault in line and line.startswith(f"error: {path} ")
            for line in err.splitlines()
        ), (place, fault, err)


def test_faults_against_the_keyring(tollhouse, keyring: Keyring, make, file):
    """What only Redis can tell is told whole too."""
    held, taken = make()
    tollhouse("keys", "import", file(taken))
    keyring.create_tenant("gone", "demo")
    keyring.delete_tenant("gone")
    keyring.create_tenant("beta", "demo")
    _, nobody = make(tenant="nobody")
    _, deleted = make(tenant="gone")
    _, other = make()
    thief = {**other, "digest": taken["digest"]}
    _, changed = make(key_id=taken["key_id"])
    _, peppered = make(digest=f"v7:{'0' * 64}")
    path = file(nobody, deleted, thief, changed, peppered)
    status, _, err = tollhouse("keys", "import", path)

    assert status == 2
    assert [line.partition(": ")[2] for line in err.splitlines()] == [
        f"{path} line 2: tenant: there is no nobody",
        f"{path} line 5: tenant: gone was deleted",
        f"{path} line 8: digest: key {taken['key_id']} has it",
        f"{path} line 11: digest: another one is stored; a new key has a new key id",
        f"{path} line 14: digest: pepper v7 is not in the pepper file",
    ]
    moved = file({**taken, "tenant": "beta"})
    assert "it is a key of tenant acme" in tollhouse("keys", "import", moved)[2]
    twice = file(taken, taken)
    assert "is given twice" in tollhouse("keys", "import", twice)[2]
    assert keyring.find(held) is not None


@pytest.mark.parametrize(
    "place", ["key_id", "digest", "labels", "tenant", "note", "a name", "nested"]
)
@pytest.mark.parametrize("part", ["whole", "secret"])
def test_whole_keys_are_refused(tollhouse, make, file, place: str, part: str):
    """A key in a file is said to be one, wherever it is, and never shown."""
    key, document = make()
    secret = key if part == "whole" else key.rpartition("_")[2]
    if place == "a name":
        document[secret] = "x"
    elif place == "nested":
        document["note"] = {"of": [secret]}
    else:
        document[place] = [f"my {secret}"] if place == "labels" else secret
    status, out, err = tollhouse("keys", "import", file(document))

    assert (status, out) == (2, "")
    assert "looks like a whole key" in err
    assert key.rpartition("_")[2] not in err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: b: c", "line 1: is not YAML"),
        ("tenant: a\ntenant: b", "line 2: is not YAML, or says a field twice"),
        ('{"tenant": "a"', "line 1: is not JSON"),
        ('{"tenant": "a",\n "tenant": "b"}', "line 1: says a field twice"),
        ("- just text", "line 1: must be a mapping with key_id"),
        ("expires_at: 2031-99-99\nkey_id: x", ""),
        ("[" * 5000, ""),
    ],
)
def test_no_such_file(tollhouse, file, text: str, reason: str):
    """A file that is none is one clear line, which does not quote it."""
    status, out, err = tollhouse("keys", "import", file(text=text))

    assert (status, out) == (2, "")
    assert reason in err
    assert "Traceback" not in err


def test_revoked_by_hand(tollhouse, keyring: Keyring, make, file):
    """An import changes nothing of a key that an operator ended, nor rotates one."""
    _, one = make()
    tollhouse("keys", "import", file(one))
    status, _, err = tollhouse("keys", "rotate", one["key_id"])
    assert status == 1
    assert "is imported from import; add a new one there" in err
    keyring.revoke(one["key_id"])
    ended = keyring.key(one["key_id"])

    tollhouse("keys", "import", file({**one, "labels": ["x"]}))
    assert keyring.key(one["key_id"]) == ended


def test_peppers(tollhouse, state: Path, make, file, keyring: Keyring):
    """A digest by the pepper before is taken; one by the new one moves the key."""
    key, one = make()
    tollhouse("keys", "import", file(one))
    first = (state / "pepper").read_text().strip()
    (state / "pepper").write_text(f"v2:{'7b' * 32}\nv1:{first}\n")
    both = Pepper.read(state / "pepper")
    _, out, _ = tollhouse("keys", "import", file(one))
    assert "1 unchanged" in out
    _, out, _ = tollhouse("keys", "import", file({**one, "digest": both.digest(key)}))
    assert "1 changed" in out

    assert keyring.key(one["key_id"]).pepper == "v2"
    _, out, _ = tollhouse("keys", "import", file({**one, "digest": both.digest(key)}))
    assert "1 unchanged" in out
    _, out, _ = tollhouse("keys", "import", file(one))
    assert "1 unchanged" in out  # the file of another branch moves nothing back
    assert keyring.key(one["key_id"]).pepper == "v2"


def test_pepper_removed(tollhouse, state: Path, make, file, keyring: Keyring):
    """A file of old digests goes on: for keys that moved, and for those that are over.

    Not for a key that nobody can look up any more, nor for one that is new.
    """
    moved, gone, stuck, fresh = (make()[1] for _ in range(4))
    first = (state / "pepper").read_text().strip()
    tollhouse("keys", "import", file(moved, gone, stuck), "--source", "git")
    (state / "pepper").write_text(f"v2:{'7b' * 32}\nv1:{first}\n")
    both = Keyring(keyring_url(state), Pepper.read(state / "pepper"))
    with contextlib.closing(both):
        both.move(moved["digest"], f"v2:{moved['digest'][3:]}")
    keyring.revoke(gone["key_id"])
    (state / "pepper").write_text(f"v2:{'7b' * 32}\n")
    run = partial(tollhouse, "keys", "import", "--source", "git")

    status, out, err = run(file(moved, gone))
    assert (status, out) == (0, "source git: 1 ended, 1 unchanged\n")
    _, out, _ = run(file({**moved, "labels": ["ci"]}, gone))
    assert "1 changed" in out
    assert keyring.key(moved["key_id"]).labels == ("ci",)
    assert keyring.key(moved["key_id"]).pepper == "v2"
    later = {**moved, "digest": f"v3:{moved['digest'][3:]}"}
    for document in (stuck, fresh, later):
        status, _, err = run(file(document))
        assert status == 2
        assert "is not in the pepper file" in err
    status, _, err = tollhouse("keys", "import", file(moved), "--source", "else")
    assert status == 2
    assert "it comes from source git" in err


def keyring_url(state: Path) -> str:
    return f"unix://{(state / 'run').resolve()}/redis.sock"


def test_adopted(tollhouse, keyring: Keyring, file, pepper: Pepper):
    """A key that was made by hand comes under a file by its own digest only."""
    keyring.create_tenant("acme", "demo")
    key, record = keyring.create_key("acme", labels=["x"])
    document = {
        "key_id": record.key_id,
        "digest": pepper.digest(key),
        "tenant": "acme",
    }
    tollhouse("keys", "import", file(document), "--source", "git")

    adopted = keyring.find(key)
    assert adopted is not None
    assert (adopted.source, adopted.labels) == ("git", ())


def test_digest(tollhouse, keyring: Keyring, state: Path, tmp_path: Path, monkeypatch):
    """A key drawn elsewhere is on standard output alone; its document is importable."""
    keyring.create_tenant("acme", "demo")
    path = tmp_path / "all.yaml"
    drawn = []
    for label in ("one", "two"):
        status, out, err = tollhouse(
            *("keys", "digest", "--new", "--tenant", "acme", "--label", label),
            *("--scope", "chat:write", "--expires", "2031-01-31"),
            *("--document", str(path)),
        )
        assert (status, err) == (0, "")
        assert is_key(out.strip())
        drawn.append(out.strip())
    assert not any(key.rpartition("_")[2] in path.read_text() for key in drawn)

    assert tollhouse("keys", "import", str(path))[0] == 0
    found = [keyring.find(key) for key in drawn]
    assert [it.labels for it in found if it] == [("one",), ("two",)]

    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{drawn[0]}\n"))
    _, out, err = tollhouse("keys", "digest", "--tenant", "acme")
    document = yaml.safe_load(out)
    assert document["key_id"] == drawn[0].split("_")[1]
    assert err == ""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{drawn[0]}x\n"))
    status, out, err = tollhouse("keys", "digest")
    assert (status, out) == (2, "")
    assert drawn[0] not in err
    status, out, err = tollhouse("keys", "digest", "--new")
    assert is_key(out.strip())
    assert yaml.safe_load(err)["digest"].startswith("v1:")


def test_without_the_pepper(tollhouse, redis_url: str, make, file, keyring: Keyring):
    """An import needs no pepper; then it can't tell an unknown version."""
    _, one = make(digest=f"v7:{'0' * 64}")
    place = ("--redis-url", redis_url)
    status, _, _ = tollhouse("keys", "import", file(one), *place, place=False)

    assert status == 0
    assert keyring.key(one["key_id"]).pepper == "v7"
