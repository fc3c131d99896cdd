"""The fields that become the prompt: messages with their parts, or one text."""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import msgspec

from tollhouse.core.problems import Kind, Problem
from tollhouse.core.refusal import refuse

MAX_MESSAGES = 4096

# No SVG: it may link. Nothing but base64 behind the comma: no second URL.
_IMAGE = re.compile(r"data:image/[a-z0-9.-]{1,32};base64,[A-Za-z0-9+/]+={0,2}")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# What else a part of a message may have: nothing that a backend would fetch.
_PART_FIELDS = frozenset({"type", "cache_control", "id", "index"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """How large a prompt is: messages, UTF-8 bytes of text, images.

    `tokens` are those that the client made itself, of text that is not here.
    """

    messages: int
    text_bytes: int
    images: int = 0
    tokens: int = 0


def chat_prompt(values: dict[str, Any]) -> Prompt:
    """Judge the messages. Raises Problem."""
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        refuse("must be a list of at least one message.", "messages")
    if len(messages) > MAX_MESSAGES:
        refuse(f"must have at most {MAX_MESSAGES} messages.", "messages")
    text_bytes = images = 0
    for index, message in enumerate(messages):
        size, pictures = _message(message, f"messages[{index}]")
        text_bytes += size
        images += pictures
    if tools := values.get("tools"):
        text_bytes += len(msgspec.json.encode(tools))
    return Prompt(len(messages), text_bytes, images)


def _message(message: object, where: str) -> tuple[int, int]:
    if not isinstance(message, dict):
        refuse("must be an object.", where)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        refuse(f"must be one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
    text_bytes = images = 0
    content = message.get("content")
    if isinstance(content, str):
        text_bytes = len(content.encode())
    elif isinstance(content, list):
        for position, part in enumerate(content):
            size, image = _part(part, f"{where}.content[{position}]")
            text_bytes += size
            images += image
    elif content is not None:
        refuse("must be a string or a list of parts.", f"{where}.content")
    elif role != "assistant":
        refuse("is missing.", f"{where}.content")
    if calls := message.get("tool_calls"):
        text_bytes += len(msgspec.json.encode(calls))
    if isinstance(refusal := message.get("refusal"), str):
        text_bytes += len(refusal.encode())
    return text_bytes, images


def _part(part: object, where: str) -> tuple[int, int]:
    if not isinstance(part, dict):
        refuse("must be an object.", where)
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            refuse("must have a string as its text.", where)
        only(part, {kind} | _PART_FIELDS, where)
        return len(text.encode()), 0
    if kind != "image_url":
        refuse("must be a text or image_url part.", where)
    only(part, {kind} | _PART_FIELDS, where)
    image = part.get(kind)
    if not isinstance(image, dict):
        refuse("must be an object.", f"{where}.image_url")
    check_image(image.get("url"), f"{where}.image_url.url")
    only(image, {"url", "detail"}, f"{where}.image_url")
    return 0, 1


def check_image(url: object, where: str) -> None:
    """Refuse an image that is not in the request itself. Raises Problem."""
    if not isinstance(url, str) or not _IMAGE.fullmatch(url):
        # A URL would make the backend fetch what the client names (SSRF).
        refuse("must be a data: URL of a base64 image.", where)


def check_tools(
    values: dict[str, Any], is_client_side: Callable[[dict[str, Any]], bool]
) -> None:
    """Refuse tools that the server itself would run. Raises Problem."""
    tools = values.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        refuse("must be a list.", "tools")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or not is_client_side(tool):
            where = f"tools[{index}]"
            raise Problem(
                Kind.UNSUPPORTED, f"`{where}` must be a function of the client.", where
            )


def only(part: dict[str, Any], known: AbstractSet[str], where: str) -> None:
    """Refuse further fields: some backends would fetch what is in them."""
    if not part.keys() <= known:
        refuse("has a field that is not supported.", where)


def text_prompt(values: dict[str, Any]) -> Prompt:
    """Judge the prompt of a completion. Raises Problem."""
    prompt = values.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        refuse("must be one string.", "prompt")
    return Prompt(1, len(prompt.encode()))
