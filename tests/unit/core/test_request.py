"""What of an OpenAI body is read, refused and forwarded."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import examples
from tollhouse.core.catalog import Operation, Provider
from tollhouse.core.forwarding import fit, forwarded
from tollhouse.core.json_object import MAX_DEPTH, MAX_VALUES
from tollhouse.core.model_list import model_list
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.prompt_fields import MAX_MESSAGES
from tollhouse.core.request import MAX_CHOICES, parse

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

PIXEL = "data:image/png;base64,iVBORw0KGgo="


MODEL = examples.model()


def chat(**fields):
    return parse(Operation.CHAT, json.dumps(CHAT | fields).encode())


def refusal(body, operation=Operation.CHAT):
    with pytest.raises(Problem) as caught:
        parse(operation, body)
    assert 400 == caught.value.status
    return caught.value


def forward(request, **changes):
    body, injected = forwarded(request, examples.model(**changes))
    return json.loads(body), injected


class TestBody:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"not json",
            b"[]",
            b"null",
            b'"text"',
            b'{"model": "m"',
            b"\xff\xfe{}",
            '{"model":"m"}'.encode("utf-16"),
            b'\xef\xbb\xbf{"model": "m", "messages": []}',
            b'{"model": "m", "temperature": NaN}',
            b'{"model": "m", "temperature": Infinity}',
            b'{"model": "m", "x": [{"temperature": -Infinity}]}',
            b'{"model": "m", "temperature": 1e309}',
            b'{"model": "m", "x": [{"temperature": -1e999}]}',
            b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
            b'{"a":' * 100_000,
            b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
    )
    def test_refuses_what_is_not_one_json_object(self, body):
        """Whatever is not a plain JSON object is a 400, never a crash."""
        refusal(body)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"model": "m", "model": "n", "messages": []}',
            b'{"model": "m", "\\u006dodel": "n", "messages": []}',
            b'{"model": "m", "messages": [{"role": "user", "role": "tool"}]}',
            b'{"model": "m", "x": {"y": [{"z": 1, "z": 1}]}}',
        ],
    )
    def test_refuses_duplicate_keys_at_any_depth(self, body):
        """Parsers disagree which duplicate counts, so none may pass."""
        assert "twice" in refusal(body).message

    @pytest.mark.parametrize("value", ["[]", "{}", "0", '""', r'"\\"', r'"\""'])
    @pytest.mark.parametrize("times", [1, 3])
    def test_refuses_more_values_than_can_be_read_in_passing(self, value, times):
        """A body of millions would hold up every other admission for its second."""
        x = ",".join([value] * (times * MAX_VALUES + 1))
        body = json.dumps(CHAT)[:-1] + f', "x": [{x}]}}'

        assert "values" in refusal(body.encode()).message

    @pytest.mark.parametrize(("more", "refused"), [(0, False), (1, True)])
    @pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
    def test_refuses_what_is_nested_too_deeply(self, pair, more, refused):
        """The field is named; the top level is the first of the levels."""
        depth = MAX_DEPTH - 1 + more
        text = pair[0] * depth + "0" + pair[1] * depth
        if pair[0] == "[":
            text = text.replace("0", "")
        body = f'{json.dumps(CHAT)[:-1]}, "x": {text}}}'.encode()

        if refused:
            assert "x" == refusal(body).param
        else:
            parse(Operation.CHAT, body)

    @pytest.mark.parametrize("text", ["[{,", ',"', ",\\", ',\\"', '\\",'])
    def test_a_long_text_is_one_value(self, text):
        """Whatever its punctuation."""
        content = text * MAX_VALUES
        body = CHAT | {"messages": [{"role": "user", "content": content}]}

        request = parse(Operation.CHAT, json.dumps(body).encode())

        assert len(content) == request.text_bytes

    def test_keeps_unknown_fields_byte_for_byte(self):
        """What we don't know is the backend's business."""
        body = (
            b'{"model":"m","messages":[{"role":"user","content":"hi","x":1.50}],'
            b'"seed":12345678901234567890,"vendor":{"b":1e2,"a":[]}}'
        )

        sent, _ = forwarded(parse(Operation.CHAT, body), examples.model())

        assert b'"seed":12345678901234567890' in sent
        assert b'"vendor":{"b":1e2,"a":[]}' in sent
        assert b'"x":1.50' in sent

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
        st.sampled_from([*CHAT, "n", "stream", "stream_options", "max_tokens", "x"]),
    )
    def test_any_value_anywhere_is_judged_or_refused(self, value, field):
        """No JSON value in any field gets past the judgement by an exception."""
        body = msgspec.json.encode(CHAT | {field: value})

        try:
            request = parse(Operation.CHAT, body)
        except Problem as problem:
            assert 400 == problem.status  # noqa: PT017  # both ways are fine
        else:
            sent, _ = forward(request)
            assert (CHAT | {field: value}).get("messages") == sent["messages"]


class TestModel:
    @pytest.mark.parametrize("name", ["", "a b", "a\r\nb: c", "é", "x" * 129, 7, None])
    def test_refuses_a_name_that_is_none(self, name):
        """The name becomes header text and key text later: only plain ones pass."""
        assert "model" == refusal(json.dumps(CHAT | {"model": name}).encode()).param

    def test_refuses_an_operation_it_does_not_serve(self):
        """A completion sent to a chat model never reaches it."""
        only_text = examples.model(operations=frozenset({Operation.COMPLETIONS}))

        with pytest.raises(Problem):
            fit(chat(), only_text)

    def test_refuses_images_where_only_text_is_read(self):
        """What a Triton model would drop silently is refused."""
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
        request = chat(messages=[{"role": "user", "content": [part]}])

        assert 1 == request.images
        fit(request, examples.model(provider=Provider.OPENAI))
        with pytest.raises(Problem) as caught:
            fit(request, examples.model())
        assert "messages" == caught.value.param

    def test_refuses_a_cap_above_the_largest(self):
        """A cap that no backend could serve is named, with the field."""
        with pytest.raises(Problem) as caught:
            fit(chat(max_tokens=1025), examples.model())

        assert "max_tokens" == caught.value.param

    def test_lists_models_as_openai_does(self):
        """GET /v1/models is what SDKs parse."""
        listed = json.loads(model_list({"m": 7}))

        assert {
            "object": "list",
            "data": [
                {"id": "m", "object": "model", "created": 7, "owned_by": "tollhouse"}
            ],
        } == listed


class TestCaps:
    @pytest.mark.parametrize(
        "value", [0, -1, True, "5", 1.5, 5.0, [], {}, 2**31, 2**63, 2**70]
    )
    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
    def test_refuses_what_is_no_positive_count(self, field, value):
        """A cap that is read differently by the backend would unbalance the books."""
        assert field == refusal(json.dumps(CHAT | {field: value}).encode()).param

    def test_forwards_the_smaller_of_both_caps_alone(self):
        """Reserve and forward one value, or a backend picks the other one."""
        sent, injected = forward(chat(max_tokens=10, max_completion_tokens=1000))

        assert 10 == sent["max_completion_tokens"]
        assert "max_tokens" not in sent
        assert not injected

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_keeps_the_clients_cap_where_it_was(self, field):
        """A client's own cap is never changed."""
        sent, injected = forward(chat(**{field: 10}))

        assert 10 == sent[field]
        assert not injected

    def test_injects_the_default_and_says_so(self):
        """Without a cap the catalog's default goes in, marked."""
        sent, injected = forward(chat())

        assert 256 == sent["max_completion_tokens"]
        assert injected

    def test_leaves_a_foreign_backend_its_own_default(self):
        """An OpenAI backend without a cap decides itself."""
        sent, injected = forward(chat(), inject_default=False)

        assert "max_completion_tokens" not in sent
        assert not injected

    def test_best_of_counts_as_choices(self):
        """`best_of` generates all it ranks; what is generated is reserved."""
        body = json.dumps({"model": "m", "prompt": "x", "n": 1, "best_of": 5}).encode()

        assert 5 == parse(Operation.COMPLETIONS, body).choices

    def test_refuses_the_cap_that_completions_do_not_have(self):
        """A backend that ignores it would generate more than was reserved."""
        body = json.dumps({"model": "m", "prompt": "x", "max_completion_tokens": 5})

        problem = refusal(body.encode(), Operation.COMPLETIONS)

        assert "max_completion_tokens" == problem.param

    def test_bounds_the_choices(self):
        """One prompt may not fan out without bound."""
        refusal(json.dumps(CHAT | {"n": MAX_CHOICES + 1}).encode())

    @pytest.mark.parametrize("lever", ["use_beam_search", "min_tokens", "ignore_eos"])
    def test_refuses_cost_levers(self, lever):
        """A vendor's field that multiplies the cost is not forwarded unjudged."""
        assert lever == refusal(json.dumps(CHAT | {lever: 1}).encode()).param

    @pytest.mark.parametrize(
        "fields",
        [
            {"priority": 1},
            {"guided_whatever_comes": "x"},
            {"prompt_embeds": "AA"},
            {"echo": True},
        ],
    )
    def test_names_what_it_does_not_support(self, fields):
        """By a code of its own, so that a client can leave it out."""
        (name,) = fields
        problem = refusal(json.dumps(CHAT | fields).encode())

        assert (problem.param, problem.kind) == (name, Kind.UNSUPPORTED)

    @pytest.mark.parametrize(
        ("field", "fine", "wrong"),
        [
            ("top_logprobs", [None, 0, 20], [-1, 21, True, "5", 1.0]),
            ("logprobs", [None, True], [1, "true"]),
            (
                "logit_bias",
                [None, {"1": 5}],
                [[], dict.fromkeys(map(str, range(1025)), 1)],
            ),
            ("stop", ["a", ["a"] * 64], [["a"] * 65]),
            ("stop_token_ids", [[1]], [[1] * 65]),
        ],
    )
    def test_bounds_what_costs_for_every_token(self, field, fine, wrong):
        """What an engine does once per token of the output."""
        for value in fine:
            chat(**{field: value})
        for value in wrong:
            problem = refusal(json.dumps(CHAT | {field: value}).encode())
            assert field == problem.param

    def test_completions_take_a_number_of_logprobs(self):
        """Where a chat takes true."""
        body = {"model": "m", "prompt": "hi", "logprobs": 20}
        parse(Operation.COMPLETIONS, json.dumps(body).encode())
        body["logprobs"] = 21

        problem = refusal(json.dumps(body).encode(), Operation.COMPLETIONS)
        assert "logprobs" == problem.param


