"""`tollhouse tenants` and `tollhouse keys`, from the command line to Redis."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tollhouse.adapters.redis.keyring import Keyring, KeyringError
from tollhouse.cli.moments import parse_expiry
from tollhouse.core.entitlement import Override, Overrides
from tollhouse.core.identity import DEFAULT_SCOPES, bearer_of, is_key
from tollhouse.core.problems import Unavailable


def test_story(tollhouse, keyring: Keyring):
    """Create a tenant and a key, list both, revoke the key."""
    assert tollhouse("tenants", "create", "acme", "--plan", "demo") == (
        0,
        "tenant acme created, on plan demo\n",
        "",
    )
    status, key, explained = tollhouse("keys", "create", "--tenant", "acme")
    # Standard output is the key and nothing else.
    assert is_key(bearer_of(f"Bearer {key.strip()}") or "")
    key_id = key.split("_")[1]
    assert status == 0
    assert "the only time it is shown" in explained
    assert key.strip() not in explained
    found = keyring.find(key.strip())
    assert found is not None
    assert (found.tenant, found.scopes, found.plan) == ("acme", DEFAULT_SCOPES, None)

    status, out, _ = tollhouse("keys", "list")
    header, line = out.splitlines()
    assert (status, line.split()[:3]) == (0, [key_id, "acme", "active"])
    assert header.startswith("KEY ID")
    assert key.strip().rpartition("_")[2] not in out

    assert tollhouse("keys", "revoke", key_id)[:2] == (
        0,
        f"key {key_id} of tenant acme is revoked\n",
    )
    status, again, _ = tollhouse("keys", "revoke", key_id)
    assert status == 0
    assert "is revoked since 20" in again
    assert "revoked" in tollhouse("keys", "list", "--tenant", "acme")[1]


def test_json(tollhouse):
    """Every command has a form for programs; the key is in one of them, once."""
    _, out, err = tollhouse("tenants", "create", "acme", "--plan", "demo", "--json")
    assert (json.loads(out)["created"], err) == (True, "")
    _, out, err = tollhouse(
        *("keys", "create", "--tenant", "acme", "--json", "--label", "ci"),
        *("--scope", "chat:write=tiny-*", "--scope", "models:read"),
        *("--plan", "demo", "--expires", "1h"),
    )
    made = json.loads(out)
    _, out, _ = tollhouse("keys", "list", "--json")
    (listed,) = json.loads(out)["keys"]
    key = made.pop("key")

    assert err == ""
    assert listed == made
    assert made["scopes"] == ["chat:write=tiny-*", "models:read"]
    assert (made["labels"], made["plan"], made["state"]) == (["ci"], "demo", "active")
    assert made["expires_at"].endswith("Z")
    assert key not in out
    _, out, _ = tollhouse("keys", "revoke", made["key_id"], "--json")
    assert json.loads(out)["state"] == "revoked"
    _, out, _ = tollhouse("tenants", "list", "--json")
    assert [it["name"] for it in json.loads(out)["tenants"]] == ["acme"]


def test_tenant_again(tollhouse):
    """Creating what exists is no error; changing its plan that way is."""
    tollhouse("tenants", "create", "acme", "--plan", "demo")
    assert tollhouse("tenants", "create", "acme", "--plan", "demo")[:2] == (
        0,
        "tenant acme exists, on plan demo\n",
    )
    status, out, err = tollhouse("tenants", "create", "acme", "--plan", "gold")

    assert (status, out) == (1, "")
    assert err == (
        "error: tenant acme exists and is on plan demo, not gold; "
        "to change it: tollhouse tenants set acme --plan gold\n"
    )


def test_time_zone(tollhouse, keyring: Keyring):
    """A tenant's days and months are those of its own zone, UTC's unless named."""
    assert tollhouse(
        *("tenants", "create", "acme", "--plan", "demo"),
        *("--time-zone", "Europe/Berlin"),
    ) == (0, "tenant acme created, on plan demo, in Europe/Berlin\n", "")
    assert tollhouse("tenants", "create", "acme", "--plan", "demo")[0] == 0
    status, _, err = tollhouse(
        "tenants", "create", "acme", "--plan", "demo", "--time-zone", "UTC"
    )
    assert status == 1
    assert "is in Europe/Berlin, not UTC; to change it: tollhouse tenants set" in err
    tollhouse("tenants", "create", "other", "--plan", "demo")

    _, out, _ = tollhouse("tenants", "list", "--json")
    assert {it["name"]: it["time_zone"] for it in json.loads(out)["tenants"]} == {
        "acme": "Europe/Berlin",
        "other": "UTC",
    }


def test_change_a_tenant(tollhouse, keyring: Keyring):
    """Plan and zone apart, each leaving the rest; overrides stay."""
    keyring.create_tenant("acme", "gold")
    keyring.override_tenant("acme", "m", lambda _: Override(concurrent=3))
    assert tollhouse("tenants", "set", "acme", "--plan", "demo") == (
        0,
        "tenant acme is on plan demo\n",
        "",
    )
    _, out, _ = tollhouse("tenants", "set", "acme", "--time-zone", "Asia/Tokyo")
    assert out == "tenant acme is on plan demo, in Asia/Tokyo\n"
    _, out, _ = tollhouse(
        "tenants", "set", "acme", "--plan", "demo", "--time-zone", "UTC", "--json"
    )
    assert json.loads(out)["time_zone"] == "UTC"
    (tenant,) = keyring.tenants()

    assert (tenant.plan, tenant.state) == ("demo", "active")
    assert tenant.overrides == Overrides(models={"m": Override(concurrent=3)})


def test_unknown_plan(tollhouse):
    """A plan that tollhouse.yaml lacks is said, for nothing works on it."""
    status, _, err = tollhouse("tenants", "create", "acme", "--plan", "dmo")

    assert status == 0
    assert "plan dmo is not in" in err


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ("tenants create Acme --plan demo", 2, "use 1 to 64 of a-z"),
        ("tenants create acme", 2, "--plan"),
        ("tenants create x --plan demo --time-zone Europe/Berln", 2, "did you mean"),
        ("tenants set acme", 2, "give --plan, --time-zone or both"),
        ("tenants set acme --time-zone CEST", 2, "time zone 'CEST' is not known"),
        ("tenants set nobody --plan demo", 1, "no tenant nobody; see"),
        ("tenants set Nobody --plan demo", 2, "use 1 to 64 of a-z"),
        ("keys create --tenant nobody", 1, "no tenant nobody; create it first"),
        ("keys create --tenant x --scope chat:wrte", 2, "unknown scope 'chat:wrte'"),
        ("keys create --tenant x --expires soon", 2, "write 30d, 12h or a date"),
        ("keys create --tenant acme --expires 2001-01-01", 2, "not in the future"),
        ("keys create --tenant acme --label a\x07", 2, "printable"),
        ("keys list --tenant nobody", 1, "no tenant nobody"),
        ("keys revoke aaaaaaaaaaaa", 1, "no key aaaaaaaaaaaa"),
        ("keys revoke nonsense", 2, "between its underscores"),
        ("keys", 2, "COMMAND"),
    ],
)
def test_refused(tollhouse, keyring: Keyring, arguments: str, status: int, reason: str):
    """One clear line on stderr, nothing on stdout."""
    keyring.create_tenant("acme", "demo")
    place = arguments != "keys"
    got, out, err = tollhouse(*arguments.split(" "), place=place)

    assert (got, out) == (status, "")
    assert reason in err
    if "usage:" not in err:
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["--state-dir", "/nowhere"], 2, "no gateway runs on /nowhere"),
        (["--redis-url", "unix:///nowhere"], 2, "needs --pepper-file"),
        (["--redis-url", "http://x", "--pepper-file", "PEPPER"], 2, "Redis URL starts"),
        (["--redis-url", "redis://:a@x", "--pepper-file", "PEPPER"], 2, "password"),
        (
            ["--redis-url", "unix:///nowhere", "--pepper-file", "PEPPER"],
            1,
            "Redis can't be reached",
        ),
        (["--redis-url", "unix:///x", "--pepper-file", "/none"], 2, "No such file"),
    ],
)
def test_no_place(tollhouse, state: Path, arguments, status, reason):
    """No gateway, no Redis, no pepper: each says what to do."""
    given = [str(state / "pepper") if it == "PEPPER" else it for it in arguments]
    got, out, err = tollhouse("keys", "create", "--tenant", "acme", *given, place=False)

    assert (got, out) == (status, "")
    assert reason in err
    assert err.count("\n") == 1


def test_as_a_program(state: Path, keyring: Keyring):
    """`KEY=$(tollhouse keys create …)` works in a shell."""
    keyring.create_tenant("acme", "demo")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tollhouse.cli", "keys", "create"),
            *("--tenant", "acme", "--state-dir", str(state)),
        ],
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "services")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert keyring.find(done.stdout.removesuffix("\n")) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        *("tenants create", "tenants set", "tenants list"),
        *("keys create", "keys list", "keys revoke"),
        *("limits show", "limits set", "limits clear", "limits list"),
    ],
)
def test_help_teaches(tollhouse, arguments: str):
    """Every command's help shows one that works."""
    status, out, _ = tollhouse(*arguments.split(), "--help", place=False)

    assert status == 0
    assert f"  tollhouse {arguments}" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 1090.0),
        ("5m", 1300.0),
        ("12h", 44_200.0),
        ("30d", 2_593_000.0),
        ("2w", 1_210_600.0),
        ("2030-01-31", 1_896_048_000.0),
        ("2030-01-31T12:00", 1_896_091_200.0),
        ("2030-01-31T12:00Z", 1_896_091_200.0),
        ("2030-01-31T13:00+01:00", 1_896_091_200.0),
    ],
)
def test_expiry(text: str, expected: float):
    """Durations count from now; a date without a zone is UTC."""
    assert parse_expiry(text, 1000.0) == expected


