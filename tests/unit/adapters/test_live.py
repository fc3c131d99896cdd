"""Following tollhouse.yaml: real edits of real files, good and bad ones."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from tollhouse.adapters.configuration import ConfigurationError
from tollhouse.adapters.live import Live

LOOK_SECONDS = 0.02
MODEL = {
    "cluster": "c",
    "operations": ["chat"],
    "context": 100,
    "default_output_tokens": 10,
    "max_output_tokens": 50,
}


def text(*models: str, concurrent: int = 1, plans=("p",), **others) -> str:
    return yaml.safe_dump(
        {
            "models": dict.fromkeys(models or ("m",), MODEL),
            "plans": {name: {"key": {"concurrent": concurrent}} for name in plans},
            **others,
        }
    )


@pytest.fixture
def path(tmp_path) -> Path:
    path: Path = tmp_path / "tollhouse.yaml"
    path.write_text(text())
    return path


@contextlib.asynccontextmanager
async def following(path: Path, **settings):
    """Follow a file; also what is logged meanwhile."""
    with capture_logs() as logs:
        live = Live(path, interval_seconds=LOOK_SECONDS, **settings)
        task = asyncio.create_task(live.run())
        try:
            yield live, logs
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def logged(logs, count: int):
    """Wait for a number of events; the last one."""
    deadline = time.monotonic() + 30
    while len(logs) < count:
        assert time.monotonic() < deadline, logs
        await asyncio.sleep(LOOK_SECONDS / 2)
    assert len(logs) == count
    return logs[-1]


async def looks(count: int = 6) -> None:
    """Let it look some times, whether or not there is something to see."""
    await asyncio.sleep(count * LOOK_SECONDS)


async def test_an_edit_is_taken_over(path):
    """With the names of what changed; nothing is said of a file that stays."""
    async with following(path) as (live, logs):
        before = live.catalog
        await looks()
        assert logs == []
        path.write_text(
            text("m", "n", concurrent=2, plans=("p", "q"), limits={"concurrent": 9})
        )

        assert await logged(logs, 1) == {
            "event": "config.reloaded",
            "log_level": "info",
            "models_added": ["n"],
            "plans_added": ["q"],
            "plans_changed": ["p"],
            "limits_changed": True,
        }
        assert live.catalog.plans["p"].key.concurrent == 2
        assert before.plans["p"].key.concurrent == 1  # of who began with it
        path.write_text(text("n", plans=("q",)))

        assert await logged(logs, 2) == {
            "event": "config.reloaded",
            "log_level": "info",
            "models_removed": ["m"],
            "plans_removed": ["p"],
            "plans_changed": ["q"],
            "limits_changed": True,
        }
        assert before.models.keys() == {"m"}


async def test_a_changed_model_is_named(path):
    """Any of its fields."""
    async with following(path) as (live, logs):
        path.write_text(text().replace("context: 100", "context: 200"))

        assert (await logged(logs, 1))["models_changed"] == ["m"]
        assert live.catalog.models["m"].context == 200


async def test_changed_issuers_are_named(path):
    """A change of nothing else is one: whoever is trusted no more is out."""
    issuer = {
        "issuer": "https://a",
        "audiences": ["x"],
        "jwks_uri": "https://a/keys",
        "tenant": {"name": "acme"},
        "scopes": {"grant": ["chat:write"]},
    }
    async with following(path) as (live, logs):
        path.write_text(text(issuers={"a": issuer, "b": issuer | {"issuer": "b"}}))
        assert (await logged(logs, 1))["issuers_added"] == ["a", "b"]
        path.write_text(text(issuers={"a": issuer | {"audiences": ["y"]}}))
        told = await logged(logs, 2)
        assert (told["issuers_changed"], told["issuers_removed"]) == (["a"], ["b"])
        assert live.catalog.issuers["a"].audiences == {"y"}


async def test_the_same_again_is_no_change(path):
    """Written anew, with a comment or touched: nothing happens."""
    async with following(path) as (live, logs):
        before = live.catalog
        for again in (text(), "# a comment\n" + text(), text()):
            path.write_text(again)
            await looks()
        path.touch()
        await looks()

        assert live.catalog is before
        assert logs == []


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("models: [", ":1: "),
        (text().replace("context: 100", "context: none"), "models.m.context"),
        (text() + "plan: {}\n", "plan: unknown field; did you mean `plans`?"),
        ("when: 2020-99-99\n", "month must be in 1..12"),
        ("", "needs a mapping"),
        (None, "No such file"),
    ],
)
async def test_a_fault_changes_nothing(path, broken, fault):
    """The last good catalog stays; said once, and again when it is mended."""
    async with following(path) as (live, logs):
        before = live.catalog
        if broken is None:
            path.unlink()
        else:
            path.write_text(broken)
        refused = await logged(logs, 1)
        assert (refused["event"], refused["log_level"]) == ("config.refused", "error")
        assert any(fault in line for line in refused["faults"])
        if broken is not None:
            path.touch()
        await looks()
        assert len(logs) == 1
        assert live.catalog is before
        path.write_text(text())

        assert await logged(logs, 2) == {
            "event": "config.reloaded",
            "log_level": "info",
        }
        path.write_text(text(concurrent=3))
        await logged(logs, 3)
        assert live.catalog.plans["p"].key.concurrent == 3


async def test_another_fault_is_said_too(path):
    """Each content once; the same one is said again after it was mended."""
    async with following(path) as (_, logs):
        for count, content in enumerate(["a: [", "a: {}", "a: ["], start=1):
            path.write_text(content)
            assert (await logged(logs, count))["event"] == "config.refused"
        path.write_text(text())
        assert (await logged(logs, 4))["event"] == "config.reloaded"
        path.write_text("a: [")
        assert (await logged(logs, 5))["event"] == "config.refused"


@pytest.mark.timed
async def test_half_a_file_is_not_the_whole(path):
    """What is being written is left alone, also where it would be a valid file."""
    whole = text(*(f"m{number}" for number in range(40)))
    # Plans first: every prefix that ends with a model is a file of its own.
    content = yaml.safe_load(whole)
    whole = yaml.safe_dump(dict(sorted(content.items(), reverse=True)), sort_keys=False)
    async with following(path) as (live, logs):
        with path.open("w") as file:
            for line in whole.splitlines(keepends=True):
                file.write(line)
                file.flush()
                await asyncio.sleep(LOOK_SECONDS / 10)
        reloaded = await logged(logs, 1)

        assert len(reloaded["models_added"]) == 40
        assert len(live.catalog.models) == 40


async def test_a_config_map_is_swapped(tmp_path):
    """As Kubernetes does it: the file is a link through a folder that is turned."""
    for number, value in enumerate((1, 2, 3)):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "tollhouse.yaml").write_text(text(concurrent=value))
    (tmp_path / "..data").symlink_to("..0")
    path = tmp_path / "tollhouse.yaml"
    path.symlink_to("..data/tollhouse.yaml")
    async with following(path) as (live, logs):
        for number in (1, 2):
            (tmp_path / "..data_tmp").symlink_to(f"..{number}")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            assert (await logged(logs, number))["plans_changed"] == ["p"]

            assert live.catalog.plans["p"].key.concurrent == number + 1


async def test_a_new_file_in_its_place(path, tmp_path):
    """As editors do it; a moment without any file is not worth a word."""
    async with following(path) as (live, logs):
        path.rename(tmp_path / "tollhouse.yaml~")
        new = tmp_path / "new"
        new.write_text(text(concurrent=5))
        new.rename(path)
        await logged(logs, 1)

        assert live.catalog.plans["p"].key.concurrent == 5


async def test_what_a_catalog_needs_is_made_ready_first(path):
    """And where it can't be, the catalog is not used."""
    prepared = []

    def prepare(catalog):
        prepared.append(catalog)
        if "bad" in catalog.models:
            raise ConfigurationError("models.bad: its tokenizer is broken")

    async with following(path, prepare=prepare) as (live, logs):
        assert prepared[0] is live.catalog
        path.write_text(text("bad"))
        refused = await logged(logs, 1)
        assert refused["faults"] == ["models.bad: its tokenizer is broken"]
        path.write_text(text("good"))
        await logged(logs, 2)

        assert prepared[-1] is live.catalog
        assert live.catalog.models.keys() == {"good"}


def test_starts_with_a_good_file_only(path):
    """A fault at start is the caller's to report."""
    path.write_text("models: [")
    with pytest.raises(ConfigurationError, match=r":1: "):
        Live(path)