class TestUsage:
    @pytest.mark.parametrize(
        ("options", "wanted"),
        [(None, False), ({}, False), ({"include_usage": False}, False),
         ({"include_usage": True}, True)],
    )  # fmt: skip
    def test_asks_the_backend_always(self, options, wanted):
        """The meter needs the usage, whether the client wants to see it or not."""
        request = chat(stream=True, stream_options=options)
        sent, _ = forward(request)

        assert wanted == request.wants_usage
        assert True is sent["stream_options"]["include_usage"]

    def test_keeps_the_clients_other_stream_options(self):
        """Only include_usage is ours to set."""
        sent, _ = forward(chat(stream=True, stream_options={"x": [1]}))

        assert {"x": [1], "include_usage": True} == sent["stream_options"]

    def test_leaves_an_unstreamed_request_alone(self):
        """stream_options without a stream is an error at the backends."""
        sent, _ = forward(chat())

        assert "stream_options" not in sent

    @pytest.mark.parametrize(
        "fields",
        [
            {"stream_options": {"include_usage": True}},
            {"stream": True, "stream_options": []},
            {"stream": True, "stream_options": {"include_usage": 1}},
            {"stream": 1},
        ],
    )
    def test_refuses_odd_stream_fields(self, fields):
        """As OpenAI does."""
        refusal(json.dumps(CHAT | fields).encode())


