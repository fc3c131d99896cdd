"""The OpenAI requests we admit: what is read, what is refused, what is forwarded.

The body is judged whole and re-serialised, so that what was judged is what the
backend sees. Fields we do not know are forwarded byte for byte; a duplicate key at
any depth is refused, because parsers disagree about which one counts.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

import msgspec

from tollhouse.core.catalog import Model, Operation, Provider
from tollhouse.core.problems import Kind, Problem

MAX_CHOICES = 16
"""Largest `n`: one prompt must not fan out over a whole batch of the engine."""
MAX_MESSAGES = 4096
MAX_VALUES = 65_536
"""Most values of a body, about: reading millions would hold up all admissions."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# Fields of vLLM and TensorRT-LLM that make one request cost many, past any estimate.
_COST_LEVERS = (
    "use_beam_search",
    "beam_width",
    "num_return_sequences",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "lora_path",
)

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_values = msgspec.json.Decoder().decode


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
    fields, values = _read(body)
    model = values.get("model")
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        _refuse("`model` must name a model.", "model")
    for lever in _COST_LEVERS:
        if values.get(lever) not in (None, False):
            raise Problem(Kind.UNSUPPORTED, f"`{lever}` is not supported.", lever)
    stream = _flag(values, "stream")
    options = values.get("stream_options")
    if options is None:
        options = {}
    elif not isinstance(options, dict):
        _refuse("`stream_options` must be an object.", "stream_options")
    elif not stream:
        _refuse("`stream_options` needs `stream: true`.", "stream_options")
    include_usage = options.get("include_usage")
    if include_usage is not None and not isinstance(include_usage, bool):
        _refuse("must be true or false.", "stream_options.include_usage")
    if operation is Operation.CHAT:
        messages, text_bytes, images = _chat_prompt(values)
    else:
        messages, text_bytes, images = 1, _text_prompt(values), 0
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


def fit(request: Request, model: Model) -> None:
    """Refuse what this model can't serve. Raises Problem."""
    if request.operation not in model.operations:
        _refuse(f"This model does not serve {request.operation}.", "model")
    cap = request.output_cap
    if cap is not None and cap > model.max_output_tokens:
        _refuse(
            f"The largest output of this model is {model.max_output_tokens} tokens.",
            "max_completion_tokens"
            if "max_completion_tokens" in request.fields
            else "max_tokens",
        )
    if request.images and model.provider is Provider.TRITON:
        _refuse("This model takes text only.", "messages")


def forwarded(request: Request, model: Model) -> tuple[bytes, bool]:
    """The body for the backend, and whether we put a default cap into it.

    Usage is always asked for; the meter takes the extra event out again where the
    client did not want it.
    """
    fields = dict(request.fields)
    if request.stream:
        options = request.stream_options | {"include_usage": True}
        if model.provider is Provider.OPENAI:
            # Cumulative counts on every event, so that an aborted stream is exact.
            options["continuous_usage_stats"] = True
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    cap = output_cap(request, model)
    if cap is not None:
        name = (
            "max_completion_tokens"
            if request.operation is Operation.CHAT
            and "max_tokens" not in request.fields
            else "max_tokens"
        )
        if {"max_tokens", "max_completion_tokens"} <= fields.keys():
            name = "max_completion_tokens"  # both were given: one value goes on
            del fields["max_tokens"]
        fields[name] = msgspec.Raw(b"%d" % cap)
    injected = request.output_cap is None and cap is not None
    return msgspec.json.encode(fields), injected


def output_cap(request: Request, model: Model) -> int | None:
    """The cap that is forwarded: the client's, or ours; None: the backend's own."""
    if request.output_cap is None and model.inject_default:
        return model.default_output_tokens
    return request.output_cap


