"""The prompt of a request to OpenAI's Responses API.

It is judged for a gateway that keeps nothing: what refers to an earlier answer, to a
file, or has the server call others, is refused by name
(https://platform.openai.com/docs/api-reference/responses/create).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from tollhouse.core.prompt_fields import (
    MAX_MESSAGES,
    Prompt,
    check_image,
    check_tools,
    only,
)
from tollhouse.core.refusal import refuse, refuse_unsupported

_ROLES = frozenset({"system", "developer", "user", "assistant"})
_TEXTS = frozenset({"input_text", "output_text", "refusal", "summary_text", "text"})
# What needs a server that remembers, or that goes out on its own.
_STATEFUL = ("previous_response_id", "conversation", "background", "prompt", "store")


def responses_prompt(values: dict[str, Any]) -> Prompt:
    """Judge input, instructions and tools. Raises Problem."""
    for name in _STATEFUL:
        if values.get(name) not in (None, False):
            refuse_unsupported(name)
    check_tools(values, lambda tool: tool.get("type") == "function")
    images = _images(values)
    found = list(responses_texts(values))
    items = values["input"]
    return Prompt(
        messages=(1 if isinstance(items, str) else len(items))
        + (values.get("instructions") is not None),
        text_bytes=sum(len(text.encode()) for text in found),
        images=images,
    )


def responses_texts(values: dict[str, Any]) -> Iterator[str]:
    """Everything that becomes prompt text. Raises Problem for what can't be read."""
    instructions = values.get("instructions")
    if isinstance(instructions, str):
        yield instructions
    elif instructions is not None:
        refuse("must be a string.", "instructions")
    items = values.get("input")
    if isinstance(items, str):
        yield items
    elif not isinstance(items, list) or not items:
        refuse("must be a string or a list of at least one item.", "input")
    elif len(items) > MAX_MESSAGES:
        refuse(f"must have at most {MAX_MESSAGES} items.", "input")
    else:
        for index, item in enumerate(items):
            yield from _item(item, f"input[{index}]")
    if tools := values.get("tools"):
        yield msgspec.json.encode(tools).decode()


def _item(item: object, where: str) -> Iterator[str]:
    if not isinstance(item, dict):
        refuse("must be an object.", where)
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            if not isinstance(role, str) or role not in _ROLES:
                refuse(f"must be one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
            yield from _content(item.get("content"), f"{where}.content")
        case "function_call":
            yield from _strings(item, ("name", "arguments"), where)
        case "function_call_output":
            yield from _content(item.get("output"), f"{where}.output")
        case "reasoning":
            # Whatever of it the server makes prompt, it is not more than all of it.
            yield msgspec.json.encode(item).decode()
        case _:
            refuse(
                "must be a message, function_call, function_call_output or reasoning.",
                f"{where}.type",
            )


def _content(content: object, where: str) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, list):
        refuse("must be a string or a list of parts.", where)
    for position, part in enumerate(content):
        yield from _part(part, f"{where}[{position}]")


def _part(part: object, where: str) -> Iterator[str]:
    if not isinstance(part, dict):
        refuse("must be an object.", where)
    kind = part.get("type")
    if kind == "input_image":
        only(part, {"type", "image_url", "detail"}, where)
        check_image(part.get("image_url"), f"{where}.image_url")
    elif isinstance(kind, str) and kind in _TEXTS:
        only(part, {"type", "text", "refusal", "annotations", "logprobs"}, where)
        yield from _strings(part, ("refusal" if kind == "refusal" else "text",), where)
    else:
        refuse("must be an input_text, output_text or input_image part.", where)


def _strings(item: dict[str, Any], names: tuple[str, ...], where: str) -> Iterator[str]:
    for name in names:
        text = item.get(name)
        if not isinstance(text, str):
            refuse("must be a string.", f"{where}.{name}")
        yield text


def _images(values: dict[str, Any]) -> int:
    items = values.get("input")
    parts = [
        part
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
        for content in (item.get("content"), item.get("output"))
        if isinstance(content, list)
        for part in content
    ]
    return sum(isinstance(it, dict) and it.get("type") == "input_image" for it in parts)
