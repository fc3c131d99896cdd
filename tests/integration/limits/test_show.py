"""`tollhouse limits show`: what the limiter took is what an operator reads."""

import json
import time
from typing import Any

import msgspec
import pytest

from tests.integration.limits.rig import facts, new_id
from tollhouse.adapters.configuration import load
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.cli.__main__ import main
from tollhouse.core.entitlement import Override, entitlement
from tollhouse.core.exchange import Settlement
from tollhouse.core.identity import Principal
from tollhouse.core.limits import MONEY
from tollhouse.core.reservation import Granted, Reservation
from tollhouse.core.usage import CountSource, TokenUsage, UsageKind

CONFIG = """
limits: {concurrent: 100}
models:
  m1: &model
    cluster: c1
    provider: openai
    operations: [chat]
    context: 4096
    default_output_tokens: 256
    max_output_tokens: 4096
    prices: {input: 3, cached_input: 1, output: 7}
    capacity: 5000
  m2: *model
plans:
  demo:
    key: {requests_per_minute: 60}
    tenant: {money_per_month: 250.00, units_per_day: 1000}
    tenant_model: {units_per_minute: 6_000, shadow: true}
  first: {tenant: {concurrent: 3}, priority: 9}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tollhouse.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def ring(redis_url):
    keyring = Keyring(redis_url, Pepper({"v1": b"5a" * 32}))
    keyring.create_tenant("acme", "demo")
    yield keyring
    keyring.close()


@pytest.fixture
def key_id(ring):
    _, record = ring.create_key("acme")
    return record.key_id


@pytest.fixture
def show(redis_url, config, capsys):
    """Run the command; status, standard output and standard error."""

    def run(*options: str) -> tuple[int, str, str]:
        place = ("--redis-url", redis_url, "--config", str(config))
        status = main(["limits", "show", *options, *place])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def admit(limiter, config):
    """Reserve 100 units for a key, as a worker would; gives id and facts."""
    catalog = load(config).catalog()

    async def reserve(number: int, key_id: str) -> tuple[str, Any]:
        principal = Principal(tenant="acme", key_id=key_id, plan="demo", scopes=())
        entitled = entitlement(catalog, principal, catalog.models["m1"])
        assert entitled is not None
        id_ = new_id(number, round(time.time() * 1000))
        asked = facts(key_id=key_id, prices=(30_000, 10_000, 70_000))
        answer = await limiter.reserve(Reservation(id_, asked, entitled.limits))
        assert isinstance(answer, Granted)
        return id_, msgspec.structs.replace(asked, debits=answer.debits)

    return reserve


def rows(output: str) -> dict[tuple[str, str, str | None], dict[str, Any]]:
    """What JSON says by scope, measure, and key or model."""
    shown = json.loads(output)
    assert {"acme", None} >= {row["tenant"] for row in shown["limits"]}
    return {
        (row["scope"], row["measure"], row["key_id"] or row["model"]): row
        for row in shown["limits"]
    }


async def test_what_is_reserved_and_used(show, admit, limiter, key_id):
    """What runs is reserved, what ended is used; each in the limit's own measure."""
    ended, charged = await admit(1, key_id)
    await admit(2, key_id)
    await limiter.settle_many([settlement(ended, charged)])
    status, out, _ = show("--tenant", "acme", "--json")
    found = rows(out)

    assert 0 == status
    units = found["tenant_model", "units", "m1"]
    # 100 of the one that runs, 20 of the one that ended; some has refilled since.
    assert 20 <= units["used"] <= 120
    assert 1000 - units["used"] == units["remaining"]
    assert (100, 1, True) == (units["reserved"], units["in_flight"], units["shadow"])
    assert 0.2 <= units["resets_in_seconds"] <= 1.2
    requests = found["key", "requests", key_id]
    assert 1 <= requests["used"] <= 2
    assert (60, 1) == (requests["value"], requests["in_flight"])
    day = found["tenant", "units_per_day", None]
    assert (120, 880, 100) == (day["used"], day["remaining"], day["reserved"])
    assert 0 < day["resets_in_seconds"] <= 86_400
    month = found["tenant", "money_per_month", None]
    # 50 x 30,000 + 10 x 70,000 reserved, 10 x 30,000 + 2 x 70,000 used.
    assert "0.00022" == month["reserved"]
    assert 250 * MONEY - 2_640_000 == round(float(month["remaining"]) * MONEY)
    everything = found["global", "concurrent", None]
    assert (1, 99, 1) == tuple(
        everything[it] for it in ("used", "remaining", "in_flight")
    )
    capacity = found["model", "capacity", "m1"]
    assert (100, 4900, 100) == (
        *(capacity[it] for it in ("used", "remaining", "reserved")),
    )
    assert capacity["resets_in_seconds"] is None


