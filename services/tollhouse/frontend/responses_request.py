"""OpenAI's Responses API, as this frontend reads it: without anything remembered.

https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Annotated, Any

import msgspec

from tollhouse.core.refusal import refuse
from tollhouse.frontend.contract import Guide
from tollhouse.frontend.request import (
    Messages,
    Reader,
    Request,
    Tokens,
    arguments,
    past_call,
    schema_guide,
    unsupported,
)
from tollhouse.frontend.tools import Function, Tools, offered

_ROLES = ("system", "developer", "user", "assistant")
_TEXTS = ("input_text", "output_text", "text")

_NO_REASONING: tuple[dict[str, str | None], ...] = (
    {},
    {"effort": None},
    {"effort": "none"},
)
_REFUSED: dict[str, tuple[object, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "include": ([], ["reasoning.encrypted_content"]),  # there is no reasoning
    "previous_response_id": (),
    "prompt": (),
    "reasoning": (*_NO_REASONING, *(it | {"summary": None} for it in _NO_REASONING)),
    "store": (False,),
    "truncation": ("disabled",),
}
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
)


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: str | list[_Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | list[_Part] | None = None


class _Tool(Function, kw_only=True):
    type: str


class _NamedChoice(msgspec.Struct):
    type: str
    name: str = ""


class _Format(msgspec.Struct):
    type: str
    schema: Any = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Body(msgspec.Struct):
    model: str
    input: str | Annotated[list[_Item], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    metadata: dict[str, str] | None = None


_bodies = Reader(_Body, _REFUSED)
_decode_echo = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse_response(body: bytes) -> Request:
    """Judge a body of POST /v1/responses. Raises Problem."""
    asked = _bodies.read(body)
    sampling = {
        name: value
        for name in ("temperature", "top_p")
        if (value := getattr(asked, name)) is not None
    }
    fields = _decode_echo(body)
    return Request(
        model=asked.model,
        messages=_messages(asked),
        stream=asked.stream is True,
        max_tokens=asked.max_output_tokens,
        sampling=sampling,
        tools=_tools(asked),
        guide=_guide(asked.text),
        size=len(body),
        echo={
            name: value
            for name in _ECHOED
            if (value := fields.get(name)) is not None and bytes(value) != b"null"
        },
    )


def _messages(asked: _Body) -> Messages:
    messages: list[dict[str, Any]] = []
    if asked.instructions:
        messages.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        messages.append({"role": "user", "content": asked.input})
        return tuple(messages)
    for index, item in enumerate(asked.input):
        _add(messages, item, f"input[{index}]")
    return tuple(messages)


def _add(messages: list[dict[str, Any]], item: _Item, where: str) -> None:
    match item.type:
        case "message":
            if item.role not in _ROLES:
                refuse(f"must be one of {', '.join(_ROLES)}.", f"{where}.role")
            content = _content(item.content, f"{where}.content")
            messages.append({"role": item.role, "content": content})
        case "function_call":
            values = arguments(item.arguments, f"{where}.arguments")
            # What the model said and called in one turn comes as items of their own.
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            calls = messages[-1].setdefault("tool_calls", [])
            calls.append(past_call(item.call_id, item.name, values))
        case "function_call_output":
            content = _content(item.output, f"{where}.output")
            messages.append(
                {"role": "tool", "tool_call_id": item.call_id, "content": content}
            )
        case _:
            unsupported(f"{where}.type")


def _content(content: str | list[_Part] | None, where: str) -> str:
    if content is None:
        refuse("is missing.", where)
    if isinstance(content, str):
        return content
    return "".join(
        _part(part, f"{where}[{index}]") for index, part in enumerate(content)
    )


def _part(part: _Part, where: str) -> str:
    if part.type not in (*_TEXTS, "refusal"):
        unsupported(f"{where}.type")
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        refuse("has no text.", where)
    return text


def _tools(asked: _Body) -> Tools | None:
    for index, tool in enumerate(asked.tools or ()):
        if tool.type != "function":
            unsupported(f"tools[{index}].type")
    choice, named = asked.tool_choice or "auto", None
    if not isinstance(choice, str):
        if choice.type != "function":
            unsupported("tool_choice.type")
        named, choice = choice.name, "required"
    return offered(
        asked.tools or (),
        choice=choice,
        named=named,
        parallel=asked.parallel_tool_calls is not False,
        where="tools[{}].name",
    )


def _guide(text: _Text | None) -> Guide | None:
    if text is None:
        return None
    if text.verbosity not in (None, "medium"):
        unsupported("text.verbosity")
    param = "text.format"
    match text.format:
        case None | _Format(type="text"):
            return None
        case _Format(type="json_object"):
            return Guide("json", "", param)
        case _Format(type="json_schema", schema=schema):
            return schema_guide(schema, f"{param}.schema", param)
        case _:
            return unsupported(f"{param}.type")
