"""How a request becomes sampling parameters, and what can't be served."""

import dataclasses
import json
from typing import Any

import pytest

from tollhouse.adapters.tracing import Tracing
from tollhouse.adapters.triton import Inference, Patience, Triton
from tollhouse.cli.engine import release_dir
from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.chat_request import parse_chat, parse_completion
from tollhouse.frontend.contract import CONTRACTS
from tollhouse.frontend.generation import Model
from tollhouse.frontend.release import Release
from tollhouse.frontend.service import Prepared, Service
from tollhouse.frontend.trail import Trail

RELEASE = Release.open(release_dir())
UNTOLD = Trail(Tracing(), "")


class Recorded(Exception):
    """Raised where an answer would begin."""


class RecordingTriton(Triton):
    """Notes what would be sent; sends nothing."""

    def __init__(self) -> None:
        self.inferences: list[Inference] = []

    def infer(self, inference: Inference, patience: Patience) -> Any:
        """Note it."""
        del patience
        self.inferences.append(inference)
        raise Recorded


def service(contract: str = "ensemble", release: Release = RELEASE) -> Service:
    """A service with one model."""
    model = Model("m", "triton-m", CONTRACTS[contract], release, 4096, 0, "hermes")
    return Service({"m": model}, RecordingTriton(), Patience())


async def prepare(
    serving: Service, headers: dict[bytes, bytes] | None = None, **fields: Any
) -> Prepared:
    """Prepare a chat."""
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "messages": messages} | fields
    request = parse_chat(json.dumps(body).encode())
    return await serving.prepare(request, headers or {}, UNTOLD)


async def sent(
    contract: str = "ensemble",
    release: Release = RELEASE,
    headers: dict[bytes, bytes] | None = None,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Return the inputs of every choice, by tensor name."""
    serving = service(contract, release)
    prepared = await prepare(serving, headers, **fields)
    for choice in prepared.choices:
        with pytest.raises(Recorded):
            await anext(choice.pieces(serving.triton, Patience()))
    assert isinstance(serving.triton, RecordingTriton)
    return [
        {"id": inference.request_id}
        | {tensor.name: tensor.values for tensor in inference.inputs}
        for inference in serving.triton.inferences
    ]


async def test_defaults_are_openais_and_the_models():
    """top_p 1 where nobody says otherwise; the end token is the release's."""
    (inputs,) = await sent()

    assert inputs["top_p"] == (1.0,)
    assert inputs["end_id"] == (RELEASE.end_id,)
    assert "temperature" not in inputs
    assert "seed" not in inputs


async def test_the_client_goes_before_the_model():
    """The release's defaults give way to what the client says."""
    release = dataclasses.replace(RELEASE, defaults={"temperature": 0.6, "top_k": 5})
    (inputs,) = await sent(release=release, temperature=0.9)

    assert inputs["temperature"] == (0.9,)
    assert inputs["top_k"] == (5,)


async def test_temperature_zero_is_greedy():
    """A temperature of 0 is an error in some engines; top_k 1 is greedy in all."""
    (inputs,) = await sent(temperature=0)

    assert "temperature" not in inputs
    assert inputs["top_k"] == (1,)


async def test_choices_have_ids_and_seeds_of_their_own():
    """One Triton request each, under the exchange's id."""
    headers = {b"x-tollhouse-exchange": b"0190-ab"}
    inputs = await sent(headers=headers, n=3, seed=2**63 - 1)

    assert [each["id"] for each in inputs] == ["0190-ab", "0190-ab#1", "0190-ab#2"]
    assert [each["seed"] for each in inputs] == [(2**63 - 1,), (0,), (1,)]


async def test_a_strange_exchange_id_is_not_used():
    """It would end up in logs and in Triton."""
    (inputs,) = await sent(headers={b"x-tollhouse-exchange": b"a b\xff"})

    assert len(inputs["id"]) == 36


async def test_ignore_eos():
    """Nothing ends the text but max_tokens."""
    (inputs,) = await sent(ignore_eos=True)

    assert inputs["end_id"] == (-1,)


async def test_llmapi_streams_where_stop_strings_are():
    """Its engine gets no stop strings, so only a stream shows them in time."""
    (plain,) = await sent("llmapi")
    (stopping,) = await sent("llmapi", stop="x")

    assert plain["streaming"] == (False,)
    assert stopping["streaming"] == (True,)
    assert "sampling_param_stop" not in stopping


@pytest.mark.parametrize(
    ("name", "value"),
    [("ignore_eos", True), ("min_tokens", 1), ("repetition_penalty", 1)],
)
async def test_what_a_contract_has_not_is_refused_by_name(name: str, value: Any):
    """Llmapi has fewer parameters than the engine's own flows."""
    with pytest.raises(Problem) as caught:
        await prepare(service("llmapi"), None, **{name: value})

    assert caught.value.kind is Kind.UNSUPPORTED
    assert caught.value.param == name


async def test_messages_nested_too_deeply_are_the_clients_fault():
    """JSON that parses may still be too deep to make harmless."""
    deep: object = 1
    for _ in range(600):
        deep = {"a": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    with pytest.raises(Problem) as caught:
        await prepare(service(), tools=[tool])

    assert caught.value.kind is Kind.INVALID_REQUEST
    other = {"type": "function", "function": {"name": "g"}}
    with pytest.raises(Problem) as caught:
        await prepare(service(), tools=[tool, other], tool_choice="required")

    assert caught.value.param == "tools"


async def test_a_model_without_a_template_serves_no_chat():
    """A base model: completions only."""
    release = dataclasses.replace(RELEASE, chat_template=None)
    with pytest.raises(Problem) as caught:
        await prepare(service(release=release))
    completion = parse_completion(b'{"model":"m","prompt":"<|im_end|>"}')
    prepared = await service(release=release).prepare(completion, {}, UNTOLD)

    assert caught.value.kind is Kind.INVALID_REQUEST
    assert prepared.usage().input_tokens == 1  # a completion's prompt goes as it is


FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"a": 1}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"x": name}}}
    for name in "fg"
]


