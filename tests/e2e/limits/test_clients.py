"""What the official SDK meets at a limit, through the whole stack."""

import asyncio
import json

import openai
import pytest
import yaml
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who?"}]
LENGTH = 32


def ask(client, **options):
    return client.chat.completions.create(
        model="tiny-chat", messages=HELLO, **{"max_tokens": 200} | options
    )


def opened(stack, key, **options):
    return AsyncOpenAI(
        base_url=stack.base_url, api_key=key, **{"max_retries": 0} | options
    )


async def gathered(stack, key, requests, **options):
    """Answers and errors of requests sent at once."""
    async with opened(stack, key, max_retries=options.pop("max_retries", 0)) as client:
        return await asyncio.gather(
            *(ask(client, **options) for _ in range(requests)), return_exceptions=True
        )


def admitted(answers):
    return [it for it in answers if not isinstance(it, BaseException)]


async def first_refusal(client, **options):
    """Ask until it is refused."""
    while True:
        try:
            await ask(client, **options)
        except openai.RateLimitError as error:
            return error


async def until(seconds, holds):
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110  # other processes decide
            await asyncio.sleep(0.1)


def last_reserved(stack):
    """Units that the latest admitted exchange reserved, as the ledger tells."""
    ledger = stack.state_dir / "ledger" / "ledger.jsonl"
    lines = map(json.loads, ledger.read_text().splitlines())
    facts = [json.loads(it["facts"]) for it in lines if it["facts"]]
    return facts[-1]["units"]


@pytest.fixture(scope="module")
def seed(stack):
    """A seed whose answer to HELLO ends by itself near 32 tokens."""
    key = stack.api_key
    with OpenAI(base_url=stack.base_url, api_key=key, max_retries=0) as client:
        for number in range(300):
            answer = ask(client, seed=number, max_tokens=LENGTH + 4)
            if LENGTH - 2 <= answer.usage.completion_tokens <= LENGTH + 2:
                assert "stop" == answer.choices[0].finish_reason
                return number
    raise AssertionError("no answer of that length")


@pytest.mark.timed
async def test_short_answers_fill_a_limit_that_their_caps_would_block(
    stack, make_key, seed
):
    """20 at once, 200 allowed, 32 used, 1,000 a minute: by their caps 4 would fit."""
    elsewhere, key = make_key("elsewhere", "roomy"), make_key("twenty", "thousand")
    for _ in range(5):
        primed = await gathered(stack, elsewhere, 10, seed=seed)
        assert 10 == len(admitted(primed))

    async def learned():
        await gathered(stack, elsewhere, 1, seed=seed)
        return last_reserved(stack) < 2 * LENGTH

    await until(30, learned)
    answers = await gathered(stack, key, 20, seed=seed)

    assert 18 <= len(admitted(answers))


@pytest.mark.timed
async def test_the_sdks_own_retries_find_the_room_they_were_told_of(stack, make_key):
    """24 at once where 4 may run: each refused one comes back when it is its turn."""
    key = make_key("own-retries", "four-at-once")
    answers = await gathered(stack, key, 24, max_tokens=100, max_retries=2)

    refusals = [it for it in answers if isinstance(it, BaseException)]
    assert all(isinstance(it, openai.RateLimitError) for it in refusals)
    assert len(refusals) <= 4, refusals[0]


async def test_a_budget_that_is_used_up_is_not_tried_again(stack, make_key):
    """insufficient_quota at once, in OpenAI's words; the SDK obeys x-should-retry."""
    key = make_key("daily-budget", "daily")
    async with opened(stack, key, max_retries=5) as client:
        await ask(client, max_tokens=250)
        refusal = await first_refusal(client, max_tokens=250)

    asked = refusal.response.request.headers
    told = refusal.response.headers
    assert "insufficient_quota" == refusal.type == refusal.code
    assert "false" == told["x-should-retry"]
    assert "retry-after" not in told
    assert "0" == asked["x-stainless-retry-count"]


async def test_what_can_never_fit_says_so(stack, make_key):
    """A request larger than the burst is refused for good, and no other."""
    key = make_key("never-fits", "small")
    async with opened(stack, key, max_retries=5) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(
                model="tiny-chat",
                messages=[{"role": "user", "content": "road " * 400}],
                max_tokens=10,
            )

    assert "request_too_large_for_limit" == caught.value.code
    body = caught.value.body
    assert isinstance(body, dict)
    assert {"scope": "tenant_model", "measure": "units"}.items() <= body[
        "limit"
    ].items()


async def test_every_judged_answer_tells_what_is_left(stack, make_key):
    """Admitted or refused, the headers are those of the real buckets."""
    key = make_key("what-is-left", "thousand")
    async with opened(stack, key) as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="tiny-chat", messages=HELLO, max_tokens=20
        )
        told = answer.headers
        refused = (await first_refusal(client)).response.headers

    assert "1000" == told["x-ratelimit-limit-tokens"]
    assert 900 <= int(told["x-ratelimit-remaining-tokens"]) < 1000
    assert "1000" == refused["x-ratelimit-limit-tokens"]
    assert int(refused["x-ratelimit-remaining-tokens"]) < 300
    assert refused["x-ratelimit-reset-tokens"].endswith("s")


async def test_overrides_hold_within_seconds_and_clear(stack, make_key):
    """A limit set for one tenant binds it alone, until it is cleared."""
    key, other = make_key("overridden", "roomy"), make_key("not-overridden", "roomy")
    tight = ("--requests-per-minute", "1", "--burst-seconds", "1")
    stack.run("limits", "set", "--tenant", "overridden", *tight)

    async def refused():
        (answer,) = await gathered(stack, key, 1, max_tokens=1)
        return isinstance(answer, openai.RateLimitError)

    await until(30, refused)
    assert 5 == len(admitted(await gathered(stack, other, 5, max_tokens=1)))
    stack.run("limits", "clear", "--tenant", "overridden")

    async def free():
        return not await refused()

    await until(30, free)


async def test_the_file_is_followed_and_a_fault_changes_nothing(
    stack, make_key, config
):
    """An edit holds within seconds, without a restart; a broken one does not."""
    key = make_key("followed", "changing")
    good = config.read_text()
    pids = stack.pids
    content = yaml.safe_load(good)
    content["plans"]["changing"]["tenant"] = {"requests_per_minute": 1}

    async def refused():
        (answer,) = await gathered(stack, key, 1, max_tokens=1)
        return isinstance(answer, openai.RateLimitError)

    assert not await refused()
    config.write_text(yaml.safe_dump(content))
    await until(30, refused)
    config.write_text("plans: [\n")
    await asyncio.sleep(3)
    assert await refused()
    config.write_text(good)

    async def free():
        return not await refused()

    await until(30, free)
    assert pids == stack.pids
