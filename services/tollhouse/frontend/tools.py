"""The functions that a model may call, or must.

A model is told of them by its chat template. One that must call is held to it by
guided decoding: it then writes the call and nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tollhouse.core.refusal import refuse
from tollhouse.frontend.contract import Guide

MAX_TOOLS = 128
"""OpenAI's bound."""
_DEEPEST = 128  # nesting of a schema
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Function(msgspec.Struct, kw_only=True):
    """One function as OpenAI's chats and responses describe it.

    `strict` is kept where decoding is guided; a model that decides by itself whether
    to call is not held to a schema.
    """

    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What one request offers."""

    functions: Sequence[Function]
    forced: tuple[str, ...]
    """Of these one must be called; where there are none, the model decides."""
    parallel: bool
    """Whether one answer may have several calls."""

    @property
    def names(self) -> frozenset[str]:
        """The names of all functions."""
        return frozenset(function.name for function in self.functions)

    def described(self) -> list[dict[str, Any]]:
        """Return the value that chat templates take as `tools`."""
        return [
            {"type": "function", "function": _described(function)}
            for function in self.functions
        ]

    def guide(self) -> Guide | None:
        """Return what holds the model to a call, None where it is free.

        One function: its arguments alone. Several: an object with `name` and
        `arguments`, as the model writes a call by itself.
        """
        schemas = {
            function.name: {"type": "object"} | (function.parameters or {})
            for function in self.functions
            if function.name in self.forced
        }
        if not schemas:
            return None
        if len(schemas) == 1:
            (schema,) = schemas.values()
        else:
            schema = {
                "anyOf": [_call_schema(name) for name in schemas],
                "$defs": {name: _moved(it, name) for name, it in schemas.items()},
            }
        return Guide.of_schema(schema, "tool_choice")


def offered(
    functions: Sequence[Function],
    *,
    choice: str,
    named: str | None = None,
    parallel: bool = True,
    where: str,
) -> Tools | None:
    """Judge tools and the choice among them. Raises Problem.

    `choice` is none, auto or required; `named` is the one function that is required,
    if the client named one. `where` has a place for the index: `tools[{}].name`.
    """
    names = _names(functions, where)
    if named is not None and named not in names:
        refuse("must name one of `tools`.", "tool_choice")
    if choice not in ("none", "auto", "required"):
        refuse("must be none, auto, required or a function.", "tool_choice")
    if choice == "required" and not names:
        refuse("needs `tools`.", "tool_choice")
    if choice == "none" or not names:
        return None
    forced: Sequence[str] = ()
    if choice == "required":
        forced = names if named is None else (named,)
    return Tools(functions, tuple(forced), parallel)


def _names(functions: Sequence[Function], where: str) -> list[str]:
    if len(functions) > MAX_TOOLS:
        refuse(f"must have at most {MAX_TOOLS} functions.", "tools")
    names: list[str] = []
    for index, function in enumerate(functions):
        place = where.format(index)
        if not _NAME.fullmatch(function.name):
            refuse("must be 1 to 128 of A-Z, a-z, 0-9, _, . and -.", place)
        if function.name in names:
            refuse("is the name of two functions.", place)
        names.append(function.name)
    return names


def _described(function: Function) -> dict[str, Any]:
    """Return a function with those of its fields that say something."""
    named: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        named["description"] = function.description
    return named | {"parameters": function.parameters or {"type": "object"}}


def _call_schema(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "arguments": {"$ref": f"#/$defs/{name}"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, name: str, depth: int = 0) -> Any:
    """Return a schema whose references follow it to `#/$defs/NAME`."""
    if depth > _DEEPEST:
        refuse("are nested too deeply.", "tools")
    if isinstance(schema, list):
        return [_moved(item, name, depth + 1) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, name, depth + 1) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = f"#/$defs/{name}{reference[1:]}"
    return moved
