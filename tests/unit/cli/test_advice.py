"""check-config warns of what is valid and may not be meant."""

import pytest
import yaml

from tollhouse.adapters.configuration import load
from tollhouse.cli.__main__ import main
from tollhouse.cli.advice import advice
from tollhouse.cli.places import default_envoy, repository_root

# One default request takes 256 tokens at weight 5: 1,280 units.
MODEL = yaml.safe_load((repository_root() / "tollhouse.yaml").read_text())["models"][
    "tiny-chat"
]


@pytest.fixture
def advise(tmp_path):
    """Advice on a configuration of one model and one plan."""

    def advise(*, model=None, plan=None, **others) -> list[str]:
        models = {"tiny-chat": MODEL | (model or {})}
        path = tmp_path / "tollhouse.yaml"
        path.write_text(
            yaml.safe_dump({"models": models, "plans": {"p": plan or {}}} | others)
        )
        return list(advice(load(path).catalog()))

    return advise


def test_the_repositorys_file_needs_none():
    """What is shipped is meant as it is."""
    assert list(advice(load(repository_root() / "tollhouse.yaml").catalog())) == []


@pytest.mark.parametrize(
    ("changes", "place", "remedy"),
    [
        (
            {"plan": {"key": {"units_per_minute": 1000}}},
            "plans.p.key.units_per_minute: with burst_seconds 10 it admits 166 units",
            "takes 1_280; set burst_seconds to 77 or more",
        ),
        (
            {"plan": {"tenant": {"units_per_minute": 20}, "burst_seconds": 3600}},
            "plans.p.tenant.units_per_minute: with burst_seconds 3600 it admits 1_200",
            "takes 1_280; set 22 or more",
        ),
        (
            {"model": {"limits": {"units_per_minute": 7679}}},
            "models.tiny-chat.limits.units_per_minute: with burst_seconds 10 it admits",
            "one default request to tiny-chat takes 1_280; set burst_seconds to 11",
        ),
        (
            {"limits": {"units_per_minute": 1}},
            "limits.units_per_minute: with burst_seconds 10 it admits 0 units at once",
            "takes 1_280; set 7_680 or more",
        ),
        (
            {"model": {"capacity": 1279}},
            "models.tiny-chat.capacity: one default request takes 1_280 units",
            "set 1_280 or more",
        ),
        (
            {"model": {"hold_seconds": 1}},
            "models.tiny-chat.hold_seconds: nothing is held without a capacity",
            "set capacity",
        ),
        (
            {"plan": {"tenant_model": {"concurrent": 1, "shadow": True}}},
            "plans.p.tenant_model.shadow",
            "these limits are counted, never refused by",
        ),
    ],
)
def test_says_what_and_what_to_do(advise, changes, place, remedy):
    """One line, with its path."""
    (line,) = advise(**changes)

    assert line.startswith(place)
    assert remedy in line


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"limits": {"units_per_minute": 7680}}},
        {"model": {"capacity": 1280, "hold_seconds": 1}},
        {"plan": {"key": {"requests_per_minute": 1, "units_per_day": 1}}},
    ],
)
def test_says_nothing(advise, changes):
    """Where one default request just fits, or no bucket is asked for units."""
    assert advise(**changes) == []


@pytest.mark.parametrize("burst_seconds", [76, 77])
def test_the_remedy_works(advise, burst_seconds):
    """One second less and it is said again."""
    plan = {"key": {"units_per_minute": 1000, "burst_seconds": burst_seconds}}

    assert bool(advise(plan=plan)) == (burst_seconds < 77)


def test_warnings_are_no_faults(tmp_path, capsys):
    """On stderr, with the file; the status stays 0."""
    content = yaml.safe_load((repository_root() / "tollhouse.yaml").read_text())
    content["plans"]["demo"]["key"]["shadow"] = True
    path = tmp_path / "tollhouse.yaml"
    path.write_text(yaml.safe_dump(content))
    status = main(
        ["check-config", "--config", str(path), "--envoy", str(default_envoy())]
    )
    captured = capsys.readouterr()

    assert status == 0
    assert (
        f"warning: {path}: plans.demo.key.shadow: these limits are counted"
        in captured.err
    )
    assert "are fine" in captured.out
