"""`tollhouse tenants` and `keys` beyond creating: show, suspend, delete, rotate."""

import io
import json
import sys
from pathlib import Path

import pytest

from tollhouse.adapters.configuration import load
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.cli.demo import demo_key
from tollhouse.core.entitlement import Override

ROOT = Path(__file__).resolve().parents[3]


class Terminal(io.StringIO):
    """Somebody who sits there and types."""

    def isatty(self) -> bool:
        return True


def test_suspend_and_resume(tollhouse, keyring: Keyring):
    """Said with its reason until it is over; twice is no error."""
    keyring.create_tenant("acme", "demo")
    arguments = ("tenants", "suspend", "acme", "--reason", "invoice 1042")
    assert tollhouse(*arguments) == (0, "tenant acme is suspended: invoice 1042\n", "")
    again = tollhouse("tenants", "suspend", "acme", "--reason", "another")
    assert again[1] == "tenant acme is suspended: invoice 1042\n"
    _, out, _ = tollhouse("tenants", "list", "--json")
    (listed,) = json.loads(out)["tenants"]
    assert (listed["state"], listed["reason"]) == ("suspended", "invoice 1042")

    assert tollhouse("tenants", "resume", "acme")[1] == (
        "tenant acme is active, on plan demo\n"
    )
    assert tollhouse("tenants", "resume", "acme")[0] == 0
    assert keyring.tenant("acme").reason == ""


def test_show_a_tenant(tollhouse, keyring: Keyring):
    """All there is to know on a screen: state, keys, what differs."""
    keyring.create_tenant("acme", "demo", "Europe/Berlin")
    _, one = keyring.create_key("acme", labels=["ci"], plan="gold")
    _, two = keyring.create_key("acme")
    keyring.revoke(two.key_id)
    keyring.override_tenant("acme", None, lambda _: Override(concurrent=3))
    keyring.override_tenant("acme", "m", lambda _: Override(shadow=True))
    keyring.override_key(one.key_id, lambda _: Override(units_per_day=9))
    keyring.suspend_tenant("acme", "late")
    status, out, _ = tollhouse("tenants", "show", "acme")

    assert status == 0
    for text in (
        "state      suspended: late",
        "plan       demo",
        "time zone  Europe/Berlin",
        "limits     concurrent=3",
        "  m  shadow=on",
        "keys       1 active, 1 revoked",
        f"  {one.key_id}  active  gold  ci  units_per_day=9",
        f"  {two.key_id}  revoked",
    ):
        assert text in out.splitlines()
    _, out, _ = tollhouse("tenants", "show", "acme", "--json")
    shown = json.loads(out)
    assert shown["limits"] == {"concurrent": 3}
    assert shown["model_limits"] == {"m": {"shadow": True}}
    assert {it["key_id"] for it in shown["keys"]} == {one.key_id, two.key_id}


@pytest.mark.parametrize("answer", ["y\n", "n\n", "\n"])
def test_delete_asks(tollhouse, keyring: Keyring, monkeypatch, answer: str):
    """On a terminal one must say yes."""
    keyring.create_tenant("acme", "demo")
    keyring.create_key("acme")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    status, out, err = tollhouse("tenants", "delete", "acme")

    assert "Delete tenant acme and end 1 key for good? [y/N]" in err
    if answer == "y\n":
        assert (status, out) == (0, "tenant acme is deleted; 1 key revoked by it\n")
    else:
        assert (status, out) == (2, "")
        assert keyring.tenant("acme").state == "active"


def test_delete(tollhouse, keyring: Keyring, monkeypatch):
    """Nobody to ask: --yes. What is gone stays known, and its name taken."""
    keyring.create_tenant("acme", "demo")
    key, _ = keyring.create_key("acme")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    status, _, err = tollhouse("tenants", "delete", "acme")
    assert (status, keyring.tenant("acme").state) == (2, "active")
    assert "deleting acme ends 1 key for good: confirm with --yes" in err

    _, out, _ = tollhouse("tenants", "delete", "acme", "--yes", "--json")
    assert json.loads(out)["keys_revoked"] == 1
    found = keyring.find(key)
    assert found is not None
    assert found.revoked_at is not None
    assert "acme" not in tollhouse("tenants", "list")[1]
    assert "deleted" in tollhouse("tenants", "list", "--deleted")[1]
    assert tollhouse("tenants", "delete", "acme", "--yes")[0] == 0
    status, _, err = tollhouse("tenants", "create", "acme", "--plan", "demo")
    assert status == 1
    assert err.endswith("bills carry its name; choose another one\n")


