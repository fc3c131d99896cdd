"""Every guard of envoy.yaml is needed: without it a row turns red."""

import asyncio

import pytest
import pytest_asyncio

from tests.e2e.attacks.guards import GUARDS, Guard
from tests.e2e.attacks.judge import faults
from tests.e2e.attacks.places import NO_GUARD, places
from tests.e2e.attacks.rig import Rig
from tests.e2e.attacks.table import TABLE

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(1200)]

_AT_ONCE = 2
"""Envoys that run at the same time."""
_ROWS = {row.id: row for row in TABLE}
_WITHIN_SECONDS = 4.0
"""A row that hangs without its guard is red after this."""


async def _red(rig: Rig, number: int, guard: Guard) -> list[str]:
    """Run the guard's rows without it; what they found."""
    rows = [_ROWS[it] for it in guard.rows]
    (variant,) = {row.variant for row in rows}
    found: list[str] = []
    async with rig.gateway(f"g{number}", guard.remove, variant) as gateway:
        for row in rows:
            found += await faults(row, gateway, within=_WITHIN_SECONDS)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def verdicts(rig) -> dict[str, list[str]]:
    """What the rows of each guard found without it."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def judge(number: int, guard: Guard) -> list[str]:
        async with room:
            return await _red(rig, number, guard)

    async with asyncio.TaskGroup() as group:
        tasks = {
            guard.place: group.create_task(judge(number, guard))
            for number, guard in enumerate(GUARDS)
        }
    return {place: task.result() for place, task in tasks.items()}


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.place)
async def test_a_row_turns_red_without_the_guard(verdicts, guard):
    """At least one attack gets somewhere, or is not answered as it should be."""
    assert verdicts[guard.place]


async def test_no_row_is_red_with_all_guards(gateways):
    """Else their redness would say nothing."""
    found: list[str] = []
    for it in sorted({it for guard in GUARDS for it in guard.rows}):
        gateway = gateways[_ROWS[it].variant]
        found += await faults(_ROWS[it], gateway, within=_WITHIN_SECONDS)

    assert [] == found


async def test_every_place_is_accounted_for(rig):
    """Whatever is added to envoy.yaml is a guard with rows, or said to be none."""
    found = set(places(rig.bootstrap()))
    guards = [guard.place for guard in GUARDS]
    at_their_default = {"manager.preserve_external_request_id"}

    assert len(set(guards)) == len(guards)
    assert found - set(guards) - NO_GUARD.keys() == set()
    assert set(guards) - found == at_their_default
    assert NO_GUARD.keys() - found == set()