def model_list(created: Mapping[str, int]) -> bytes:
    """The answer to GET /v1/models: name → Unix seconds the model was made at."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {
                    "id": name,
                    "object": "model",
                    "created": seconds,
                    "owned_by": "tollhouse",
                }
                for name, seconds in created.items()
            ],
        }
    )


def _refuse(message: str, param: str | None = None) -> Never:
    if param and not message.startswith(("`", "The", "This")):
        message = f"`{param}` {message}"
    raise Problem(Kind.INVALID_REQUEST, message, param)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        _refuse("The body has the same key twice.")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse("The body has a number that is out of range.")
    return number


_strict = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite).decode


def _read(body: bytes) -> tuple[dict[str, msgspec.Raw], dict[str, Any]]:
    try:
        fields = _decode_fields(body)  # JSON to the letter: no NaN, unlike json
        if _has_too_many_values(body):
            _refuse("The body has too many values.")
        if b"\\u" in body:
            _decode_values(body)  # refuses lone surrogates, which no backend can encode
        return fields, _strict(body.decode())
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Problem(Kind.INVALID_REQUEST, "The body must be a JSON object.") from None


def _has_too_many_values(body: bytes) -> bool:
    """Count what separates values: at once, then, if need be, outside of strings.

    A body of fewer bytes can't have more: that is nearly every one.
    """
    if len(body) <= MAX_VALUES or _separators(body) <= MAX_VALUES:
        return False
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * MAX_VALUES:  # the quotes of as many keys and strings
        return True
    return _separators(b"".join(bare.split(b'"')[::2])) > MAX_VALUES


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _flag(values: dict[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        _refuse("must be true or false.", name)
    return value is True


def _positive(values: dict[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value < 2**31:
        _refuse("must be a whole number of at least 1.", name)
    return value


def _choices(values: dict[str, Any]) -> int:
    """How often the output is generated: `best_of` generates all it ranks."""
    choices = max(_positive(values, "n") or 1, _positive(values, "best_of") or 1)
    if choices > MAX_CHOICES:
        _refuse(f"must be at most {MAX_CHOICES}.", "n")
    return choices


def _output_cap(operation: Operation, values: dict[str, Any]) -> int | None:
    caps = [_positive(values, "max_tokens")]
    if operation is Operation.CHAT:
        caps.append(_positive(values, "max_completion_tokens"))
    elif values.get("max_completion_tokens") is not None:
        _refuse("belongs to chat completions.", "max_completion_tokens")
    return min((cap for cap in caps if cap is not None), default=None)


def _chat_prompt(values: dict[str, Any]) -> tuple[int, int, int]:
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse("must be a list of at least one message.", "messages")
    if len(messages) > MAX_MESSAGES:
        _refuse(f"must have at most {MAX_MESSAGES} messages.", "messages")
    text_bytes = images = 0
    for index, message in enumerate(messages):
        size, pictures = _message(message, f"messages[{index}]")
        text_bytes += size
        images += pictures
    if tools := values.get("tools"):
        text_bytes += len(msgspec.json.encode(tools))
    return len(messages), text_bytes, images


def _message(message: object, where: str) -> tuple[int, int]:
    if not isinstance(message, dict):
        _refuse("must be an object.", where)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        _refuse(f"must be one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
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
        _refuse("must be a string or a list of parts.", f"{where}.content")
    elif role != "assistant":
        _refuse("is missing.", f"{where}.content")
    if calls := message.get("tool_calls"):
        text_bytes += len(msgspec.json.encode(calls))
    return text_bytes, images


def _part(part: object, where: str) -> tuple[int, int]:
    if not isinstance(part, dict):
        _refuse("must be an object.", where)
    match part.get("type"):
        case "text" | "refusal" as name:
            text = part.get("text" if name == "text" else "refusal")
            if not isinstance(text, str):
                _refuse("must have a string as its text.", where)
            return len(text.encode()), 0
        case "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else None
            if not isinstance(url, str) or not url.startswith("data:"):
                # A URL would make the backend fetch what the client names (SSRF).
                _refuse("must be a data: URL.", f"{where}.image_url.url")
            return 0, 1
        case _:
            _refuse("must be a text or image_url part.", where)


def _text_prompt(values: dict[str, Any]) -> int:
    prompt = values.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        _refuse("must be one string.", "prompt")
    return len(prompt.encode())