def test_rotate(tollhouse, keyring: Keyring):
    """The new key is alone on standard output; the old one ends with its grace."""
    keyring.create_tenant("acme", "demo")
    old, record = keyring.create_key("acme", labels=["ci"])
    status, out, err = tollhouse("keys", "rotate", record.key_id, "--grace", "0s")
    assert status == 0
    found = keyring.find(out.strip())
    assert found is not None
    assert (found.labels, found.rotated_from) == (("ci",), record.key_id)
    assert out.strip() not in err
    assert f"takes the place of {record.key_id}, which ends at 20" in err
    ended = keyring.find(old)
    assert ended is not None
    assert "expired" in tollhouse("keys", "list", "--state", "expired")[1]

    status, _, err = tollhouse("keys", "rotate", record.key_id)
    assert status == 1
    assert f"key {record.key_id} is expired" in err
    _, out, _ = tollhouse(
        *("keys", "rotate", found.key_id, "--grace", "7d", "--expires", "90d"),
        "--json",
    )
    made = json.loads(out)
    assert made["old"]["rotated_to"] == made["key_id"]
    assert made["old"]["state"] == made["state"] == "active"
    status, _, err = tollhouse("keys", "rotate", found.key_id)
    assert status == 1
    assert "--again makes another one" in err
    assert tollhouse("keys", "rotate", found.key_id, "--again")[0] == 0


def test_show_a_key(tollhouse, keyring: Keyring):
    """All but the key."""
    keyring.create_tenant("acme", "demo")
    key, record = keyring.create_key(
        "acme", networks=["2001:db8::/32"], labels=["ci", "eu"]
    )
    made = keyring.rotate(record.key_id)
    status, out, _ = tollhouse("keys", "show", record.key_id)
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())

    assert status == 0
    assert shown["networks"] == "2001:db8::/32"
    assert shown["labels"] == "ci, eu"
    assert shown["tenant"] == "acme (active)"
    assert shown["replaced"] == f"by    {made.new.key_id}"
    assert key.rpartition("_")[2] not in out
    _, out, _ = tollhouse("keys", "show", record.key_id, "--json")
    assert json.loads(out)["networks"] == ["2001:db8::/32"]


def test_create_with_networks_and_labels(tollhouse, keyring: Keyring):
    """Both repeat."""
    keyring.create_tenant("acme", "demo")
    _, key, _ = tollhouse(
        *("keys", "create", "--tenant", "acme", "--label", "ci", "--label", "eu"),
        *("--network", "203.0.113.0/24", "--network", "2001:db8::/32"),
    )
    found = keyring.find(key.strip())

    assert found is not None
    assert (found.networks, found.labels) == (
        "203.0.113.0/24 2001:db8::/32",
        ("ci", "eu"),
    )


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ("tenants suspend nobody", 1, "no tenant nobody"),
        ("tenants show Nobody", 2, "use 1 to 64 of a-z"),
        ("tenants delete nobody --yes", 1, "no tenant nobody"),
        ("tenants suspend acme --reason a\x07", 2, "printable"),
        ("tenants create acme --plan a\x07", 2, "plan 'a\\x07'"),
        ("keys show aaaaaaaaaaaa", 1, "no key aaaaaaaaaaaa"),
        ("keys rotate aaaaaaaaaaaa --grace soon", 2, "--grace 'soon'"),
        ("keys rotate aaaaaaaaaaaa --grace 2000d", 2, "to 1 year"),
        ("keys create --tenant acme --network 10.0.0.1/8", 2, "bits behind"),
        ("keys create --tenant acme --network 0.0.0.0/0", 2, "is everybody"),
        ("keys import /nowhere.yaml", 2, "No such file"),
        ("keys import /dev/null --source Git", 2, "source 'Git'"),
        ("audit --tenant Nobody", 2, "use 1 to 64 of a-z"),
        ("audit --since tomorrow", 2, "--since 'tomorrow'"),
        ("audit --limit 0", 2, "from 1 to"),
    ],
)
def test_refused(tollhouse, keyring: Keyring, arguments: str, status: int, reason: str):
    """One clear line on stderr, nothing on stdout."""
    keyring.create_tenant("acme", "demo")
    got, out, err = tollhouse(*arguments.split(" "))

    assert (got, out) == (status, "")
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *("tenants show", "tenants suspend", "tenants resume", "tenants delete"),
        *("keys show", "keys rotate", "keys import", "keys digest", "audit"),
    ],
)
def test_help_teaches(tollhouse, arguments: str):
    """Every command's help shows one that works."""
    status, out, _ = tollhouse(*arguments.split(), "--help", place=False)

    assert status == 0
    assert f"tollhouse {arguments}" in out.partition("examples:")[2] or (
        f"tollhouse {arguments}" in out.partition("example:")[2]
    )


def test_demo_tenant_deleted(keyring: Keyring, redis_url: str, state: Path, tmp_path):
    """Who deletes the demo tenant has another one at the next start."""
    kept = tmp_path / "demo-key"
    configuration = load(ROOT / "tollhouse.yaml")

    def start() -> str:
        return demo_key(RedisAccess(redis_url), state / "pepper", kept, configuration)

    first = start()
    assert start() == first
    keyring.delete_tenant("demo")
    second = start()
    found = keyring.find(second)
    assert found is not None
    assert found.tenant == "demo-2"
    assert {it.who for it in keyring.log.latest(9)[0]} == {"up", "unnamed"}
