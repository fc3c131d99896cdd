"""What holds a model to a call: schemas that mean the same where they are moved to."""

import json
from typing import Any

from tollhouse.frontend.tools import Function, Tools

NODE: dict[str, Any] = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "$ref": {"type": "string"},
            },
        }
    },
}


def schema(*forced: str) -> Any:
    """Return the guide's schema where these must be called."""
    functions = [Function(name="f", parameters=NODE), Function(name="g.h-i")]
    guide = Tools(functions, forced, parallel=True).guide()
    return None if guide is None else json.loads(guide.schema)


def test_nothing_holds_a_model_that_is_free():
    """Only a call that is due is guided."""
    assert schema() is None


def test_one_function_needs_its_arguments_only():
    """As the client wrote them, but an object in any case."""
    assert schema("f") == {"type": "object"} | NODE
    assert schema("g.h-i") == {"type": "object"}


def test_references_follow_a_schema():
    """`#` was the whole schema, and is one of several now."""
    both = schema("f", "g.h-i")
    moved = both["$defs"]["f"]

    assert [it["properties"]["arguments"]["$ref"] for it in both["anyOf"]] == [
        "#/$defs/f",
        "#/$defs/g.h-i",
    ]
    assert moved["$ref"] == "#/$defs/f/$defs/Node"
    properties = moved["$defs"]["Node"]["properties"]
    assert properties["next"]["anyOf"][0]["$ref"] == "#/$defs/f/$defs/Node"
    assert properties["$ref"] == {"type": "string"}
