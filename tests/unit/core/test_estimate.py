"""What is reserved for a request before the model runs."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import examples
from tollhouse.core.buckets import GRAINS, Bucket, wait_ms
from tollhouse.core.catalog import Operation, Policy, Provider, Weights
from tollhouse.core.estimate import (
    IMAGE_TOKENS,
    LEAST_LEARNED_OUTPUT,
    MESSAGE_TOKENS,
    Estimate,
    estimate,
)
from tollhouse.core.experience import Cohort, Experience, Learned, Ratio
from tollhouse.core.forwarding import forwarded
from tollhouse.core.histogram import Histogram, Quantiles, bin_of
from tollhouse.core.limits import Limit, Measure, Scope
from tollhouse.core.request import parse

MODEL = examples.model()
BARE = replace(MODEL, provider=Provider.OPENAI, inject_default=False)
SHORT = replace(MODEL, default_output_tokens=64)
NONE = Experience()
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def chat(content="x" * 40, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return parse(Operation.CHAT, json.dumps(body | fields).encode())


def knowing(**learned):
    experience = Experience()
    experience.learn({Cohort("", "m"): Learned(**learned)})
    return experience


def outputs(high):
    return knowing(output=Quantiles(50, 1, high))


def expected(request, model=MODEL, experience=NONE, policy=Policy.LEARNED, **more):
    return estimate(request, model, "acme", policy, experience, **more)


class TestInput:
    def test_by_the_catalogs_ratio_until_another_is_learned(self):
        assert 10 + MESSAGE_TOKENS == expected(chat()).input_tokens

    def test_by_the_learned_ratio_and_a_margin_that_is_never_billed(self):
        """Who pays by estimate pays the mean; the reservation has to last."""
        texts = knowing(text=Ratio(50, 1000, 2000))
        answer = expected(chat(), experience=texts)
        units = answer.units(Weights(1, 0, 1)) - answer.output_tokens

        assert 20 + MESSAGE_TOKENS == answer.input_tokens
        assert 22 + MESSAGE_TOKENS == units

    @pytest.mark.parametrize(("ratio", "tokens"), [(0.1, 40), (1.5, 27), (60, 3)])
    def test_odd_texts_move_it_no_farther_than_a_bound(self, ratio, tokens):
        """Somebody's spaces, or emoji: all others' estimates came to follow them."""
        texts = knowing(text=Ratio(50, 1000, int(1000 * ratio)))

        found = expected(chat(), experience=texts).input_tokens
        assert tokens + MESSAGE_TOKENS == found

    def test_by_the_exact_count(self):
        """It replaces the text's part alone."""
        assert 7 + MESSAGE_TOKENS == expected(chat(), counted=7).input_tokens

    def test_never_beyond_the_context(self):
        assert 4096 == expected(chat("x" * 40_000)).input_tokens
        assert 4096 == expected(chat(), counted=5000).input_tokens
        texts = knowing(text=Ratio(50, 1000, 4000))
        answer = expected(chat("x" * 16_384), experience=texts)
        assert (4096, 0) == (answer.input_tokens, answer.margin)

    def test_framing_is_told_apart(self):
        """The learner takes it off again."""
        answer = expected(chat([{"type": "text", "text": "x" * 40}, IMAGE]), BARE)

        assert MESSAGE_TOKENS + IMAGE_TOKENS == answer.framing
        assert 10 + answer.framing == answer.input_tokens


class TestLearnedOutput:
    @pytest.mark.parametrize(
        ("fields", "model", "experience", "tokens"),
        [
            # Nothing learned: the catalog's default, capped by the client's cap.
            ({}, MODEL, NONE, 256),
            ({}, BARE, NONE, 256),
            ({"max_tokens": 1000}, MODEL, NONE, 256),
            ({"max_tokens": 100}, MODEL, NONE, 100),
            # Learned: the P90, capped by what the body may produce.
            ({}, MODEL, outputs(100), 100),
            ({}, MODEL, outputs(500), 256),
            ({}, BARE, outputs(500), 500),
            ({}, BARE, outputs(5000), 1024),
            ({"max_tokens": 1000}, MODEL, outputs(500), 500),
            # What others taught: four times the default at most.
            ({"max_tokens": 1000}, SHORT, outputs(500), 256),
            ({"max_tokens": 60}, MODEL, outputs(100), 60),
            # Whatever was learned, an answer costs something; its cap is the cap.
            ({}, MODEL, outputs(1), LEAST_LEARNED_OUTPUT),
            ({"max_tokens": 5}, MODEL, outputs(1), 5),
        ],
    )
    def test_is_the_least_of_cap_and_experience(
        self, fields, model, experience, tokens
    ):
        assert tokens == expected(chat(**fields), model, experience).output_tokens

    def test_counts_once_per_choice_and_the_prompt_once(self):
        answer = expected(chat(n=3), experience=outputs(100))

        assert (14, 300) == (answer.input_tokens, answer.output_tokens)


class TestStrictOutput:
    @pytest.mark.parametrize(
        ("fields", "model", "tokens"),
        [
            ({}, MODEL, 256),
            ({}, BARE, 1024),
            ({"max_tokens": 1000}, MODEL, 1000),
            ({"max_tokens": 1000, "max_completion_tokens": 5}, MODEL, 5),
            ({"max_tokens": 1000, "n": 2}, MODEL, 2000),
            ({}, replace(BARE, context=512), 512),
            ({"max_tokens": 1000}, replace(MODEL, context=512), 512),
        ],
    )
    def test_is_all_that_the_body_may_produce(self, fields, model, tokens):
        answer = expected(chat(**fields), model, outputs(40), Policy.STRICT)

        assert tokens == answer.output_tokens

    @given(
        st.none() | st.integers(1, 1024),
        st.integers(1, 16),
        st.booleans(),
        st.integers(0, 5000),
    )
    def test_covers_the_forwarded_body_and_is_never_below_learned(
        self, cap, choices, inject, high
    ):
        model = replace(MODEL, inject_default=inject)
        request = chat(n=choices, **({} if cap is None else {"max_tokens": cap}))
        body = json.loads(forwarded(request, model)[0])

        most = body.get("max_tokens", body.get("max_completion_tokens", 1024))
        strict = expected(request, model, outputs(high), Policy.STRICT).output_tokens
        learned = expected(request, model, outputs(high)).output_tokens

        assert most * choices == strict
        assert learned <= strict


def test_units_assume_nothing_to_be_cached():
    assert 10 * 2 + 20 * 5 == Estimate(10, 20, 4).units(Weights(2, 1, 5))


def test_a_cap_nobody_uses_up_leaves_room_for_others():
    """20 at once, max_tokens 200, real output 32, 1,000 units a minute: 18 fit.

    At weights 1:1, after 50 exchanges of another tenant on the same model.
    """
    history = Histogram()
    history.add({bin_of(32): 50}, {})
    experience = knowing(output=history.quantiles())
    request = chat("What is the capital of France? Be brief.", max_tokens=200)
    units = expected(request, experience=experience).units(Weights(1, 0, 1))
    bucket = Bucket.of(Limit(Scope.TENANT_MODEL, Measure.UNITS, 1000, burst=60.0))

    used = admitted = 0
    while admitted < 20 and not wait_ms(used, units * GRAINS, bucket):
        used += units * GRAINS
        admitted += 1

    assert admitted >= 18
