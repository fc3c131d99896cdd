"""`tollhouse limits set, clear, list`: from the command line to Redis."""

import json

import pytest
import redis

from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.core.entitlement import Override, Overrides
from tollhouse.core.limits import MONEY


@pytest.fixture
def key_id(keyring: Keyring) -> str:
    """A key of the tenant acme."""
    keyring.create_tenant("acme", "demo")
    _, record = keyring.create_key("acme")
    return record.key_id


def overrides(keyring: Keyring) -> Overrides:
    return next(it.overrides for it in keyring.tenants() if it.name == "acme")


def test_story(tollhouse, keyring: Keyring, key_id: str):
    """Set in each place, list all, clear one after the other."""
    assert tollhouse(
        *("limits", "set", "--tenant", "acme", "--units-per-minute", "500_000"),
        *("--concurrent", "2"),
    ) == (
        0,
        (
            "the limits of tenant acme are the plan's"
            " but for units_per_minute=500000 concurrent=2\n"
        ),
        "",
    )
    tollhouse(
        *("limits", "set", "--tenant", "acme", "--model", "tiny-chat"),
        *("--concurrent", "none", "--shadow", "on"),
    )
    tollhouse("limits", "set", "--key", key_id, "--requests-per-minute", "60")
    _, out, _ = tollhouse("limits", "list")
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["acme", "-", "-", "units_per_minute=500000", "concurrent=2"],
        ["acme", "-", "tiny-chat", "concurrent=none", "shadow=on"],
        ["acme", key_id, "-", "requests_per_minute=60"],
    ]
    keyring.create_tenant("beta", "demo")
    assert len(tollhouse("limits", "list", "--tenant", "acme")[1].splitlines()) == 4
    assert len(tollhouse("limits", "list", "--tenant", "beta")[1].splitlines()) == 1

    assert tollhouse("limits", "clear", "--tenant", "acme") == (
        0,
        "the limits of tenant acme are the plan's\n",
        "",
    )
    assert overrides(keyring) == Overrides(
        models={"tiny-chat": Override(concurrent="unlimited", shadow=True)}
    )
    tollhouse("limits", "clear", "--tenant", "acme", "--model", "tiny-chat")
    tollhouse("limits", "clear", "--key", key_id)
    _, out, _ = tollhouse("limits", "list", "--json")

    assert json.loads(out) == {"overrides": []}


def test_json(tollhouse, keyring: Keyring, key_id: str):
    """In the words of the options; money as text, for no float holds it."""
    _, out, _ = tollhouse(
        *("limits", "set", "--key", key_id, "--json"),
        *("--requests-per-minute", "1", "--units-per-minute", "2"),
        *("--concurrent", "3", "--units-per-day", "4", "--units-per-month", "none"),
        *("--money-per-day", "0.0001", "--money-per-month", "12.5"),
        *("--burst-seconds", "2.5", "--shadow", "off"),
    )
    expected = {
        "tenant": "acme",
        "key_id": key_id,
        "model": None,
        "limits": {
            "requests_per_minute": 1,
            "units_per_minute": 2,
            "concurrent": 3,
            "units_per_day": 4,
            "units_per_month": "none",
            "money_per_day": "0.0001",
            "money_per_month": "12.50",
            "burst_seconds": 2.5,
            "shadow": False,
        },
    }
    assert json.loads(out) == expected
    _, out, _ = tollhouse("limits", "list", "--json")
    assert json.loads(out) == {"overrides": [expected]}
    (key,) = keyring.keys()

    assert key.override == Override(
        requests_per_minute=1,
        units_per_minute=2,
        concurrent=3,
        units_per_day=4,
        units_per_month="unlimited",
        money_per_day=MONEY // 10_000,
        money_per_month=25 * MONEY // 2,
        burst_seconds=2.5,
        shadow=False,
    )


def test_field_by_field(tollhouse, keyring: Keyring, key_id: str):
    """What is not named stays; `plan` takes back one, the last leaves nothing."""
    place = ("limits", "set", "--tenant", "acme", "--model", "m")
    tollhouse(*place, "--concurrent", "5", "--units-per-day", "7")
    tollhouse(*place, "--concurrent", "plan", "--burst-seconds", "3")
    assert overrides(keyring).models == {
        "m": Override(units_per_day=7, burst_seconds=3.0)
    }
    tollhouse(*place, "--units-per-day", "plan", "--burst-seconds", "plan")

    assert overrides(keyring) == Overrides()


def test_zone_and_overrides_are_apart(tollhouse, keyring: Keyring, key_id: str):
    """Clearing limits moves no day."""
    keyring.change_tenant("acme", time_zone="Asia/Tokyo")
    tollhouse("limits", "set", "--tenant", "acme", "--concurrent", "1")
    tollhouse("limits", "clear", "--tenant", "acme")

    assert overrides(keyring) == Overrides(zone="Asia/Tokyo")


