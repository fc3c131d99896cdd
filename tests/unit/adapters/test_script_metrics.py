"""What is measured of Redis' scripts."""

import pytest

from tests.measured import Measured
from tollhouse.adapters.redis.client import Script
from tollhouse.adapters.script_metrics import script_observer

SECOND_NS = 1_000_000_000


def test_times_and_failures_by_script():
    measured = Measured()
    observe = script_observer(measured.provider)
    assert observe is not None
    reserve, settle = (Script.load(f"{name}.lua") for name in ("reserve", "settle"))

    observe((reserve, ["key"], ["argument"]), 0, SECOND_NS // 4, "")
    observe((reserve, [], []), 0, SECOND_NS // 4, "ERR")
    observe((settle, [], []), SECOND_NS, 0, "")  # a clock that was put back

    assert {
        "tollhouse.script.duration": [
            ({"script": "reserve"}, pytest.approx(0.5)),
            ({"script": "settle"}, 0.0),
        ],
        "tollhouse.script.errors": [({"script": "reserve", "code": "ERR"}, 1)],
    } == measured.points()


def test_without_export_nobody_is_told():
    """Then a run of a script costs what it cost before."""
    assert script_observer(None) is None
