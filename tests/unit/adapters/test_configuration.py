"""tollhouse.yaml: refused whole, with path and remedy, or turned into a catalog."""

import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.adapters.configuration import ConfigurationError, load, places
from tollhouse.adapters.sections import PricesSection, to_money
from tollhouse.cli.backend import to_yaml
from tollhouse.core.catalog import (
    Operation,
    Plan,
    Policy,
    Prices,
    Provider,
    RedisDown,
    Server,
    Telemetry,
    Traceparent,
    Weights,
)
from tollhouse.core.limits import MONEY, Allowance

ROOT = Path(__file__).resolve().parents[3]
MODEL = {
    "cluster": "c",
    "operations": ["chat"],
    "context": 100,
    "default_output_tokens": 10,
    "max_output_tokens": 50,
}
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{it}: &a{it} {{<<: [*a{it - 1}, *a{it - 1}]}}\n" for it in range(1, 40)
)
"""Each mapping has twice the entries of the one before."""
PRICES = {"input": 0.15, "cached_input": 0, "output": "0.6001"}


@pytest.fixture
def write(tmp_path):
    """Write a configuration: text as it is, else a valid one with changes."""
    path = tmp_path / "tollhouse.yaml"

    def write(content=None, *, model=None, plan=None, **others):
        if content is None:
            content = yaml.safe_dump(
                {
                    "models": {"m": MODEL | (model or {})},
                    "plans": {"p": plan or {}},
                    **others,
                }
            )
        path.write_text(content)
        return path

    return write


def faults(path):
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    text = str(caught.value)
    assert all(line.startswith(f"{path}") for line in text.splitlines())
    return text


def test_the_repositorys_own_file_is_a_catalog():
    """What `make up` runs on."""
    catalog = load(ROOT / "tollhouse.yaml").catalog()

    assert ["tiny-chat"] == list(catalog.models)
    assert {"demo"} == catalog.plans.keys()


def test_turns_sections_into_values(write):
    """Defaults are written out once, here."""
    catalog = load(
        write(
            model={"provider": "openai", "weights": {"output": 3}},
            plan={"key": {"concurrent": 2}, "burst_seconds": 5},
        )
    ).catalog()

    model, plan = catalog.models["m"], catalog.plans["p"]
    assert Weights(input=1, cached_input=0, output=3) == model.weights
    assert (Provider.OPENAI, False) == (model.provider, model.inject_default)
    assert frozenset({Operation.CHAT}) == model.operations
    assert Allowance(concurrent=2, burst_seconds=5.0) == plan.key
    assert Allowance(burst_seconds=5.0) == plan.tenant_model


def test_the_repositorys_own_file_shows_what_works(tmp_path):
    """Each line that is commented out is right once it is not."""
    text = (ROOT / "tollhouse.yaml").read_text()
    shown = re.sub(r"(?m)^#(?=  |[a-z])", "", text)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    path = tmp_path / "tollhouse.yaml"
    path.write_text(shown)
    catalog = load(path).catalog()

    assert catalog.plans["metered"] == Plan(
        "metered",
        key=Allowance(
            requests_per_minute=60, units_per_minute=60_000, burst_seconds=30.0
        ),
        tenant=Allowance(
            concurrent=16, units_per_day=5_000_000, money_per_month=250 * MONEY
        ),
        tenant_model=Allowance(units_per_minute=120_000, shadow=True),
        policy=Policy.STRICT,
        redis_down=RedisDown.DENY,
        priority=3,
    )
    model = catalog.models["tiny-chat"]
    assert model.limits == Allowance(units_per_minute=20_000_000, burst_seconds=5.0)
    assert (model.capacity, model.hold_seconds) == (100_000, 0.5)
    assert model.tokenizer is not None
    assert model.tokenizer.samefile(ROOT / "deploy/engine/release/tokenizer.json")
    assert catalog.issuers["keycloak"].audiences == {"tollhouse"}
    assert catalog.limits == Allowance(concurrent=4000)
    assert catalog.telemetry == Telemetry()  # what it shows is what holds without it


def test_limits_of_every_scope(write):
    """A section's burst goes before its plan's; money is exact."""
    catalog = load(
        write(
            model={
                "prices": PRICES,
                "limits": {"units_per_month": 9, "burst_seconds": 3},
            },
            plan={
                "key": {"requests_per_minute": 1, "burst_seconds": 2},
                "tenant": {"money_per_day": 12.5, "money_per_month": 900_000},
                "tenant_model": {"shadow": True},
                "burst_seconds": 4,
            },
            limits={"units_per_day": 8},
        )
    ).catalog()

    assert {path: allowance for path, allowance, _ in places(catalog)} == {
        "plans.p.key": Allowance(requests_per_minute=1, burst_seconds=2.0),
        "plans.p.tenant": Allowance(
            money_per_day=125_000_000_000,
            money_per_month=900_000 * MONEY,
            burst_seconds=4.0,
        ),
        "plans.p.tenant_model": Allowance(burst_seconds=4.0, shadow=True),
        "models.m.limits": Allowance(units_per_month=9, burst_seconds=3.0),
        "limits": Allowance(units_per_day=8),
    }
    assert catalog.models["m"].prices == Prices(1500, 0, 6001)
    assert 900_000 * MONEY < 2**53  # Redis' scripts count in doubles


