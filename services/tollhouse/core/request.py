"""The requests we admit, of every API in JSON: what is read, what is refused.

The body is judged whole and re-serialised, so that what was judged is what the
backend sees. Fields we do not know are forwarded byte for byte.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tollhouse.core.catalog import Operation
from tollhouse.core.embeddings_fields import embeddings_prompt
from tollhouse.core.json_object import read
from tollhouse.core.levers import check_sampling, refuse_levers
from tollhouse.core.messages_fields import messages_prompt
from tollhouse.core.prompt_fields import Prompt, chat_prompt, text_prompt
from tollhouse.core.refusal import flag, positive, refuse
from tollhouse.core.responses_fields import responses_prompt

MAX_CHOICES = 16
"""Largest `n`: one prompt must not fan out over a whole batch of the engine."""
_MODEL_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


@dataclass(slots=True)
class Request:
    """One judged request.

    `fields` is the client's top level, values untouched. `output_cap` is the smaller
    of the client's caps, None where it named none. `text_bytes` is the UTF-8 length
    of everything that becomes prompt text; `prompt_tokens` are beside it, made by the
    client.
    """

    operation: Operation
    model: str
    stream: bool
    wants_usage: bool
    choices: int
    output_cap: int | None
    messages: int
    text_bytes: int
    images: int
    stream_options: dict[str, Any]
    fields: dict[str, msgspec.Raw]
    prompt_tokens: int = 0


_PROMPTS: Mapping[Operation, Callable[[dict[str, Any]], Prompt]] = {
    Operation.CHAT: chat_prompt,
    Operation.COMPLETIONS: text_prompt,
    Operation.EMBEDDINGS: embeddings_prompt,
    Operation.RESPONSES: responses_prompt,
    Operation.MESSAGES: messages_prompt,
}
_CHATS = {Operation.CHAT: "chat completions"}
_TEXTS = _CHATS | {Operation.COMPLETIONS: "completions"}
# Where else a field is given it may be prompt, or output, that nobody counted.
_OWNERS: Mapping[str, Mapping[Operation, str]] = {
    "messages": _CHATS | {Operation.MESSAGES: "messages"},
    "prompt": {Operation.COMPLETIONS: "completions", Operation.RESPONSES: "responses"},
    "input": {Operation.RESPONSES: "responses", Operation.EMBEDDINGS: "embeddings"},
    "instructions": {Operation.RESPONSES: "responses"},
    "system": {Operation.MESSAGES: "messages"},
    "n": _TEXTS,
    "best_of": _TEXTS,
    "max_tokens": _TEXTS | {Operation.MESSAGES: "messages"},
    "max_completion_tokens": _CHATS,
    "max_output_tokens": {Operation.RESPONSES: "responses"},
    "stream_options": _TEXTS | {Operation.RESPONSES: "responses"},
}


def parse(operation: Operation, body: bytes) -> Request:
    """Judge a body. Raises Problem with the field that is wrong."""
    fields, values = read(body)
    model = values.get("model")
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        refuse("`model` must name a model.", "model")
    refuse_levers(values)
    for name, owners in _OWNERS.items():
        if operation not in owners and values.get(name) is not None:
            refuse(f"belongs to {' and '.join(owners.values())}.", name)
    stream = flag(values, "stream")
    options = values.get("stream_options")
    if options is None:
        options = {}
    elif not isinstance(options, dict):
        refuse("`stream_options` must be an object.", "stream_options")
    elif not stream:
        refuse("`stream_options` needs `stream: true`.", "stream_options")
    include_usage = options.get("include_usage")
    if include_usage is not None and not isinstance(include_usage, bool):
        refuse("must be true or false.", "stream_options.include_usage")
    if operation is Operation.EMBEDDINGS and stream:
        refuse("must be false: embeddings can't be streamed.", "stream")
    prompt = _PROMPTS[operation](values)
    check_sampling(operation, values)
    return Request(
        operation=operation,
        model=model,
        stream=stream,
        wants_usage=include_usage is True,
        choices=_choices(values),
        output_cap=_output_cap(operation, values),
        messages=prompt.messages,
        text_bytes=prompt.text_bytes,
        images=prompt.images,
        prompt_tokens=prompt.tokens,
        stream_options=options,
        fields=fields,
    )


def _choices(values: dict[str, Any]) -> int:
    """How often the output is generated: `best_of` generates all it ranks."""
    choices = max(positive(values, "n") or 1, positive(values, "best_of") or 1)
    if choices > MAX_CHOICES:
        refuse(f"must be at most {MAX_CHOICES}.", "n")
    return choices


def _output_cap(operation: Operation, values: dict[str, Any]) -> int | None:
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    caps = [cap for name in names if (cap := positive(values, name)) is not None]
    if operation is Operation.MESSAGES and not caps:
        refuse("is missing.", "max_tokens")
    return min(caps, default=None)