class TestPrompt:
    @pytest.mark.parametrize(
        ("messages", "where"),
        [
            ([], "messages"),
            ("hi", "messages"),
            ([1], "messages[0]"),
            ([{"role": "robot", "content": "x"}], "messages[0].role"),
            ([{"role": ["user"], "content": "x"}], "messages[0].role"),
            ([{"role": "user"}], "messages[0].content"),
            ([{"role": "user", "content": 5}], "messages[0].content"),
            ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
            (
                [{"role": "user", "content": [{"type": "input_audio"}]}],
                "messages[0].content[0]",
            ),
            (
                [{"role": "user", "content": [{"type": "text", "text": 5}]}],
                "messages[0].content[0]",
            ),
            ([{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1), "messages"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, messages, where):
        """A client must find its mistake."""
        body = json.dumps({"model": "m", "messages": messages}).encode()

        assert where == refusal(body).param

    @pytest.mark.parametrize(
        "url",
        ["http://169.254.169.254/", "https://x/y.png", "file:///etc/passwd", "", None],
    )
    def test_refuses_urls_the_backend_would_fetch(self, url):
        """Server-side request forgery through an image is not on offer."""
        part = {"type": "image_url", "image_url": {"url": url}}
        body = CHAT | {"messages": [{"role": "user", "content": [part]}]}

        refusal(json.dumps(body).encode())

    @pytest.mark.parametrize(
        "part",
        [
            {"type": "text", "text": "a", "image_url": {"url": "http://h"}},
            {"type": "image_url", "image_url": {"url": PIXEL, "uri": "http://h"}},
            {"type": "image_url", "image_url": {"url": PIXEL}, "uuid": "other"},
        ],
    )
    def test_refuses_what_a_part_may_not_carry(self, part):
        """A backend may fetch what we did not look at."""
        message = {"role": "user", "content": [part]}
        problem = refusal(json.dumps(CHAT | {"messages": [message]}).encode())

        assert problem.param.startswith("messages[0].content[0]")

    @pytest.mark.parametrize(
        ("operation", "field"),
        [(Operation.CHAT, "prompt"), (Operation.COMPLETIONS, "messages")],
    )
    def test_refuses_the_prompt_of_the_other_operation(self, operation, field):
        """It would be forwarded, and not measured."""
        body = json.dumps(CHAT | {"prompt": "hi"}).encode()

        assert field == refusal(body, operation).param

    def test_measures_text_in_bytes(self):
        """Bytes, not characters, stand in for tokens."""
        parts = [{"type": "text", "text": "é"}, {"type": "text", "text": "日本"}]
        request = chat(
            messages=[
                {"role": "system", "content": "abc"},
                {"role": "user", "content": parts},
                {"role": "assistant", "content": None, "tool_calls": []},
                {"role": "assistant", "content": None, "refusal": "never"},
            ]
        )

        assert (4, 3 + 2 + 6 + 5) == (request.messages, request.text_bytes)

    def test_measures_tools_and_their_calls(self):
        """Both become prompt text, as JSON."""
        tool, call = {"type": "function"}, {"id": "1"}
        request = chat(
            tools=[tool],
            messages=[
                {"role": "user", "content": "hi"},
                {"role": "assistant", "tool_calls": [call]},
            ],
        )

        assert 2 + len('[{"type":"function"}]') + len('[{"id":"1"}]') == (
            request.text_bytes
        )

    @pytest.mark.parametrize("prompt", [None, 5, [], ["a", "b"], [1, 2], [[1]]])
    def test_takes_one_text_prompt(self, prompt):
        """Token arrays and batches are refused, not misread."""
        body = json.dumps({"model": "m", "prompt": prompt}).encode()

        assert "prompt" == refusal(body, Operation.COMPLETIONS).param
