"""OpenAI requests as this frontend reads them: judged whole before Triton sees them.

Triton answers malformed tensors with server errors, so nothing reaches it that was
not checked here. A field that would change the answer and that we can't honour is
refused by name; fields that only describe the caller are ignored.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Never

import msgspec

from tollhouse.core.openai import MAX_CHOICES
from tollhouse.core.problems import Kind, Problem

MAX_STOPS = 4
"""OpenAI's bound on stop strings."""
MAX_STOP_CHARACTERS = 256

_ROLES = ("system", "developer", "user", "assistant", "tool")
_LARGEST_TOKENS = 2**31 - 1

_Tokens = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST_TOKENS)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]

# Field → the values that ask for nothing; null always does.
_REFUSED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "web_search_options": (),
}
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "min_tokens",
)


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_TOKENS)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_TOKENS)] | None = None
    ignore_eos: bool | None = None


class _ChatBody(_Body, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]


class _CompletionBody(_Body, kw_only=True):
    prompt: str | list[str]


_decode_chat = msgspec.json.Decoder(_ChatBody).decode
_decode_completion = msgspec.json.Decoder(_CompletionBody).decode
_decode_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Request:
    """One judged request; a chat has `messages`, a completion has `prompt`."""

    model: str
    messages: tuple[dict[str, Any], ...] | None
    prompt: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    stops: tuple[str, ...]
    seed: int | None
    sampling: dict[str, int | float]
    """Parameters the client named, by their OpenAI or vLLM name."""
    ignore_eos: bool

    @property
    def text_size(self) -> int:
        """Characters of text, about: what rendering and counting cost goes by it."""
        if self.messages is None:
            return len(self.prompt)
        return sum(len(message["content"]) for message in self.messages)


def parse_chat(body: bytes) -> Request:
    """Judge a body of POST /v1/chat/completions. Raises Problem."""
    chat = _decode(_decode_chat, body)
    messages = tuple(
        _message(message, f"messages[{index}]")
        for index, message in enumerate(chat.messages)
    )
    return _request(chat, messages, "")


def parse_completion(body: bytes) -> Request:
    """Judge a body of POST /v1/completions. Raises Problem."""
    completion = _decode(_decode_completion, body)
    prompt = completion.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1:
            _refuse("`prompt` must be one string.", "prompt")
        prompt = prompt[0]
    if not prompt:
        _refuse("`prompt` must not be empty.", "prompt")
    return _request(completion, None, prompt)


def _decode(decode: Any, body: bytes) -> Any:
    try:
        decoded = decode(body)
        fields = _decode_any(body)
    except msgspec.ValidationError as error:
        raise _from_validation(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(Kind.INVALID_REQUEST, "The body must be a JSON object.") from None
    for name in fields.keys() & _REFUSED.keys():
        value = msgspec.json.decode(fields[name])
        # `1 == True` in Python: compare types as well.
        if value is not None and not any(
            type(value) is type(harmless) and value == harmless
            for harmless in _REFUSED[name]
        ):
            raise Problem(
                Kind.UNSUPPORTED, f"This model does not support `{name}`.", name
            )
    return decoded


_FAULT = re.compile(r"(?s)(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?")
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def _from_validation(error: msgspec.ValidationError) -> Problem:
    """Name the field as OpenAI does. msgspec's text never repeats a value here."""
    what, path = _FAULT.fullmatch(str(error)).groups()  # type: ignore[union-attr]  # takes any text
    if missing := _MISSING.match(what):
        path = f"{path}.{missing[1]}" if path else missing[1]
        return Problem(Kind.INVALID_REQUEST, f"`{path}` is missing.", path)
    if not path:
        return Problem(Kind.INVALID_REQUEST, "The body must be a JSON object.")
    return Problem(Kind.INVALID_REQUEST, f"`{path}`: {what}.", path)


def _request(
    body: _Body, messages: tuple[dict[str, Any], ...] | None, prompt: str
) -> Request:
    stream = body.stream is True
    if body.stream_options is not None and not stream:
        _refuse("`stream_options` needs `stream: true`.", "stream_options")
    caps = [cap for cap in (body.max_tokens, body.max_completion_tokens) if cap]
    sampling = {
        name: value for name in _SAMPLING if (value := getattr(body, name)) is not None
    }
    return Request(
        model=body.model,
        messages=messages,
        prompt=prompt,
        stream=stream,
        include_usage=(
            body.stream_options is not None
            and body.stream_options.include_usage is True
        ),
        max_tokens=min(caps, default=None),
        choices=body.n or 1,
        stops=_stops(body.stop),
        seed=body.seed,
        sampling=sampling,
        ignore_eos=body.ignore_eos is True,
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        _refuse(f"`stop` must have at most {MAX_STOPS} strings.", "stop")
    if any(not text or len(text) > MAX_STOP_CHARACTERS for text in stops):
        _refuse(f"`stop` strings have 1 to {MAX_STOP_CHARACTERS} characters.", "stop")
    return stops


def _message(message: _Message, where: str) -> dict[str, Any]:
    if message.role not in _ROLES:
        _refuse(f"`{where}.role` must be one of {', '.join(_ROLES)}.", f"{where}.role")
    content = message.content
    if content is None and message.role != "assistant":
        _refuse(f"`{where}.content` is missing.", f"{where}.content")
    if isinstance(content, list):
        content = "".join(
            _part(part, f"{where}.content[{index}]")
            for index, part in enumerate(content)
        )
    plain: dict[str, Any] = {"role": message.role, "content": content or ""}
    for key in ("name", "tool_calls", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            plain[key] = value
    return plain


def _part(part: _Part, where: str) -> str:
    text = {"text": part.text, "refusal": part.refusal}.get(part.type)
    if part.type not in ("text", "refusal"):
        raise Problem(
            Kind.UNSUPPORTED, "This model takes text parts only.", f"{where}.type"
        )
    if text is None:
        _refuse(f"`{where}.{part.type}` is missing.", f"{where}.{part.type}")
    return text


def _refuse(message: str, param: str) -> Never:
    raise Problem(Kind.INVALID_REQUEST, message, param)
