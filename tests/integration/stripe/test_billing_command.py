"""`tollhouse billing setup` and `customers`, as a user types them."""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import command
from tests.stripe_stand_in.stand_in import StandIn

CONFIG = Path(__file__).parents[3] / "tollhouse.yaml"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a command."""

    status: int
    out: str
    err: str


async def tollhouse(*arguments: str | Path) -> Done:
    """Run a command beside the stand-in of this event loop."""
    done = await asyncio.to_thread(command.tollhouse, "billing", *arguments)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def account(stand_in: StandIn, tmp_path: Path) -> tuple[str | Path, ...]:
    """Return the options that lead to the stand-in."""
    key_file = tmp_path / "stripe.key"
    key_file.write_text(f"{stand_in.api_key}\n")
    key_file.chmod(0o600)
    return ("--stripe-key-file", key_file, "--stripe-url", stand_in.url)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tollhouse.yaml"
    path.write_text(CONFIG.read_text("utf-8"), "utf-8")
    return path


def change(config: Path, model: str, **prices: float) -> None:
    content = yaml.safe_load(config.read_text("utf-8"))
    content["models"][model]["prices"].update(prices)
    config.write_text(yaml.safe_dump(content), "utf-8")


async def test_setup_from_nothing_to_nothing_to_do(stand_in, account, config):
    """Shown, done, done again, changed: each says what it is about."""
    setup = ("setup", "--config", config, *account)

    shown = await tollhouse(*setup)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].split() == ["ACTION", "NAME", "WHAT"]
    assert lines[-2] == "7 to do; --apply does it"
    assert "grace period to 24 hours or more" in lines[-1]
    assert any(
        re.fullmatch(
            r"create price +tollhouse\.tiny-chat\.cached_input\.usd +"
            r"0\.000005 smallest units of usd per token",
            line,
        )
        for line in lines
    )
    assert list(stand_in.objects.all("billing.meter")) == []

    done = await tollhouse(*setup, "--apply")
    assert (done.status, done.err) == (0, "")
    assert done.out.count("create ") == 7
    assert done.out.splitlines()[-2] == "done: 7 created"
    assert lines[-1] == done.out.splitlines()[-1]
    assert len(list(stand_in.objects.all("price"))) == 3

    for arguments in (setup, (*setup, "--apply")):
        again = await tollhouse(*arguments)
        assert (again.status, again.out[:13]) == (0, "nothing to do")
        assert lines[-1] == again.out.splitlines()[-1]

    change(config, "tiny-chat", output=0.5)
    shown = await tollhouse(*setup)
    assert "(it is 0.00004 per token), which running subscriptions keep" in shown.out
    assert "\ndone: 1 created\n" in (await tollhouse(*setup, "--apply")).out


async def test_deployments_on_one_account_share_nothing(stand_in, account, config):
    """Else a lookup of the one's chunk could find the other's event."""
    setup = ("setup", "--config", config, *account, "--apply")

    for options in ((), ("--deployment", "eu"), ("--deployment", "eu")):
        assert (await tollhouse(*setup, *options)).status == 0

    names = [it["event_name"] for it in stand_in.objects.all("billing.meter")]
    assert len(names) == len({*names}) == 6
    assert "eu.tiny-chat.output" in names
    assert {it["id"] for it in stand_in.objects.all("product")} == {
        "tollhouse_tiny-chat",
        "eu_tiny-chat",
    }
    keys = {it["lookup_key"] for it in stand_in.objects.all("price")}
    assert {"eu.tiny-chat.output.usd", "tollhouse.tiny-chat.output.usd"} <= keys
    odd = await tollhouse(*setup, "--deployment", "EU.west")
    assert (odd.status, "is no deployment" in odd.err) == (2, True)


async def test_setup_as_json(stand_in, account, config):
    """With exact amounts, and whether it was done."""
    setup = ("setup", "--config", config, *account, "--json")

    shown = json.loads((await tollhouse(*setup)).out)
    done = json.loads((await tollhouse(*setup, "--apply")).out)
    rest = json.loads((await tollhouse(*setup, "--apply")).out)

    assert (shown["applied"], done["applied"]) == (False, True)
    assert shown["actions"] == done["actions"]
    assert rest == {"applied": False, "actions": []}
    assert shown["actions"][2] == {
        "action": "create_price",
        "lookup_key": "tollhouse.tiny-chat.uncached_input.usd",
        "event_name": "tollhouse.tiny-chat.uncached_input",
        "product": "tollhouse_tiny-chat",
        "currency": "usd",
        "amount": "0.00001",
        "label": "tiny-chat uncached input tokens",
        "replaces": "",
        "because": "",
    }


async def test_setup_with_a_conflict(stand_in, account, config):
    """Status 1, shown or applied, and nothing is changed."""
    stand_in.add_meter("tollhouse.tiny-chat.output", formula="count")
    setup = ("setup", "--config", config, *account)

    for arguments in (setup, (*setup, "--apply")):
        found = await tollhouse(*arguments)
        assert found.status == 1
        assert "its formula is count, not sum" in found.out
        assert "a person has to resolve the conflicts first" in found.err
    assert len(list(stand_in.objects.all("billing.meter"))) == 1


async def test_setup_that_can_not_start_or_finish(
    stand_in, account, config, tmp_path, free_port
):
    """One line each, with a status that says whose fault it is."""
    key_file, open_file = account[1], tmp_path / "open.key"
    open_file.write_text("rk_test_standin")
    open_file.chmod(0o644)
    nobody = tmp_path / "nobody.key"
    nobody.write_text("rk_test_nobody")
    nobody.chmod(0o600)
    url = ("--stripe-url", stand_in.url)
    away = ("--stripe-url", f"http://127.0.0.1:{free_port()}")
    cases = [
        (("--stripe-key-file", tmp_path / "none", *url), 2, "No such file"),
        (("--stripe-key-file", open_file, *url), 2, "chmod o="),
        (("--stripe-key-file", nobody, *url), 1, "refuses our API key"),
        (("--stripe-key-file", key_file, *away), 1, "no_connection"),
        (
            ("--stripe-key-file", key_file, "--stripe-url", "http://stripe.example"),
            2,
            "use https://",
        ),
    ]
    for options, status, said in cases:
        found = await tollhouse("setup", "--config", config, *options)
        assert (found.status, found.out) == (status, ""), found
        assert re.fullmatch(f"error: .*{said}.*\n", found.err), found

    config.write_text("models: {}")
    found = await tollhouse("setup", "--config", config, *account)
    assert (found.status, found.out) == (2, "")
    assert "nobody" not in found.err


async def test_customers_from_link_to_unlink(stand_in, account, redis_url):
    """Looked up at Stripe where a key is given; one tenant per customer."""
    stand_in.add_customer("cus_1")
    redis = ("--billing-redis-url", redis_url)

    async def customers(*arguments: str | Path) -> Done:
        return await tollhouse("customers", *arguments, *redis)

    linked = await customers("link", "acme", "cus_1", *account)
    assert (linked.status, linked.out) == (0, "tenant acme linked: customer cus_1\n")
    again = await customers("link", "acme", "cus_1")
    assert (again.status, again.out) == (0, "tenant acme was linked: customer cus_1\n")

    for arguments, said in (
        (("link", "zeta", "cus_1"), "is tenant acme's"),
        (("link", "acme", "cus_2"), "has customer cus_1"),
        (("link", "zeta", "cus_2", *account), "Stripe has no customer cus_2"),
    ):
        refused = await customers(*arguments)
        assert (refused.status, refused.out) == (1, "")
        assert said in refused.err
    for arguments in (("link", "Zeta!", "cus_2"), ("link", "zeta", "acct_2")):
        assert (await customers(*arguments)).status == 2

    created = await customers("create", "zeta", "--email", "z@example.com", *account)
    assert created.status == 0, created
    (customer,) = (
        it["id"] for it in stand_in.objects.all("customer") if it["id"] != "cus_1"
    )
    assert created.out == f"tenant zeta created and linked: customer {customer}\n"
    assert "was linked" in (await customers("create", "zeta", *account)).out

    listed = json.loads((await customers("list", "--json")).out)
    assert listed == {
        "customers": [
            {"tenant": "acme", "customer": "cus_1"},
            {"tenant": "zeta", "customer": customer},
        ]
    }
    gone = await customers("unlink", "acme")
    told, warning = gone.out.splitlines()
    assert told == "tenant acme is customer cus_1 no more"
    assert warning.startswith("never link cus_1 to another tenant")
    assert "has no customer" in (await customers("unlink", "acme")).out
    table = (await customers("list")).out.splitlines()
    assert [line.split()[0] for line in table] == ["TENANT", "zeta"]


async def test_customers_without_a_gateway(tmp_path):
    """Where nothing runs, and no Redis is named."""
    found = await tollhouse("customers", "list", "--state-dir", tmp_path)

    assert (found.status, found.out) == (2, "")
    assert "or give --billing-redis-url" in found.err


@pytest.mark.parametrize(
    "command",
    [
        ("setup",),
        *(("customers", it) for it in ("link", "create", "unlink", "list")),
    ],
)
async def test_every_command_explains_itself(command):
    """With an example and the exit statuses."""
    said = (await tollhouse(*command, "--help")).out

    assert "example" in said
    assert "Exit status: 0" in said
    assert f"tollhouse billing {' '.join(command)}" in said
