"""Fixtures of the end-to-end tests: one running stack for all that only use it."""

from collections.abc import Iterator

import pytest

from tests.e2e.running_stack import RunningStack, running_stack, short_folder


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """One `tollhouse up` for the run; to kill parts of one, start it yourself.

    Its engine is fast, its demo key is on the plan `demo`.
    """
    with short_folder() as folder, running_stack(folder) as running:
        yield running
