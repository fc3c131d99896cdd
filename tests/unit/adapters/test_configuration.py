"""tollhouse.yaml: refused whole, with path and remedy, or turned into a catalog."""

from pathlib import Path

import pytest
import yaml

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.core.catalog import Operation, Provider, Weights
from tollhouse.core.limits import Allowance

ROOT = Path(__file__).resolve().parents[3]
MODEL = {
    "cluster": "c",
    "operations": ["chat"],
    "context": 100,
    "default_output_tokens": 10,
    "max_output_tokens": 50,
}


@pytest.fixture
def write(tmp_path):
    """Write a configuration: text as it is, else a valid one with changes."""
    path = tmp_path / "tollhouse.yaml"

    def write(content=None, *, model=None, plan=None):
        if content is None:
            content = yaml.safe_dump(
                {"models": {"m": MODEL | (model or {})}, "plans": {"p": plan or {}}}
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
        ({}, {"burst_seconds": 0}, "plans.p.burst_seconds"),
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
    ],
)
def test_refuses_what_is_no_configuration(write, content, said):
    """With the line, where YAML knows it."""
    assert said in faults(write(content))


def test_says_when_the_file_is_missing(tmp_path):
    """By its path."""
    assert "No such file" in faults(tmp_path / "none.yaml")
