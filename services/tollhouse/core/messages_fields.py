"""The prompt of a request to Anthropic's Messages API.

Blocks that a server would fetch or run something for are refused
(https://docs.claude.com/en/api/messages).
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

_ROLES = frozenset({"user", "assistant"})
_CACHED = {"type", "cache_control"}
_UNSUPPORTED = ("mcp_servers", "container", "context_management")


def messages_prompt(values: dict[str, Any]) -> Prompt:
    """Judge system, messages and tools. Raises Problem."""
    for name in _UNSUPPORTED:
        if values.get(name) not in (None, []):
            refuse_unsupported(name)
    check_tools(values, lambda tool: tool.get("type", "custom") == "custom")
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        refuse("must be a list of at least one message.", "messages")
    if len(messages) > MAX_MESSAGES:
        refuse(f"must have at most {MAX_MESSAGES} messages.", "messages")
    found = list(messages_texts(values))
    return Prompt(
        messages=len(messages) + (values.get("system") is not None),
        text_bytes=sum(len(text.encode()) for text in found),
        images=_images(messages),
    )


def messages_texts(values: dict[str, Any]) -> Iterator[str]:
    """Everything that becomes prompt text. Raises Problem for what can't be read."""
    if (system := values.get("system")) is not None:
        yield from _content(system, "system", "text")
    for index, message in enumerate(values["messages"]):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            refuse("must be an object.", where)
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            refuse(f"must be one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
        yield from _content(message.get("content"), f"{where}.content")
    if tools := values.get("tools"):
        yield msgspec.json.encode(tools).decode()


def _content(content: object, where: str, *kinds: str) -> Iterator[str]:
    """Read a string or blocks; of some kinds alone, where these are named."""
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, list):
        refuse("must be a string or a list of blocks.", where)
    for position, block in enumerate(content):
        place = f"{where}[{position}]"
        if not isinstance(block, dict):
            refuse("must be an object.", place)
        if kinds and block.get("type") not in kinds:
            refuse(f"must be a {' or '.join(kinds)} block.", place)
        yield from _block(block, place)


def _block(block: dict[str, Any], where: str) -> Iterator[str]:
    match block.get("type"):
        case "text":
            only(block, _CACHED | {"text", "citations"}, where)
            yield _string(block, "text", where)
        case "thinking":
            yield _string(block, "thinking", where)
        case "image":
            only(block, _CACHED | {"source"}, where)
            _check_source(block.get("source"), f"{where}.source")
        case "tool_use":
            yield _string(block, "name", where)
            yield msgspec.json.encode(block.get("input")).decode()
        case "tool_result":
            only(block, _CACHED | {"tool_use_id", "content", "is_error"}, where)
            if (content := block.get("content")) is not None:
                yield from _content(content, f"{where}.content", "text", "image")
        case _:
            refuse(
                "must be a text, image, thinking, tool_use or tool_result block.", where
            )


def _check_source(source: object, where: str) -> None:
    if not isinstance(source, dict) or source.get("type") != "base64":
        # A URL would make the backend fetch what the client names (SSRF).
        refuse("must be an image in base64.", where)
    only(source, {"type", "media_type", "data"}, where)
    check_image(f"data:{source.get('media_type')};base64,{source.get('data')}", where)


def _string(block: dict[str, Any], name: str, where: str) -> str:
    text = block.get(name)
    if not isinstance(text, str):
        refuse("must be a string.", f"{where}.{name}")
    return text


def _images(messages: list[dict[str, Any]]) -> int:
    count = 0
    for message in messages:
        content = message["content"]
        for block in content if isinstance(content, list) else ():
            inner = block.get("content")
            nested = inner if isinstance(inner, list) else ()
            count += sum(it.get("type") == "image" for it in (block, *nested))
    return count