async def test_guides_reach_the_engine():
    """json_object is any object; a schema goes as the client wrote it."""
    (any_object,) = await sent(response_format={"type": "json_object"})
    (schema,) = await sent(response_format=FORMAT)
    (plain,) = await sent(response_format={"type": "text"})

    assert any_object["guided_decoding_guide_type"] == ("json",)
    assert "guided_decoding_guide" not in any_object
    assert schema["guided_decoding_guide_type"] == ("json_schema",)
    assert schema["guided_decoding_guide"] == ('{"a":1}',)
    assert "guided_decoding_guide_type" not in plain


async def test_a_call_that_is_due_is_guided():
    """A named function's arguments alone; of several, an object says which one."""
    named = {"type": "function", "function": {"name": "g"}}
    (one,) = await sent(tools=TOOLS, tool_choice=named, response_format=FORMAT)
    (any_one,) = await sent(tools=TOOLS, tool_choice="required")
    (free,) = await sent(tools=TOOLS)

    assert one["guided_decoding_guide"] == ('{"type":"object","x":"g"}',)
    schema = json.loads(any_one["guided_decoding_guide"][0])
    assert [it["properties"]["name"] for it in schema["anyOf"]] == [
        {"const": "f"},
        {"const": "g"},
    ]
    assert schema["$defs"]["f"] == {"type": "object", "x": "f"}
    assert "guided_decoding_guide_type" not in free


async def test_tools_are_in_the_prompt_unless_none_is_chosen():
    """What the model is not told of, it can't call."""
    (told,) = await sent(tools=TOOLS)
    (untold,) = await sent(tools=TOOLS, tool_choice="none", response_format=FORMAT)

    assert '"name": "f"' in told["text_input"][0]
    assert "<tools>" not in untold["text_input"][0]


@pytest.mark.parametrize(
    ("contract", "parser", "fields", "param"),
    [
        ("ensemble", None, {"tools": TOOLS}, "tools"),
        (
            "ensemble",
            "hermes",
            {"tools": TOOLS, "response_format": FORMAT},
            "response_format",
        ),
        ("llmapi", "hermes", {"response_format": FORMAT}, "response_format"),
        (
            "llmapi",
            "hermes",
            {"tools": TOOLS, "tool_choice": "required"},
            "tool_choice",
        ),
    ],
)
async def test_what_can_not_be_guided_is_refused_by_name(
    contract: str, parser: str | None, fields: dict[str, Any], param: str
):
    """No parser, no guide, or a guide that would keep the model from calling."""
    serving = service(contract)
    model = dataclasses.replace(serving.models["m"], tool_parser=parser)
    with pytest.raises(Problem) as caught:
        await prepare(Service({"m": model}, serving.triton, Patience()), None, **fields)

    assert caught.value.kind is Kind.UNSUPPORTED
    assert caught.value.param == param


async def test_control_tokens_in_tools_are_text():
    """A description is a client's text like any other."""
    tool = {"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}
    (inputs,) = await sent(tools=[tool])

    assert inputs["text_input"][0].count("<|im_end|>") == 2  # the template's own
