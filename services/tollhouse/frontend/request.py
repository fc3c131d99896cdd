"""One judged request, whichever API it came by, and what reading all bodies shares.

Triton answers malformed tensors with server errors, so nothing reaches it that was
not checked. A field that would change the answer and that we can't honour is refused
by name; fields that only describe the caller are ignored.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Never, TypeVar

import msgspec

from tollhouse.core.problems import Kind, Problem
from tollhouse.core.refusal import refuse
from tollhouse.frontend.contract import Guide
from tollhouse.frontend.tools import Tools

MAX_STOPS = 4
"""OpenAI's bound on stop strings."""
MAX_STOP_CHARACTERS = 256

LARGEST_TOKENS = 2**31 - 1
Tokens = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_TOKENS)]

Harmless = Mapping[str, tuple[object, ...]]
"""Refused field → the values that ask for nothing; null always does."""
# Nothing here has them, whatever the API.
_NOWHERE: Harmless = {
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "logit_bias": ({},),
    "prompt_logprobs": (),
    "structured_outputs": (),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
}

Messages = tuple[dict[str, Any], ...]
"""A conversation as chat templates know it, each content one string."""


@dataclass(frozen=True, slots=True)
class Request:
    """One judged request; a chat has `messages`, a completion has `prompt`."""

    model: str
    messages: Messages | None
    prompt: str = ""
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    choices: int = 1
    stops: tuple[str, ...] = ()
    seed: int | None = None
    sampling: dict[str, int | float] = field(default_factory=dict)
    """Parameters the client named, by their OpenAI or vLLM name."""
    ignore_eos: bool = False
    tools: Tools | None = None
    guide: Guide | None = None
    size: int = 0
    """Bytes of the body: what rendering and counting cost goes by it."""
    echo: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the answer repeats, where the API does that."""


Body = TypeVar("Body", bound=msgspec.Struct)


class Reader(Generic[Body]):
    """Reads the bodies of one API."""

    def __init__(self, body: type[Body], refused: Harmless) -> None:
        self._decode: Callable[[bytes], Body] = msgspec.json.Decoder(body).decode
        self._refused = {**_NOWHERE, **refused}

    def read(self, body: bytes) -> Body:
        """Return what the API's fields say. Raises Problem."""
        try:
            decoded = self._decode(body)
            fields = _decode_any(body)
        except msgspec.ValidationError as error:
            raise _from_validation(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Problem(
                Kind.INVALID_REQUEST, "The body must be a JSON object."
            ) from None
        for name in fields.keys() & self._refused.keys():
            if not _is_harmless(msgspec.json.decode(fields[name]), self._refused[name]):
                unsupported(name)
        return decoded


_decode_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _is_harmless(value: object, harmless: tuple[object, ...]) -> bool:
    # `1 == True` in Python: compare types as well.
    return value is None or any(
        type(value) is type(it) and value == it for it in harmless
    )


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


def stop_strings(stop: str | list[str] | None, name: str) -> tuple[str, ...]:
    """Judge the stop strings of the field `name`. Raises Problem."""
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        refuse(f"must have at most {MAX_STOPS} strings.", name)
    if any(not text or len(text) > MAX_STOP_CHARACTERS for text in stops):
        refuse(f"strings have 1 to {MAX_STOP_CHARACTERS} characters.", name)
    return stops


def schema_guide(schema: object, where: str, param: str) -> Guide:
    """Return the guide of a JSON schema that came as `where`, refused as `param`."""
    if not isinstance(schema, dict):
        refuse("must be a JSON schema.", where)
    return Guide.of_schema(schema, param)


def arguments(text: str, where: str) -> dict[str, Any]:
    """Return the arguments of an earlier call, as templates take them."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        refuse("must be a JSON object.", where)
    return value


def past_call(id_: str, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return an earlier call as chat templates take it, in `tool_calls`."""
    function = {"name": name, "arguments": values}
    return {"id": id_, "type": "function", "function": function}


def unsupported(name: str) -> Never:
    """Refuse a field that the model can't honour."""
    raise Problem(Kind.UNSUPPORTED, f"This model does not support `{name}`.", name)
