"""One short run of the crash proof: `make chaos` has the long ones."""

from tests.chaos.run import Plan, run
from tests.chaos.schedule import Deed, Shape, draw

SHAPE = Shape(requests=400, rate=50.0, gaps=(0.64, 1.28))
SEED = 2


def test_the_schedule_has_what_matters(tmp_path):
    """The run below means little if nobody dies who can lose something."""
    plan = Plan(SEED, SHAPE, tmp_path)
    blows = {(it.deed, it.part) for it in draw(SEED, plan.parts, SHAPE)}

    ambushed = {part for deed, part in blows if deed is Deed.AMBUSH}
    assert {"redis", "billing", "extproc-0"} <= ambushed
    assert {(Deed.KILL, "extproc-1"), (Deed.OUTAGE, "")} <= blows


async def test_nothing_is_lost_or_doubled(tmp_path):
    """What was done, and all logs, are in tmp_path."""
    result = await run(Plan(SEED, SHAPE, tmp_path / "run"), lambda _: None)

    assert [] == result.verdict.findings
    assert result.verdict.records >= 0.8 * SHAPE.requests
    assert result.verdict.exact >= 0.6 * SHAPE.requests
    assert result.kills >= 4
