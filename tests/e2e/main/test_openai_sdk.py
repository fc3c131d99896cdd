"""An unmodified OpenAI client against the whole stack notices nothing."""

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Who keeps the toll?"}
]


@pytest.fixture(scope="module")
def client(stack):
    with OpenAI(base_url=stack.base_url, api_key=stack.api_key) as opened:
        yield opened


def ask(client, **options):
    return client.chat.completions.create(
        model="tiny-chat", messages=HELLO, **{"max_tokens": 12} | options
    )


def test_lists_the_models_of_the_key(client):
    """models.list shows what the key may use."""
    assert ["tiny-chat"] == [model.id for model in client.models.list()]


def test_completes_a_chat(client):
    """Text, a reason and counts that add up."""
    answer = ask(client)

    choice, usage = answer.choices[0], answer.usage
    assert ("assistant", "length") == (choice.message.role, choice.finish_reason)
    assert choice.message.content
    assert 12 == usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_completes_a_text(client):
    """The older API works alike."""
    answer = client.completions.create(
        model="tiny-chat", prompt="The road", max_tokens=5
    )

    assert answer.choices[0].text
    assert 5 == answer.usage.completion_tokens


@pytest.mark.parametrize("include", [None, False, True])
def test_streams(client, include):
    """The usage event comes exactly when it was asked for, and only at the end."""
    options = {} if include is None else {"stream_options": {"include_usage": include}}

    events = list(ask(client, stream=True, **options))

    text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    reasons = [e.choices[0].finish_reason for e in events if e.choices]
    assert text
    assert ["length"] == [reason for reason in reasons if reason]
    usages = [event.usage for event in events if event.usage]
    assert (1 if include else 0) == len(usages)
    if include:
        assert not events[-1].choices
        assert 12 == events[-1].usage.completion_tokens


def test_streams_the_text_it_answers(client):
    """A stream and an answer of the same seed are the same text."""
    whole = ask(client, seed=7).choices[0].message.content
    streamed = ask(client, seed=7, stream=True)

    assert whole == "".join(e.choices[0].delta.content or "" for e in streamed)


def test_can_leave_a_stream(client):
    """An early break closes the connection, and the next request works."""
    with ask(client, stream=True, max_tokens=500) as stream:
        for number, _ in enumerate(stream):
            if number == 3:
                break

    assert ask(client).choices[0].message.content


def test_an_unknown_key_is_401(stack):
    """The SDK raises its typed exception, with OpenAI's code."""
    with (
        OpenAI(base_url=stack.base_url, api_key="th_" + "a" * 12 + "_" + "B" * 43) as c,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        ask(c)

    assert "invalid_api_key" == caught.value.code
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")


def test_an_unknown_model_is_404(client):
    """As OpenAI says it."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-0", messages=HELLO)

    assert ("model_not_found", "model") == (caught.value.code, caught.value.param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_body": {"use_beam_search": True}}, "use_beam_search"),
    ],
)
def test_a_wrong_field_is_400_and_named(client, fields, param):
    """Whoever refuses it, ours or the frontend, the client sees which field."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)

    assert param == caught.value.param


def test_a_prompt_longer_than_the_context_is_400(client):
    """With OpenAI's code, which libraries look for."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="tiny-chat",
            messages=[{"role": "user", "content": "road " * 20_000}],
            max_tokens=10,
        )

    assert "context_length_exceeded" == caught.value.code


def first_refusal(client):
    """Ask until there is no room: while nobody could ask, some came back."""
    while True:
        try:
            ask(client, max_tokens=1)
        except openai.RateLimitError as error:
            return error


def test_over_the_limit_is_429_with_the_wait(stack, limited_key):
    """Which limit, whose, and when: and the SDK's own retry obeys it."""
    with OpenAI(base_url=stack.base_url, api_key=limited_key, max_retries=0) as c:
        ask(c, max_tokens=1)
        ask(c, max_tokens=1)
        refusal = first_refusal(c)

    assert "rate_limit_exceeded" == refusal.code
    assert "requests per minute of this API key" in refusal.message
    headers = refusal.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert "0" == headers["x-ratelimit-remaining-requests"]


def test_the_sdks_own_retry_succeeds(stack, limited_key):
    """A retry at the time we name is admitted."""
    with OpenAI(base_url=stack.base_url, api_key=limited_key, max_retries=2) as c:
        for _ in range(4):
            assert ask(c, max_tokens=1).choices


def test_says_what_is_left(stack, make_key):
    """x-ratelimit headers on success come from real state."""
    key = make_key("what-is-left", "roomy")
    with OpenAI(base_url=stack.base_url, api_key=key) as client:
        headers = client.chat.completions.with_raw_response.create(
            model="tiny-chat", messages=HELLO, max_tokens=1
        ).headers

    assert "1000000" == headers["x-ratelimit-limit-requests"]
    assert "10000" == headers["x-ratelimit-limit-tokens"]
    assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 60 * 10_000
    assert headers["x-tollhouse-exchange"]
    assert headers["x-request-id"]