async def test_other_tenants_are_not_counted(show, admit, ring, limiter, key_id):
    """But where all tenants share a limit, and there by what it takes."""
    await admit(1, key_id)
    _, key = ring.create_key("acme")
    await admit(2, key.key_id)
    _, out, _ = show("--tenant", "acme", "--key", key_id, "--model", "m1", "--json")
    found = rows(out)

    assert 1 == found["key", "requests", key_id]["in_flight"]
    assert ("key", "requests", key.key_id) not in found
    assert 2 == found["tenant_model", "units", "m1"]["in_flight"]
    assert ("tenant_model", "units", "m2") not in found


def test_nothing_used(show, key_id):
    """All limits are there, in the order of their scopes, as a table."""
    status, out, _ = show("--tenant", "acme")
    header, *lines = [line.split() for line in out.splitlines()]

    assert 0 == status
    assert [
        *("TENANT", "SCOPE", "OF", "LIMIT"),
        *("VALUE", "USED", "REMAINING", "RESERVED"),
    ] == header[:8]
    assert ["acme"] * 5 + ["-"] * 3 == [line[0] for line in lines]
    assert [
        ["key", key_id, "requests/min", "60", "0", "10", "0", "0", "0.0s"],
        ["tenant", "-", "units/day", "1,000"],
        ["tenant", "-", "money/month", "250.0000"],
        ["tenant", "x", "model", "m1", "units/min", "(shadow)", "6,000"],
        ["tenant", "x", "model", "m2", "units/min", "(shadow)", "6,000"],
        ["model", "m1", "units", "in", "flight", "5,000", "0", "5,000"],
        ["model", "m2", "units", "in", "flight", "5,000", "0", "5,000"],
        ["global", "-", "concurrent", "100", "0", "100", "0", "0", "-"],
    ] == [
        line[1 : size + 1]
        for line, size in zip(lines, (9, 4, 4, 7, 7, 8, 8, 9), strict=True)
    ]


def test_all_tenants(show, ring, key_id):
    """Tenant after tenant, then once what they share; one may be on a wrong plan."""
    ring.create_tenant("beta", "first")
    ring.create_tenant("gamma", "gold")
    status, out, err = show("--model", "m1")
    lines = [line.split() for line in out.splitlines()[1:]]

    assert 0 == status
    assert [
        ["acme", "key"],
        *[["acme", "tenant"]] * 3,
        ["beta", "tenant"],
        ["-", "model"],
        ["-", "global"],
    ] == [line[:2] for line in lines]
    assert (
        "tenant gamma: plan gold is not in tollhouse.yaml (there: demo, first)" in err
    )


def test_a_key_brings_its_tenant(show, ring, key_id):
    """Who reads a key id in a log need not look up whose it is."""
    ring.create_tenant("beta", "demo")
    _, out, _ = show("--key", key_id, "--json")

    assert ("key", "requests", key_id) in rows(out)


def test_overrides_count(show, ring, key_id):
    """A value set for one key or tenant is the one that is shown."""
    ring.override_key(key_id, lambda _: Override(requests_per_minute=6))
    ring.override_tenant(
        "acme", "m2", lambda _: Override(units_per_minute=7, shadow=False)
    )
    ring.override_tenant("acme", None, lambda _: Override(units_per_day="unlimited"))
    _, out, _ = show("--tenant", "acme", "--json")
    found = rows(out)

    assert 6 == found["key", "requests", key_id]["value"]
    assert 7 == found["tenant_model", "units", "m2"]["value"]
    assert not found["tenant_model", "units", "m2"]["shadow"]
    assert 6_000 == found["tenant_model", "units", "m1"]["value"]
    assert ("tenant", "units_per_day", None) not in found


def test_keys_that_ended_are_left_out(show, ring, key_id):
    """Unless they are asked for."""
    ring.revoke(key_id)
    _, out, _ = show("--tenant", "acme", "--json")
    assert ("key", "requests", key_id) not in rows(out)
    _, out, _ = show("--tenant", "acme", "--key", key_id, "--json")

    assert ("key", "requests", key_id) in rows(out)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--tenant", "nobody"), 1, "no tenant nobody"),
        (("--tenant", "acme", "--key", "0" * 12), 1, "acme has no key 000000000000"),
        (("--key", "0" * 12), 1, "no key 000000000000; see: tollhouse keys list"),
        (("--tenant", "acme", "--model", "m3"), 2, "there are m1, m2"),
        (
            ("--tenant", "acme"),
            2,
            "plan gold is not in tollhouse.yaml (there: demo, first)",
        ),
    ],
)
def test_what_is_not_there(show, ring, options, status, said):
    """One line, with where to look."""
    if "gold" in said:
        ring.change_tenant("acme", plan="gold")
    found, out, err = show(*options)

    assert (status, "") == (found, out)
    assert err.startswith("error: ")
    assert said in err


def settlement(exchange_id, charged):
    """The end of an exchange that used 10 and 2 tokens: 20 units."""
    now_ms = round(time.time() * 1000)
    return Settlement(
        exchange_id=exchange_id,
        facts=charged,
        kind=UsageKind.FINAL,
        usage=TokenUsage(input_tokens=10, output_tokens=2),
        input_source=CountSource.BACKEND,
        output_source=CountSource.BACKEND,
        started_ms=now_ms,
        first_ms=0,
        ended_ms=now_ms,
        flags="",
    )
