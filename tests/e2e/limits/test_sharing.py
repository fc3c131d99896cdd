"""A model that everybody wants, through the whole stack."""

import asyncio

import openai
import pytest
import yaml
from openai import AsyncOpenAI

from tests.e2e.limits.test_clients import ask, opened

CAPACITY = 2400
"""Units in flight: two thirds of what the noisy tenant's clients ask at once, and have
before the file is followed; who finds twice the capacity is refused. A third of it,
should somebody of another test be there still, holds all that the quiet one asks, 10
times less than 50, however late they are settled."""


@pytest.fixture
def small_model(config):
    """Give the model a capacity, without a restart, for one test."""
    good = config.read_text()
    content = yaml.safe_load(good)
    content["models"]["tiny-chat"] |= {"capacity": CAPACITY, "hold_seconds": 0}
    config.write_text(yaml.safe_dump(content))
    yield
    config.write_text(good)


class Crowd:
    """Clients of one tenant that ask again as soon as they are answered."""

    def __init__(self) -> None:
        self.admitted = 0
        self.refusals = list[openai.RateLimitError]()

    async def ask(self, client: AsyncOpenAI, **options: object) -> None:
        try:
            await ask(client, **options)
            self.admitted += 1
        except openai.RateLimitError as error:
            self.refusals.append(error)

    async def press(self, client: AsyncOpenAI) -> None:
        while True:
            await self.ask(client, max_tokens=60)
            await asyncio.sleep(0.01)


@pytest.mark.timed
async def test_a_noisy_tenant_costs_a_quiet_one_no_refusal(
    stack, make_key, small_model
):
    """One fills the model with fifty clients, the other one below its share passes."""
    noisy_key, quiet_key = make_key("noisy", "strict"), make_key("quiet", "strict")
    noisy, quiet = Crowd(), Crowd()
    async with opened(stack, noisy_key) as loud, opened(stack, quiet_key) as low:
        crowd = [asyncio.create_task(noisy.press(loud)) for _ in range(50)]
        try:
            async with asyncio.timeout(30):
                while not noisy.refusals:  # noqa: ASYNC110  # the file is followed
                    await asyncio.sleep(0.1)
            before = noisy.admitted, len(noisy.refusals)
            for _ in range(10):
                await quiet.ask(low, max_tokens=10)
                await asyncio.sleep(0.3)  # now and then, as who is quiet does
        finally:
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)

    assert (10, []) == (quiet.admitted, quiet.refusals)
    # Meanwhile the noisy one had its part, and wanted more.
    assert before[0] < noisy.admitted
    assert before[1] < len(noisy.refusals)
    body = noisy.refusals[-1].body
    assert isinstance(body, dict)
    assert {"scope": "model", "measure": "capacity"} == body["limit"]
