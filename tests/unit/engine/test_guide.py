"""Simulated guided decoding and calls: JSON that fits, or a refusal."""

import enum
import json
import random
import sys
from datetime import datetime
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from tests.unit.engine.load import engine_module

guide = engine_module("guide")


class Kind(enum.Enum):
    """As pydantic writes enums."""

    CART = "cart"
    COACH = "coach"


class Wheel(BaseModel):
    """Behind a $ref."""

    spokes: int = Field(ge=3, le=5)
    size: float | None = None
    made: datetime


class Node(BaseModel):
    """Refers to itself."""

    name: str = Field(min_length=2, max_length=6)
    children: list["Node"]
    next: "Node | None"


class Wagon(BaseModel):
    """A bit of everything."""

    kind: Kind
    wheels: list[Wheel] = Field(min_length=2, max_length=4)
    tree: Node
    pair: tuple[int, str]
    side: Literal["left", "right"]
    paid: bool
    tolls: dict[str, int]


def made(schema: Any, seed: int = 0) -> str:
    """Return the text of one answer."""
    text: str = guide.guided_text(
        "json_schema", json.dumps(schema), random.Random(seed)
    )
    return text


def test_what_is_made_fits():
    """Pydantic itself is the judge, whatever the seed."""
    schema = Wagon.model_json_schema()
    for seed in range(50):
        Wagon.model_validate_json(made(schema, seed))

    assert made(schema, 1) == made(schema, 1)
    assert made(schema, 1) != made(schema, 2)


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"const": 3}, {3}),
        ({"enum": ["a", None]}, {"a", None}),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 4}, {2, 3}),
        ({"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 14}, {5, 10}),
        ({"type": "integer", "maximum": -3, "minimum": -4}, {-4, -3}),
        ({"type": ["null", "boolean"]}, {None, True, False}),
        ({"anyOf": [{"type": "string", "pattern": "x"}, {"const": 1}]}, {1}),
        ({"$ref": "#/x/0", "x": [{"const": 1}]}, None),
        ({"allOf": [{"const": 1}], "title": "t"}, {1}),
    ],
)
def test_what_values_there_are(schema: Any, values: set[Any] | None):
    """All that a schema allows, nothing else; None: a keyword that nobody knows."""
    if values is None:
        with pytest.raises(guide.UnfitSchema):
            made(schema)
        return
    assert {json.loads(made(schema, seed)) for seed in range(60)} == values


@pytest.mark.parametrize(
    "schema",
    [
        1,
        False,
        {"type": "string", "pattern": "secret"},
        {"not": {}},
        {"type": "thing"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://example.com"},
        {"$ref": "#"},
        {"allOf": [{}, {}]},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "minimum": "secret"},
        {"type": "integer", "multipleOf": 0},
        {"type": "object", "required": ["secret"]},
        {"type": "array", "minItems": 10**9, "items": True},
        {"type": "string", "minLength": 10**9},
        {"properties": []},
    ],
)
def test_what_can_not_be_followed_is_refused(schema: Any):
    """At once, and without a word of the schema."""
    with pytest.raises(guide.UnfitSchema) as caught:
        made(schema)

    assert "secret" not in str(caught.value)


def test_choices_that_lead_nowhere_cost_little():
    """Each option of each level would be tried: there is an end to it."""
    loop = {"anyOf": [{"$ref": "#"}] * 20}
    with pytest.raises(guide.UnfitSchema):
        made(loop)


def test_any_object():
    """Guide type `json`; other types are refused."""
    text = guide.guided_text("json", "", random.Random(0))

    assert isinstance(json.loads(text), dict)
    for kind, schema in (("regex", "x"), ("json_schema", "{")):
        with pytest.raises(guide.UnfitSchema):
            guide.guided_text(kind, schema, random.Random(0))


def test_no_control_token_is_written():
    """A tokenizer would find it in the text, and it has none."""
    text = made({"const": "<|im_end|>"})

    assert "<|" not in text
    assert json.loads(text) == "<|im_end|>"


@pytest.fixture(scope="module")
def calls() -> Any:
    """The module that imports `guide` as the engine's Python finds it."""
    sys.modules["guide"] = guide
    yield engine_module("calls")
    del sys.modules["guide"]


def prompt(said: str, *after: str) -> str:
    """Return a prompt as the chat template writes it."""
    parameters = {"type": "object", "properties": {"x": {"const": 1}}}
    tools = "\n".join(
        json.dumps({"function": {"name": name, "parameters": parameters}})
        for name in ("f", "get-it")
    )
    turns = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in (said, *after))
    return (
        f"<|im_start|>system\n<tools>\n{tools}\n</tools>\n<|im_end|>\n"
        f"{turns}<|im_start|>assistant\n"
    )


def call(name: str) -> str:
    """Return a call as Hermes writes it."""
    written = json.dumps({"name": name, "arguments": {"x": 1}})
    return f"<tool_call>\n{written}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (prompt("user\nUse f."), call("f")),
        (prompt("user name=Bo\nf and get-it"), call("f") + "\n" + call("get-it")),
        (prompt("user\nof get-it-not"), ""),
        (prompt("user\nUse f.", "assistant\nYes."), ""),
        (prompt("user\nUse f.", "tool\nf says 1"), ""),
        (prompt("user\nUse f.").replace("tools>", "spoons>"), ""),
        (prompt("user\nUse f.").replace('"function":', '"spoon":'), ""),
        (prompt("user\nUse f.").replace('"const"', '"pattern"'), ""),
        ("f", ""),
    ],
)
def test_a_function_is_called_by_its_name(calls: Any, text: str, expected: str):
    """Where the user's turn is the last, and names it as a word."""
    assert calls.calls_text(text, random.Random(0)) == expected
