"""Any one process may be killed at any moment: nobody passes unjudged, nothing is lost.

Each case runs a load, kills one part with SIGKILL in its middle, lets `up` start it
again and compares the books once all is at rest.
"""

import asyncio
import os
import signal
import uuid
from collections import Counter

import pytest

from tests.e2e.main import books, load
from tests.e2e.main.conftest import PLANS, UNENDING
from tests.e2e.running_stack import running_stack, short_folder, write_config
from tollhouse.adapters.redis.billing_keys import BILLING_SHARDS
from tollhouse.core.usage import UsageKind

TENANT = "chaos"
KILL_AFTER_ANSWERS = 24
"""That have begun: some have ended, others are under way."""
LASTING_TOKENS = 1600
"""Of one that is under way then, however long that took: 8 s."""
REAPED_SECONDS = 60.0
"""Lease (20 s), a restart, the reaper's grace (10 s) and period (5 s), and slack."""


@pytest.fixture(scope="module")
def stack():
    """A stack of its own: its parts die."""
    with short_folder() as folder:
        config = write_config(folder / "main.yaml", plans=PLANS, engine=UNENDING)
        with running_stack(folder, config=config) as running:
            running.run("tenants", "create", TENANT, "--plan", "demo")
            yield running


@pytest.fixture(scope="module")
def api_key(stack):
    return stack.run("keys", "create", "--tenant", TENANT).strip()


def ravage(stack, api_key, part, seed):
    """Run a load, kill a part in it, and wait until it is back and all is settled."""

    async def run():
        begun = asyncio.Queue[None]()
        running = asyncio.create_task(
            load.mixed(
                stack.base_url,
                api_key,
                requests=60,
                concurrent=12,
                seed=seed,
                max_tokens=lambda chance: chance.randint(60, 200),
                lasting_tokens=LASTING_TOKENS,
                begun=begun,
            )
        )
        async with asyncio.timeout(60):
            for _ in range(KILL_AFTER_ANSWERS):
                await begun.get()
        os.kill(before, signal.SIGKILL)
        return await running

    pids = stack.pids
    before = pids[part]
    seen = asyncio.run(run())
    stack.wait_until_restarted(part, before)
    books.within(60.0, lambda: _answers(stack, api_key))
    books.rest(stack, REAPED_SECONDS)
    # Else two parts are away at once, and what each case says of its part is not asked.
    others = {name for name, pid in stack.pids.items() if pids[name] != pid} - {part}
    assert not others, stack.said
    return seen


def _answers(stack, api_key):
    again = load.mixed(stack.base_url, api_key, requests=1, concurrent=1, seed=0)
    return asyncio.run(again)[0].status == 200


def records(stack):
    """Ids of the records the aggregator has counted."""
    with books.connect(stack) as client:
        members = [
            uuid.UUID(bytes=member)
            for number in range(BILLING_SHARDS)
            for key in client.scan_iter(f"{{b{number}}}:seen:*")
            for member in client.smembers(key)
        ]
    return {str(member) for member in members if member.version == 7}  # 15: adjusts


def assert_books_agree(stack, seen):
    """What holds whatever died."""
    truth = books.truth(stack.state_dir)
    billed = books.settlements(stack.state_dir, TENANT)
    counted = records(stack)
    rows = books.usage(stack, TENANT)
    # No request reached the engine without admission: its id is one of ours, billed.
    assert truth.keys() <= counted
    # Every exchange whose end the ledger saw has its one record, and no record is
    # counted twice.
    assert billed.keys() <= counted
    mine = rows["final"] + rows["partial"] + rows["abandoned"]
    assert len(counted) == mine
    for one in seen:
        if one.end == "complete" and one.exchange in billed:
            record, generated = billed[one.exchange], truth[one.exchange]
            assert UsageKind.FINAL is record.kind
            assert (generated.input_tokens, generated.output_tokens) == (
                record.usage.input_tokens,
                record.usage.output_tokens,
            )
        # What is not our 503 or a 429 would be blamed on the client or the model.
        assert one.status in (0, 200, 429, 502, 503, 504), one
    for id_, generated in truth.items():
        if id_ in billed:
            assert billed[id_].usage.output_tokens <= generated.output_tokens


@pytest.mark.parametrize("part", ["authz", "extproc-0", "billing", "redis"])
def test_streams_outlive_what_only_judges_or_counts(stack, api_key, part):
    """After admission Envoy needs none of them, and usage is exact all the same."""
    seen = ravage(stack, api_key, part, seed=len(part))

    ends = Counter(one.end for one in seen)
    # But for one whose extproc dies in the milliseconds before it hangs up.
    lost = [one for one in seen if one.end in ("cut", "unreachable")]
    told = (lost, stack.said)
    assert {one.end for one in lost} <= {"cut"}, told
    assert len(lost) <= (part == "extproc-0"), told
    # 504: who stood still for longer than an admission may take.
    assert {503, 504} >= {one.status for one in seen if one.end == "refused"}
    assert ends["complete"] >= 12
    complete = {one.exchange for one in seen if one.end == "complete"}
    assert complete <= books.settlements(stack.state_dir, TENANT).keys()
    assert_books_agree(stack, seen)


@pytest.mark.parametrize("part", ["frontend", "triton"])
def test_a_dead_backend_ends_its_streams_visibly(stack, api_key, part):
    """Never a clean [DONE] after loss, and nobody pays for what did not come."""
    seen = ravage(stack, api_key, part, seed=7)

    cut = [one for one in seen if one.end == "cut"]
    assert cut
    assert not any(one.said_done for one in cut)
    assert_books_agree(stack, seen)
    billed = books.settlements(stack.state_dir, TENANT)
    for one in cut:
        if one.stream:
            assert UsageKind.PARTIAL is billed[one.exchange].kind


def test_an_envoy_that_dies_leaves_one_record_each(stack, api_key):
    """What it took with it is reaped at the last beat, and says so."""
    seen = ravage(stack, api_key, "envoy", seed=11)

    assert_books_agree(stack, seen)
    lost = {one.exchange for one in seen if one.end == "cut"}
    assert lost
    assert lost <= records(stack)
    assert books.usage(stack, TENANT)["abandoned"] >= len(
        lost - books.settlements(stack.state_dir, TENANT).keys()
    )
