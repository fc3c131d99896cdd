"""How a request becomes sampling parameters, and what can't be served."""

import dataclasses
import json
from typing import Any

import pytest

from tollhouse.adapters.triton import Inference, Patience, Triton
from tollhouse.cli.engine import release_dir
from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.contract import CONTRACTS
from tollhouse.frontend.generation import Model
from tollhouse.frontend.release import Release
from tollhouse.frontend.requests import parse_chat, parse_completion
from tollhouse.frontend.service import Prepared, Service

RELEASE = Release.open(release_dir())


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
    model = Model("m", "triton-m", CONTRACTS[contract], release, 4096, 0)
    return Service({"m": model}, RecordingTriton(), Patience())


async def prepare(
    serving: Service, headers: dict[bytes, bytes] | None = None, **fields: Any
) -> Prepared:
    """Prepare a chat."""
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "messages": messages} | fields
    return await serving.prepare(parse_chat(json.dumps(body).encode()), headers or {})


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
    call = {"role": "assistant", "tool_calls": [deep]}
    with pytest.raises(Problem) as caught:
        await prepare(service(), messages=[call])

    assert caught.value.kind is Kind.INVALID_REQUEST
    assert caught.value.param == "messages"


async def test_a_model_without_a_template_serves_no_chat():
    """A base model: completions only."""
    release = dataclasses.replace(RELEASE, chat_template=None)
    with pytest.raises(Problem) as caught:
        await prepare(service(release=release))
    completion = parse_completion(b'{"model":"m","prompt":"<|im_end|>"}')
    prepared = await service(release=release).prepare(completion, {})

    assert caught.value.kind is Kind.INVALID_REQUEST
    assert prepared.usage().input_tokens == 1  # a completion's prompt goes as it is