def test_revoking_keeps_limits(keyring: Keyring, key_id: str):
    """And limiting a revoked key brings it back to nobody."""
    keyring.override_key(key_id, lambda _: Override(concurrent=1))
    revoked, _ = keyring.revoke(key_id)
    changed = keyring.override_key(key_id, lambda _: Override(concurrent=2))

    assert revoked.override == Override(concurrent=1)
    assert changed.revoked_at == revoked.revoked_at
    assert keyring.keys() == [changed]


def test_two_operators(keyring: Keyring, key_id: str):
    """A change made while another is under way is kept by both."""
    meddled = False

    def meddle(override: Override) -> Override:
        nonlocal meddled
        if not meddled:
            meddled = True
            keyring.revoke(key_id)
        return Override(concurrent=override.concurrent, units_per_day=1)

    changed = keyring.override_key(key_id, meddle)

    assert changed.revoked_at is not None
    assert changed.override == Override(units_per_day=1)


def test_warnings(tollhouse, monkeypatch, tmp_path, keyring: Keyring, key_id: str):
    """What the tollhouse.yaml at hand makes useless is said; it may be another's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tollhouse.yaml").write_text(
        """
models:
  m: {cluster: c, operations: [chat], context: 9, default_output_tokens: 1,
      max_output_tokens: 9}
plans: {demo: {}}
"""
    )
    place = ("limits", "set", "--tenant", "acme")
    status, _, err = tollhouse(*place, "--model", "mm", "--concurrent", "1")
    assert (status, "model mm is not in tollhouse.yaml (there: m)" in err) == (0, True)
    status, _, err = tollhouse(*place, "--money-per-day", "5")
    assert (status, "these have none and count nothing: m" in err) == (0, True)
    status, _, err = tollhouse(*place, "--money-per-day", "none")
    assert (status, err) == (0, "")
    (tmp_path / "tollhouse.yaml").write_text("broken: [")

    assert tollhouse(*place, "--model", "mm", "--concurrent", "1")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ("set --tenant acme", 2, "nothing to set: give at least one of --requests"),
        ("set --concurrent 1", 2, "--tenant"),
        ("set --tenant acme --key aaaaaaaaaaaa --concurrent 1", 2, "not allowed with"),
        ("set --key aaaaaaaaaaaa --model m --concurrent 1", 2, "goes with --tenant"),
        ("set --tenant acme --model {m} --concurrent 1", 2, "no name of a model"),
        ("set --tenant nobody --concurrent 1", 1, "no tenant nobody; see"),
        ("set --key aaaaaaaaaaaa --concurrent 1", 1, "no key aaaaaaaaaaaa; see"),
        ("set --key nonsense --concurrent 1", 2, "between its underscores"),
        ("set --tenant acme --concurrent 0", 2, "--concurrent '0': write a whole"),
        ("set --tenant acme --units-per-day 1e6", 2, "--units-per-day '1e6': write"),
        ("set --tenant acme --units-per-day 9007199254740993", 2, "write a whole"),
        ("set --tenant acme --money-per-day 0", 2, "write an amount such as 12.50"),
        ("set --tenant acme --money-per-day 1.00001", 2, "4 decimal places"),
        ("set --tenant acme --money-per-day 900000.01", 2, "up to 900000"),
        ("set --tenant acme --burst-seconds 0", 2, "write seconds above 0"),
        ("set --tenant acme --burst-seconds 3600.5", 2, "up to 3600"),
        ("set --tenant acme --burst-seconds none", 2, "write seconds"),
        ("set --tenant acme --shadow yes", 2, "write on, off or plan"),
        ("clear --tenant nobody", 1, "no tenant nobody"),
        ("list --tenant nobody", 1, "no tenant nobody"),
        ("clear", 2, "--tenant"),
    ],
)
def test_refused(tollhouse, key_id: str, arguments: str, status: int, reason: str):
    """One clear line on stderr, nothing on stdout."""
    got, out, err = tollhouse("limits", *arguments.split(" "))

    assert (got, out) == (status, "")
    assert reason in err
    if "usage:" not in err:
        assert err.count("\n") == 1


def test_of_another_release(tollhouse, redis_url, keyring: Keyring, key_id: str):
    """Limits this release can't read are neither shown as none nor overwritten."""
    newer = '{"tenant":{"requests_per_hour":1}}'
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.hset("th:tenant:acme", "limits", newer)
        for arguments in (["list"], ["set", "--tenant", "acme", "--concurrent", "1"]):
            status, out, err = tollhouse("limits", *arguments)
            assert (status, out) == (1, "")
            assert "can't read" in err

        assert client.hget("th:tenant:acme", "limits") == newer
