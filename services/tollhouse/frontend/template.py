"""The model's chat template: Jinja in a sandbox, over messages made harmless."""

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox

from tollhouse.core.problems import Kind, Problem

_ZERO_WIDTH_SPACE = "\u200b"


class Neutraliser:
    """Keeps users from writing control tokens, which tokenizers find inside text.

    A zero-width space goes in after the first character of each: the text looks the
    same and is no longer the token. Overlapping ones are all found.
    """

    def __init__(self, control_tokens: Iterable[str]) -> None:
        # A token of one character can't be split; it is taken out.
        tokens = sorted(set(control_tokens) - {""}, key=len, reverse=True)
        long = "|".join(re.escape(token) for token in tokens if len(token) > 1)
        short = "".join(re.escape(token) for token in tokens if len(token) == 1)
        self._long = re.compile(f"(?=(?:{long}))(.)", re.DOTALL) if long else None
        self._short = re.compile(f"[{short}]") if short else None

    def text(self, text: str) -> str:
        """Return the text without control tokens."""
        if self._short is not None:
            text = self._short.sub("", text)
        if self._long is not None:
            text = self._long.sub(rf"\1{_ZERO_WIDTH_SPACE}", text)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with every string in it, keys too, made harmless."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.value(item) for item in value]
            case dict():
                return {self.text(key): self.value(it) for key, it in value.items()}
            case _:
                return value


class _Refusal(jinja2.TemplateError):
    """What a template says with raise_exception: written by the model's makers."""


class ChatTemplate:
    """One compiled template, with what templates of the trade expect around it."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self._tokens = dict(tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the prompt. Raises Problem when the template refuses the messages."""
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                add_generation_prompt=True,
                **self._tokens,
            )
        except _Refusal as refusal:
            raise Problem(
                Kind.INVALID_REQUEST,
                f"The model's chat template refused the messages: {refusal}",
                "messages",
            ) from refusal
        except Exception as error:  # a template may fail in any way
            raise Problem(
                Kind.INVALID_REQUEST,
                "The model's chat template can't render these messages.",
                "messages",
            ) from error


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise _Refusal(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now(dt.UTC).strftime(form)
