"""A caller who leaves frees the engine at once, wherever the request is.

The bound is the promise of the design; the machine under the tests may stall for
longer than that, so one of three attempts must keep it. What never may happen is
asserted in every attempt.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.e2e.frontend.calls import CHAT, chat, new_exchange
from tests.e2e.frontend.stack import Frontend, Triton

BOUND_SECONDS = 0.2
ATTEMPTS = 3


async def _promptly(attempt: Callable[[], Awaitable[float]]) -> None:
    """Attempt it until the engine is free within the bound."""
    delays = []
    for _ in range(ATTEMPTS):
        delays.append(await attempt())
        if delays[-1] <= BOUND_SECONDS:
            return
    pytest.fail(f"the engine was free after {delays} seconds")


async def _leave_after(
    frontend: Frontend, body: dict[str, Any], exchange: str, events: int
) -> float:
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
    frontend: Frontend, body: dict[str, Any], exchange: str, seconds: float
) -> float:
    """Wait for nothing, then close the connection; return when that was."""
    async with frontend.client() as client:
        headers = {"x-tollhouse-exchange": exchange}
        with pytest.raises(httpx.ReadTimeout):
            await client.post(CHAT, json=body, headers=headers, timeout=seconds)
        return time.time()


@pytest.mark.parametrize("choices", [1, 2])
async def test_leaving_in_mid_stream(
    frontend: Frontend, triton: Triton, choices: int
) -> None:
    """The slots of all choices are free; what was generated is on record."""

    async def attempt() -> float:
        exchange = new_exchange()
        body = chat(stream=True, max_tokens=2000, n=choices)
        left_at = await _leave_after(frontend, body, exchange, 10)
        truths = triton.truths(exchange, count=choices)

        assert [truth["outcome"] for truth in truths] == ["cancelled"] * choices
        assert sum(truth["output_tokens"] for truth in truths) >= 9
        return max(truth["at"] for truth in truths) - left_at

    await _promptly(attempt)


async def test_leaving_an_answer_in_one_piece(
    frontend: Frontend, triton: Triton
) -> None:
    """An answer that is not streamed is cancelled in its middle as well."""

    async def attempt() -> float:
        exchange = new_exchange()
        body = chat(max_tokens=2000)
        left_at = await _leave_early(frontend, body, exchange, 0.3)
        (truth,) = triton.truths(exchange)

        assert truth["outcome"] == "cancelled"
        return float(truth["at"] - left_at)

    await _promptly(attempt)


@pytest.mark.parametrize("streaming", [True, False])
async def test_leaving_before_the_first_token(
    frontend: Frontend, triton: Triton, *, streaming: bool
) -> None:
    """During prefill nothing was sent yet, and still nothing is wasted."""

    async def attempt() -> float:
        exchange = new_exchange()
        body = chat(model="narrow", stream=streaming, max_tokens=100)
        left_at = await _leave_early(frontend, body, exchange, 0.2)
        (truth,) = triton.truths(exchange)

        assert (truth["outcome"], truth["output_tokens"]) == ("cancelled", 0)
        return float(truth["at"] - left_at)

    await _promptly(attempt)


@pytest.mark.parametrize("streaming", [True, False])
async def test_leaving_while_queued(
    frontend: Frontend, triton: Triton, *, streaming: bool
) -> None:
    """A request that waits for a slot never gets one after its caller left."""
    holding = new_exchange()
    body = chat(model="narrow", stream=True, max_tokens=4000)
    holder = asyncio.create_task(_leave_after(frontend, body, holding, 1000))
    await asyncio.sleep(0.1)

    async def attempt() -> float:
        exchange = new_exchange()
        body = chat(model="narrow", stream=streaming, max_tokens=50)
        left_at = await _leave_early(frontend, body, exchange, 0.3)
        (truth,) = triton.truths(exchange)

        assert (truth["outcome"], truth["output_tokens"]) == ("cancelled", 0)
        return float(truth["at"] - left_at)

    try:
        await _promptly(attempt)
    finally:
        holder.cancel()
        await asyncio.wait({holder})
    (truth,) = triton.truths(holding)

    assert truth["outcome"] == "cancelled"