@pytest.mark.parametrize("text", ["", "d", "-1d", "1y", "30 d", "tomorrow", "1e9d"])
def test_bad_expiry(text: str):
    """What is no duration and no date is refused."""
    with pytest.raises(ValueError, match="write 30d"):
        parse_expiry(text, 1000.0)


@pytest.mark.parametrize("text", ["999999999w", "9999-12-31T23:59-12:00"])
def test_expiry_that_no_list_could_show(text: str):
    """A key beyond the calendar would break every list it is in."""
    with pytest.raises(ValueError, match="the latest is 9999-12-31"):
        parse_expiry(text, 1000.0)


def test_created_at_once(redis_url, keyring: Keyring):
    """A key appears whole: a change of its tenant in between starts over."""
    keyring.create_tenant("acme", "demo")
    key, record = keyring.create_key("acme")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        digest = client.get(f"th:keyid:{record.key_id}")
        assert digest.startswith("v1:")
        assert set(client.keys()) == {
            "th:tenants",
            "th:tenant:acme",
            "th:keys:acme",
            f"th:keyid:{record.key_id}",
            f"th:key:{digest}",
            "th:audit",
        }
        assert key not in str(client.hgetall(f"th:key:{digest}"))


def test_keys_are_drawn(keyring: Keyring):
    """No two keys are alike, in id or secret."""
    keyring.create_tenant("acme", "demo")
    made = [keyring.create_key("acme")[0].split("_") for _ in range(20)]

    assert len({it[1] for it in made}) == len({it[2] for it in made}) == 20
    assert len(keyring.keys("acme")) == 20


def test_states(keyring: Keyring):
    """A key is active until it expires; revoked stays revoked."""
    keyring.create_tenant("acme", "demo")
    now = time.time()
    _, record = keyring.create_key("acme", expires_at=now + 60)

    assert record.state(now) == "active"
    assert record.state(now + 60) == "expired"
    assert keyring.revoke(record.key_id)[0].state(now + 60) == "revoked"


def test_without_pepper(redis_url: str):
    """All but making and finding keys works without the pepper."""
    ring = Keyring(redis_url, None)
    ring.create_tenant("acme", "demo")

    assert [it.name for it in ring.tenants()] == ["acme"]
    assert ring.keys() == []
    with pytest.raises(KeyringError, match="without the pepper"):
        ring.create_key("acme")
    ring.close()


def test_vendor_stays_inside(redis_url: str, keyring: Keyring):
    """A refusal of Redis is ours by name, and nothing to wait for."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("th:tenants", "not a set")
    with pytest.raises(Unavailable) as raised:
        keyring.tenants()

    assert not raised.value.transient