@given(st.decimals(0, 10_000, places=4))
def test_prices_are_exact(price):
    """What a million tokens cost is the price, to the last digit."""
    section = PricesSection(input=price, cached_input=price, output=price)
    per_token = section.prices().output

    assert per_token * 1_000_000 == to_money(price)


def test_a_tokenizer_is_found_from_the_file(write, tmp_path):
    """Relative to tollhouse.yaml, not to where a process was started."""
    (tmp_path / "tok.json").write_text("{}")
    model = load(write(model={"tokenizer": "tok.json"})).catalog().models["m"]

    assert model.tokenizer == tmp_path / "tok.json"


def test_which_traces_are_kept(write):
    """A YAML `yes` is no share, and no policy but the two is one."""
    kept = {"traceparent": "trust", "sample_ratio": 1, "slow_seconds": 2.5}
    told = load(write(telemetry=kept)).catalog().telemetry
    assert told == Telemetry(Traceparent.TRUST, 1.0, 2.5)

    for wrong in (
        {"sample_ratio": 1.01},
        {"sample_ratio": True},
        {"slow_seconds": 0},
        {"traceparent": "yes"},
    ):
        (field,) = wrong
        assert f"telemetry.{field}: Input should be" in faults(write(telemetry=wrong))


def test_survives_being_written_again(write, tmp_path):
    """`tollhouse up --backend` writes a changed copy elsewhere."""
    (tmp_path / "tok.json").write_text("{}")
    first = load(
        write(
            model={"prices": PRICES, "tokenizer": "tok.json"},
            plan={"tenant": {"money_per_day": 0.0001}, "policy": "strict"},
        )
    )
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "tollhouse.yaml"
    copy.write_text(to_yaml(first))

    assert load(copy) == first


@pytest.mark.parametrize(
    ("model", "plan", "said"),
    [
        ({"contxt": 5}, {}, "models.m.contxt: unknown field; did you mean `context`?"),
        ({"zzz": 5}, {}, "models.m.zzz: unknown field; known: cluster"),
        ({"weights": {"inputs": 1}}, {}, "models.m.weights.inputs: unknown field; did"),
        ({}, {"key": {"concurrnt": 1}}, "plans.p.key.concurrnt: unknown field; did"),
        ({"context": 0}, {}, "models.m.context"),
        ({"context": "many"}, {}, "models.m.context"),
        ({"operations": ["sing"]}, {}, "models.m.operations"),
        ({"operations": []}, {}, "models.m.operations"),
        ({"default_output_tokens": 51}, {}, "default_output_tokens is above"),
        ({"max_output_tokens": 101}, {}, "max_output_tokens is above context"),
        ({"cluster": "a b"}, {}, "models.m.cluster"),
        ({"bytes_per_token": 1e-310}, {}, "models.m.bytes_per_token"),
        ({}, {"burst_seconds": 0}, "plans.p.burst_seconds"),
        ({}, {"key": {"burst_seconds": 1e-310}}, "plans.p.key.burst_seconds"),
        ({}, {"tenat": {}}, "plans.p.tenat: unknown field; did you mean `tenant`?"),
        ({"limits": {"concurent": 1}}, {}, "limits.concurent: unknown field; did you"),
        ({"prices": {"inptu": 1}}, {}, "models.m.prices.inptu: unknown field; did you"),
        ({"prices": {"input": 1}}, {}, "models.m.prices.output: Field required"),
        ({"prices": PRICES | {"input": 0.00001}}, {}, "no more than 4 decimal places"),
        ({"prices": PRICES | {"input": -1}}, {}, "models.m.prices.input"),
        ({"prices": PRICES | {"input": float("nan")}}, {}, "models.m.prices.input"),
        ({"hold_seconds": 5.1}, {}, "models.m.hold_seconds"),
        ({"capacity": 0}, {}, "models.m.capacity"),
        ({"tokenizer": "none.json"}, {}, "models.m.tokenizer: no file /"),
        ({}, {"key": {"concurrent": 0}}, "plans.p.key.concurrent"),
        ({}, {"key": {"concurrent": True}}, "plans.p.key.concurrent"),
        ({}, {"key": {"concurrent": 1.5}}, "plans.p.key.concurrent"),
        ({}, {"key": {"shadow": "perhaps"}}, "plans.p.key.shadow"),
        ({}, {"tenant": {"money_per_day": 900_001}}, "plans.p.tenant.money_per_day"),
        ({}, {"tenant": {"money_per_day": 0}}, "plans.p.tenant.money_per_day"),
        ({}, {"policy": "lax"}, "plans.p.policy: Input should be 'learned' or 'stri"),
        ({}, {"redis_down": "open"}, "plans.p.redis_down: Input should be 'degrade'"),
        ({}, {"priority": 0}, "plans.p.priority"),
        ({}, {"priority": 1001}, "plans.p.priority"),
        (
            {},
            {"tenant": {"money_per_day": 5}},
            "plans.p.tenant.money_per_day: money is counted by prices; set models.m.pr",
        ),
        (
            {"limits": {"money_per_month": 5}},
            {},
            "models.m.limits.money_per_month: money is counted by prices; set",
        ),
        (
            {},
            {"key": {"units_per_minute": 10**12}},
            "exactly with burst_seconds 10; use 900_719_925_474 or less",
        ),
    ],
)
def test_names_what_is_wrong_and_where(write, model, plan, said):
    """An operator must find the line and the remedy."""
    assert said in faults(write(model=model, plan=plan))


