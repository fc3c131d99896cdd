"""A caller who leaves frees the engine at once, wherever the request is."""

import asyncio
import time

import httpx
import pytest

from tests.e2e.frontend.calls import CHAT, chat, new_exchange
from tests.e2e.frontend.stack import Frontend, Triton

BOUND_SECONDS = 0.2


async def _leave_after(frontend: Frontend, body: dict, exchange: str, events: int):
    """Read some events, then close the connection; return when that was."""
    async with frontend.client() as client:
        headers = {"x-tollhouse-exchange": exchange}
        async with client.stream("POST", CHAT, json=body, headers=headers) as answer:
            async for _ in answer.aiter_raw():
                events -= 1
                if events == 0:
                    break
        return time.time()


async def _leave_early(
    frontend: Frontend, body: dict, exchange: str, seconds: float
) -> float:
    """Wait for nothing, then close the connection; return when that was."""
    async with frontend.client() as client:
        headers = {"x-tollhouse-exchange": exchange}
        with pytest.raises(httpx.ReadTimeout):
            await client.post(CHAT, json=body, headers=headers, timeout=seconds)
        return time.time()


async def test_leaving_in_mid_stream(frontend: Frontend, triton: Triton):
    """The slot is free within the bound; what was generated is on record."""
    exchange = new_exchange()
    body = chat(model="tiny-chat", stream=True, max_tokens=2000)
    left_at = await _leave_after(frontend, body, exchange, 10)
    (truth,) = triton.truths(exchange)

    assert truth["outcome"] == "cancelled"
    assert truth["at"] - left_at <= BOUND_SECONDS
    assert 10 <= truth["output_tokens"] < 200


async def test_leaving_with_two_choices(frontend: Frontend, triton: Triton):
    """Every choice of a request ends with it."""
    exchange = new_exchange()
    body = chat(model="tiny-chat", stream=True, max_tokens=2000, n=2)
    left_at = await _leave_after(frontend, body, exchange, 10)
    truths = triton.truths(exchange, count=2)

    assert [truth["outcome"] for truth in truths] == ["cancelled"] * 2
    assert max(truth["at"] for truth in truths) - left_at <= BOUND_SECONDS


@pytest.mark.parametrize("streaming", [True, False])
async def test_leaving_before_the_first_token(
    frontend: Frontend, triton: Triton, *, streaming: bool
):
    """During prefill nothing was sent yet, and still nothing is wasted."""
    exchange = new_exchange()
    body = chat(model="narrow", stream=streaming, max_tokens=100)
    left_at = await _leave_early(frontend, body, exchange, 0.2)
    (truth,) = triton.truths(exchange)

    assert (truth["outcome"], truth["output_tokens"]) == ("cancelled", 0)
    assert truth["at"] - left_at <= BOUND_SECONDS


async def test_leaving_an_answer_in_one_piece(frontend: Frontend, triton: Triton):
    """An answer that is not streamed is cancelled in its middle as well."""
    exchange = new_exchange()
    body = chat(model="tiny-chat", max_tokens=2000)
    left_at = await _leave_early(frontend, body, exchange, 0.3)
    (truth,) = triton.truths(exchange)

    assert truth["outcome"] == "cancelled"
    assert truth["output_tokens"] > 0
    assert truth["at"] - left_at <= BOUND_SECONDS


@pytest.mark.parametrize("streaming", [True, False])
async def test_leaving_while_queued(
    frontend: Frontend, triton: Triton, *, streaming: bool
):
    """A request that waits for a slot never gets one after its caller left."""
    holding, queued = new_exchange(), new_exchange()
    body = chat(model="narrow", stream=True, max_tokens=150)
    holder = asyncio.create_task(_leave_after(frontend, body, holding, 60))
    await asyncio.sleep(0.6)
    body = chat(model="narrow", stream=streaming, max_tokens=50)
    left_at = await _leave_early(frontend, body, queued, 0.3)
    (truth,) = triton.truths(queued)
    holder_left_at = await holder

    assert (truth["outcome"], truth["output_tokens"]) == ("cancelled", 0)
    assert truth["at"] - left_at <= BOUND_SECONDS
    assert left_at < holder_left_at
