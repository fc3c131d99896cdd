"""The contract table against the tensors of the engine that speaks each contract."""

import re
from pathlib import Path

import pytest

from tollhouse.adapters.triton import Tensor
from tollhouse.cli.engine import engine_dir
from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.contract import CONTRACTS, Guide
from tollhouse.frontend.generation import fitting_max_tokens

_TENSOR = re.compile(
    r'(input|output) \[ \{ name: "(\w+)" data_type: TYPE_(\w+) dims: \[ (\S+)'
)
_DATATYPES = {"STRING": "BYTES"}


def declared(contract: str) -> dict[tuple[str, str], str]:
    """Return (direction, tensor) → datatype of a contract's model configuration."""
    file: Path = engine_dir() / "model" / f"{contract}.pbtxt"
    return {
        (direction, name): _DATATYPES.get(kind, kind)
        for direction, name, kind, _ in _TENSOR.findall(file.read_text())
    }


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_tensor_exists_with_its_type(name: str):
    """A wrong name or type would be a server error at the first request."""
    contract, tensors = CONTRACTS[name], declared(name)
    inputs = contract.tensors(
        prompt="p",
        max_tokens=1,
        stream=True,
        stops=["s"],
        sampling=dict.fromkeys(contract.sampling, 1),
    )

    assert {("input", tensor.name): tensor.datatype for tensor in inputs}.items() <= (
        tensors.items()
    )
    assert {("output", output) for output in contract.outputs} <= tensors.keys()


def test_the_ensemble_asks_for_what_its_defaults_withhold():
    """No echo of the prompt, and both counts: always."""
    inputs = CONTRACTS["ensemble"].tensors(
        prompt="p", max_tokens=5, stream=False, stops=[], sampling={"seed": 3}
    )

    assert inputs == [
        Tensor("text_input", "BYTES", ("p",)),
        Tensor("max_tokens", "INT32", (5,)),
        Tensor("stream", "BOOL", (False,)),
        Tensor("exclude_input_in_output", "BOOL", (True,)),
        Tensor("return_num_input_tokens", "BOOL", (True,)),
        Tensor("return_num_output_tokens", "BOOL", (True,)),
        Tensor("seed", "UINT64", (3,)),
    ]


@pytest.mark.parametrize(
    ("tensor", "packed"),
    [
        (Tensor("t", "BYTES", ("é", "")), b"\x02\0\0\0\xc3\xa9\0\0\0\0"),
        (Tensor("t", "BOOL", (True, False)), b"\x01\0"),
        (Tensor("t", "INT32", (-1,)), b"\xff\xff\xff\xff"),
        (Tensor("t", "UINT64", (1,)), b"\x01\0\0\0\0\0\0\0"),
        (Tensor("t", "FP32", (0.5,)), b"\0\0\0\x3f"),
    ],
)
def test_tensors_are_packed_as_triton_reads_them(tensor: Tensor, packed: bytes):
    """Little endian; strings with their length before them."""
    assert tensor.packed() == packed


@pytest.mark.parametrize(
    ("asked", "injected", "expected"),
    [
        (10, False, 10),
        (90, False, 90),
        (500, True, 90),
        (10, True, 10),
        (None, False, 90),
    ],
)
def test_output_cap(asked: int | None, expected: int, *, injected: bool):
    """A client's cap stays, a default gives way, no cap takes what is left."""
    cap = fitting_max_tokens(asked, injected=injected, input_tokens=10, context=100)

    assert cap == expected


@pytest.mark.parametrize(
    ("asked", "injected", "prompt"),
    [(91, False, 10), (1, False, 100), (1, True, 100), (None, False, 100)],
)
def test_output_cap_that_does_not_fit(
    asked: int | None, prompt: int, *, injected: bool
):
    """OpenAI's code for it, so that clients which shorten their history do so."""
    with pytest.raises(Problem) as caught:
        fitting_max_tokens(asked, injected=injected, input_tokens=prompt, context=100)

    assert caught.value.kind is Kind.CONTEXT_LENGTH


def test_a_schema_too_deep_to_write_is_refused_by_name():
    """Python has an end to it before Triton sees anything."""
    schema: object = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(Problem) as caught:
        Guide.of_schema(schema, "response_format")

    assert caught.value.param == "response_format"