def test_reports_all_faults_at_once(write):
    """One edit, not one per start."""
    text = faults(write(model={"context": 0, "zzz": 1}, plan={"burst_seconds": 0}))

    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "needs a mapping"),
        ("- a", "needs a mapping"),
        ("a: [", ":1: "),
        ("models:\n  m: {}\n  m: {}\n", ":3: `m` is given twice"),
        ("plans: {p: {}}", "models"),
        ("a: 1\n? [b]\n: 1\n", ":2: a key must be plain text"),
        ("a: 2020-99-99\n", "month must be in 1..12"),
        ("a: " + "[" * 5000, "recursion"),
        ("#" * 1_000_001, "is larger than 1_000_000 bytes"),
        (MERGES, ":15: too much is merged"),
    ],
)
def test_refuses_what_is_no_configuration(write, content, said):
    """With the line, where YAML knows it."""
    assert said in faults(write(content))


def test_says_when_the_file_is_no_text(tmp_path):
    """Not a traceback."""
    path = tmp_path / "tollhouse.yaml"
    path.write_bytes(b"models: \xff")

    assert "is not UTF-8 text" in faults(path)


def test_does_not_wait_for_a_pipe(tmp_path):
    """Whoever follows the file would follow it no more."""
    path = tmp_path / "tollhouse.yaml"
    os.mkfifo(path)

    assert "is no file but a pipe" in faults(path)
    assert "Is a directory" in faults(tmp_path)


def test_says_when_the_file_is_missing(tmp_path):
    """By its path."""
    assert "No such file" in faults(tmp_path / "none.yaml")


def test_money_needs_the_prices_of_the_models_it_counts(write):
    """A budget of all models names each that has none."""
    models = {"a": MODEL, "b": MODEL | {"prices": PRICES}, "c": MODEL}
    models["b"]["limits"] = {"money_per_day": 1}
    text = faults(
        write(
            yaml.safe_dump(
                {"models": models, "plans": {"p": {}}, "limits": {"money_per_day": 1}}
            )
        )
    )

    assert text.endswith(
        ": limits.money_per_day: money is counted by prices; "
        "set models.a.prices and models.c.prices"
    )
    assert len(text.splitlines()) == 1


FOREIGN = {"provider": "openai", "server": "vllm", "backend_model": "/models/llama 8b"}


def test_a_foreign_model_says_whose_it_is_and_how_it_is_called_there(write):
    """Names of its server's may be paths; other is who is not named."""
    other = MODEL | {"cluster": "d", "provider": "openai"}
    models = {"m": MODEL | FOREIGN | {"fallback": ["o"]}, "o": other}
    path = write(yaml.safe_dump({"models": models, "plans": {"p": {}}}))

    catalog = load(path).catalog()
    model = catalog.models["m"]
    assert (Server.VLLM, "/models/llama 8b") == (model.server, model.backend_model)
    assert ("o",) == model.fallback
    assert Server.OTHER is catalog.models["o"].server


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"operations": ["infer"]}, "operation infer needs triton"),
        ({"operations": ["embeddings"]}, "models.m: provider triton does not serve"),
        (
            {"triton": {"grpc": "g", "http": "h", "flow": "llmapi"}},
            "models.m.triton.flow: unknown field",
        ),
        ({"server": "vllm"}, "server is of use with provider: openai only"),
        ({"backend_model": "x"}, "backend_model is of use with provider: openai only"),
        (
            {"provider": "openai", "server": "llama.cpp"},
            "models.m.server: Input should",
        ),
        (FOREIGN | {"backend_model": "a\nb"}, "models.m.backend_model: String should"),
        (
            FOREIGN | {"server": "triton-openai", "operations": ["chat", "responses"]},
            "triton-openai does not serve responses",
        ),
        ({"fallback": ["n"]}, "models.m.fallback: there is no model n; known: m"),
        ({"fallback": ["m"]}, "models.m.fallback: m is on the same cluster"),
    ],
)
def test_refuses_foreign_models_that_can_not_be(write, model, said):
    """At the start, not at the first request."""
    assert said in faults(write(model=model))
