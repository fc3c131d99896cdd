"""The unmodified OpenAI client takes our answers, and our errors, for OpenAI's."""

from typing import Any

import openai
import pytest

from tests.e2e.frontend.calls import new_exchange
from tests.e2e.frontend.stack import Triton

ASK: dict[str, Any] = {
    "model": "tiny-chat",
    "messages": [{"role": "user", "content": "Hi"}],
}


async def test_streams_and_whole_answers(sdk: openai.AsyncOpenAI):
    """Both ways give the same text and usage."""
    whole = await sdk.chat.completions.create(**ASK, max_tokens=12, seed=1)
    text, usage = "", None
    async for chunk in await sdk.chat.completions.create(
        **ASK,
        max_tokens=12,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""

    assert text == whole.choices[0].message.content
    assert usage == whole.usage
    assert "tiny-chat" in [model.id async for model in sdk.models.list()]


async def test_leaving_a_stream(sdk: openai.AsyncOpenAI, triton: Triton):
    """Breaking out of the loop frees the engine."""
    exchange = new_exchange()
    stream = await sdk.chat.completions.create(
        **ASK,
        max_tokens=2000,
        stream=True,
        extra_headers={"x-tollhouse-exchange": exchange},
    )
    async with stream:
        async for _ in stream:
            break
    (truth,) = triton.truths(exchange)

    assert truth["outcome"] == "cancelled"


async def test_errors_are_typed(sdk: openai.AsyncOpenAI):
    """Each status arrives as the exception that users catch."""
    create: Any = sdk.with_options(max_retries=0).chat.completions.create
    with pytest.raises(openai.BadRequestError) as refused:
        await create(**ASK, max_tokens=5000)
    with pytest.raises(openai.NotFoundError):
        await create(**ASK | {"model": "nobody"})
    messages = [{"role": "user", "content": "sim_fault=midstream:2"}]
    with pytest.raises(openai.APIError) as broken:
        async for _ in await create(
            model="tiny-chat", messages=messages, max_tokens=9, stream=True
        ):
            pass

    assert refused.value.code == "context_length_exceeded"
    assert broken.value.code == "upstream_error"
