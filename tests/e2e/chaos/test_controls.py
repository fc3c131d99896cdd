"""Mistakes that lose or double usage are noticed; without them the same is sound."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.controls import CONTROLS
from tests.e2e.chaos import reduced


@pytest.fixture(scope="module")
def verdicts():
    """Of a run without a mistake, and of one with each, all at once."""
    controls = (None, *CONTROLS)
    with ThreadPoolExecutor(len(controls)) as pool:
        found = pool.map(lambda it: asyncio.run(reduced.run(it)), controls)
        return dict(zip(controls, found, strict=True))


def test_every_blow_is_survived(verdicts):
    """Without a mistake nothing is found, or the next test would mean nothing."""
    verdict = verdicts[None]

    assert [] == verdict.findings
    assert reduced.EXCHANGES == verdict.exact == verdict.records


@pytest.mark.parametrize("control", CONTROLS)
def test_a_mistake_is_noticed(verdicts, control):
    """By the finding it must lead to, and not by any."""
    findings = verdicts[control].findings

    assert any(re.search(CONTROLS[control].sign, it) for it in findings), findings
