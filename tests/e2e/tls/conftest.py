"""The fleet over mTLS, once for the tests of this folder."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.edge.backend import Backend, answer
from tests.e2e.running_stack import short_folder
from tests.e2e.tls.fleet import Fleet, running_fleet

ANSWER = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"tiny-chat","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"A road."},'
    b'"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
)


@pytest.fixture(scope="package")
def fleet() -> Iterator[Fleet]:
    with short_folder() as folder, running_fleet(folder) as running:
        yield running


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    """Answers every question with ten tokens."""
    made = Backend(usual=answer(ANSWER))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with short_folder() as short:
        yield short
