"""Answers in OpenAI's shape: stream events by template, whole answers by msgspec.

A token costs one string escape and a few joins: everything else of an event is the
same for the whole stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from tollhouse.core import sse
from tollhouse.core.problems import Problem

_encode = msgspec.json.encode


@dataclass(slots=True)
class ChoiceResult:
    """One choice of an answer in one piece."""

    texts: list[str] = field(default_factory=list)
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far, over all choices; the prompt counts once."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0

    def comment(self) -> bytes:
        """Return what the gateway's meter reads from a stream."""
        return b"usage %d,%d,%d" % (
            self.input_tokens,
            self.output_tokens,
            self.cached_input_tokens,
        )

    def openai(self) -> dict[str, object]:
        """Return OpenAI's `usage`."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_input_tokens},
        }


class Form:
    """The form of one answer: chat or completion, its id, its model."""

    def __init__(
        self, *, chat: bool, id_: str, created: int, model: str, include_usage: bool
    ) -> None:
        self._chat = chat
        self._kind = "chat.completion" if chat else "text_completion"
        self._head = {"id": id_, "created": created, "model": model}
        chunk = "chat.completion.chunk" if chat else "text_completion"
        head = _encode({**self._head, "object": chunk})[:-1]
        self._open = head + b',"choices":[{"index":'
        self._usage_open = head + b',"choices":[],"usage":'
        # OpenAI: every other chunk has `usage: null` when usage was asked for.
        self._close = b'}],"usage":null}' if include_usage else b"}]}"
        if chat:
            self._text = b',"delta":{"content":'
            self._text_end = b'},"finish_reason":null'
            self._finish = b',"delta":{},"finish_reason":"'
        else:
            self._text = b',"text":'
            self._text_end = b',"logprobs":null,"finish_reason":null'
            self._finish = b',"text":"","logprobs":null,"finish_reason":"'

    def opening(self, index: int, usage: Usage) -> bytes:
        """Return the event that names the role; completions have none."""
        if not self._chat:
            return b""
        delta = b',"delta":{"role":"assistant","content":""},"finish_reason":null'
        return self._event(b"%d" % index + delta, usage)

    def text(self, index: int, text: str, usage: Usage) -> bytes:
        """Return the event of some text."""
        middle = b"%d" % index + self._text + _encode(text) + self._text_end
        return self._event(middle, usage)

    def finish(self, index: int, reason: str, usage: Usage) -> bytes:
        """Return the event that ends a choice."""
        middle = b"%d" % index + self._finish + reason.encode() + b'"'
        return self._event(middle, usage)

    def closing(self, usage: Usage, *, include_usage: bool) -> bytes:
        """Return the usage event, if asked for, and the end of the stream."""
        if not include_usage:
            return sse.DONE
        data = self._usage_open + _encode(usage.openai()) + b"}"
        return sse.event(data, comment=usage.comment()) + sse.DONE

    def _event(self, middle: bytes, usage: Usage) -> bytes:
        return sse.event(self._open + middle + self._close, comment=usage.comment())

    def whole(self, results: Sequence[ChoiceResult], usage: Usage) -> bytes:
        """Return the answer in one piece."""
        return _encode(
            {
                **self._head,
                "object": self._kind,
                "choices": [
                    self._whole_choice(index, result)
                    for index, result in enumerate(results)
                ],
                "usage": usage.openai(),
            }
        )

    def _whole_choice(self, index: int, result: ChoiceResult) -> dict[str, object]:
        text = "".join(result.texts)
        answer: dict[str, object] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}}
            if self._chat
            else {"text": text}
        )
        return {
            "index": index,
            **answer,
            "logprobs": None,
            "finish_reason": result.finish_reason,
        }


def broken(problem: Problem, usage: Usage) -> bytes:
    """Return the event that says why a stream ends here; no [DONE] follows."""
    return sse.event(problem.body(), comment=usage.comment())
