"""Anthropic's Messages API, as this frontend reads it.

https://docs.claude.com/en/api/messages
"""

from typing import Annotated, Any

import msgspec

from tollhouse.core.refusal import refuse
from tollhouse.frontend.contract import Guide
from tollhouse.frontend.request import (
    LARGEST_TOKENS,
    Messages,
    Reader,
    Request,
    Tokens,
    past_call,
    schema_guide,
    stop_strings,
    unsupported,
)
from tollhouse.frontend.tools import Function, Tools, offered

_REFUSED: dict[str, tuple[object, ...]] = {
    "container": (),
    "context_management": (),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "thinking": ({"type": "disabled"},),
}
# Anthropic's types of choice → OpenAI's.
_CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "required"}


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    id: str = ""
    name: str = ""
    input: dict[str, Any] | None = None
    tool_use_id: str = ""
    content: "str | list[_Block] | None" = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Format(msgspec.Struct):
    type: str
    schema: Any = None


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None
    effort: str | None = None


class _Body(msgspec.Struct):
    model: str
    max_tokens: Tokens
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: str | list[_Block] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_TOKENS)] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None  # its name before output_config


_bodies = Reader(_Body, _REFUSED)


def parse_message(body: bytes) -> Request:
    """Judge a body of POST /v1/messages. Raises Problem."""
    asked = _bodies.read(body)
    return Request(
        model=asked.model,
        messages=_messages(asked),
        stream=asked.stream is True,
        max_tokens=asked.max_tokens,
        stops=stop_strings(asked.stop_sequences, "stop_sequences"),
        sampling={
            name: value
            for name in ("temperature", "top_p", "top_k")
            if (value := getattr(asked, name)) is not None
        },
        tools=_tools(asked),
        guide=_guide(asked),
        size=len(body),
    )


def _messages(asked: _Body) -> Messages:
    messages: list[dict[str, Any]] = []
    if asked.system:
        messages.append({"role": "system", "content": _text(asked.system, "system")})
    for index, message in enumerate(asked.messages):
        where = f"messages[{index}]"
        match message.role:
            case "user":
                messages += _user_turn(message.content, f"{where}.content")
            case "assistant":
                messages.append(_assistant_turn(message.content, f"{where}.content"))
            case _:
                refuse("must be user or assistant.", f"{where}.role")
    if asked.messages[-1].role == "assistant":
        # It would be an answer to go on with, and templates close each turn.
        where = f"messages[{len(asked.messages) - 1}].role"
        refuse("must be user in the last message: no answer is continued.", where)
    return tuple(messages)


def _user_turn(content: str | list[_Block], where: str) -> list[dict[str, Any]]:
    """Return the turn with each tool's result as a message of its own."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    turn: list[dict[str, Any]] = []
    for index, block in enumerate(content):
        place = f"{where}[{index}]"
        if block.type == "tool_result":
            result = _text(block.content or "", f"{place}.content")
            said = {
                "role": "tool",
                "tool_call_id": block.tool_use_id,
                "content": result,
            }
            turn.append(said)
        elif turn and turn[-1]["role"] == "user":
            turn[-1]["content"] += _block_text(block, place)
        else:
            turn.append({"role": "user", "content": _block_text(block, place)})
    return turn


def _assistant_turn(content: str | list[_Block], where: str) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    calls, texts = [], []
    for index, block in enumerate(content):
        if block.type == "tool_use":
            calls.append(past_call(block.id, block.name, block.input or {}))
        else:
            texts.append(_block_text(block, f"{where}[{index}]"))
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    return turn | {"tool_calls": calls} if calls else turn


def _text(content: str | list[_Block], where: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(
        _block_text(block, f"{where}[{index}]") for index, block in enumerate(content)
    )


def _block_text(block: _Block, where: str) -> str:
    if block.type != "text":
        unsupported(f"{where}.type")
    if block.text is None:
        refuse("is missing.", f"{where}.text")
    return block.text


def _tools(asked: _Body) -> Tools | None:
    functions = []
    for index, tool in enumerate(asked.tools or ()):
        if tool.type not in (None, "custom"):
            unsupported(f"tools[{index}].type")
        functions.append(
            Function(
                name=tool.name,
                description=tool.description,
                parameters=tool.input_schema,
            )
        )
    choice = asked.tool_choice or _Choice("auto")
    if choice.type not in _CHOICES:
        refuse(f"must be one of {', '.join(_CHOICES)}.", "tool_choice.type")
    if choice.type == "tool" and choice.name is None:
        refuse("is missing.", "tool_choice.name")
    return offered(
        functions,
        choice=_CHOICES[choice.type],
        named=choice.name if choice.type == "tool" else None,
        parallel=choice.disable_parallel_tool_use is not True,
        where="tools[{}].name",
    )


def _guide(asked: _Body) -> Guide | None:
    config = asked.output_config or _OutputConfig()
    if config.effort is not None:
        unsupported("output_config.effort")
    param, form = "output_config.format", config.format
    if form is None:
        param, form = "output_format", asked.output_format
    match form:
        case None:
            return None
        case _Format(type="json_schema", schema=schema):
            return schema_guide(schema, f"{param}.schema", param)
        case _:
            return unsupported(f"{param}.type")
