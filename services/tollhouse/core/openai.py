"""The OpenAI requests we admit: what is read, what is refused, what is forwarded.

The body is judged whole and re-serialised, so that what was judged is what the
backend sees. Fields we do not know are forwarded byte for byte.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from tollhouse.core.catalog import Operation
from tollhouse.core.json_object import read
from tollhouse.core.levers import check_sampling, refuse_levers
from tollhouse.core.prompt_fields import chat_prompt, text_prompt
from tollhouse.core.refusal import flag, positive, refuse

MAX_CHOICES = 16
"""Largest `n`: one prompt must not fan out over a whole batch of the engine."""
_MODEL_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


@dataclass(slots=True)
class Request:
    """One judged request.

    `fields` is the client's top level, values untouched. `output_cap` is the smaller
    of the client's caps, None where it named none. `text_bytes` is the UTF-8 length
    of everything that becomes prompt text.
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


def parse(operation: Operation, body: bytes) -> Request:
    """Judge a body. Raises Problem with the field that is wrong."""
    fields, values = read(body)
    model = values.get("model")
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        refuse("`model` must name a model.", "model")
    refuse_levers(values)
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
    if operation is Operation.CHAT:
        messages, text_bytes, images = chat_prompt(values)
    else:
        messages, text_bytes, images = 1, text_prompt(values), 0
    check_sampling(operation, values)
    return Request(
        operation=operation,
        model=model,
        stream=stream,
        wants_usage=include_usage is True,
        choices=_choices(values),
        output_cap=_output_cap(operation, values),
        messages=messages,
        text_bytes=text_bytes,
        images=images,
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
    caps = [positive(values, "max_tokens")]
    if operation is Operation.CHAT:
        caps.append(positive(values, "max_completion_tokens"))
    elif values.get("max_completion_tokens") is not None:
        refuse("belongs to chat completions.", "max_completion_tokens")
    return min((cap for cap in caps if cap is not None), default=None)
