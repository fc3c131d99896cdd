"""Answers in the shape of OpenAI's chat completions and completions.

A token costs one string escape and a few joins: everything else of an event is the
same for the whole stream.
"""

from collections.abc import Sequence

import msgspec

from tollhouse.core import sse
from tollhouse.core.problems import Problem
from tollhouse.frontend.answer import (
    Block,
    CallArguments,
    CallOpened,
    ChoiceResult,
    Finish,
    Part,
    Usage,
)
from tollhouse.frontend.request import Request

_encode = msgspec.json.encode


class ChatForm:
    """One chat completion or completion: a request for the former has messages."""

    def __init__(self, request: Request, exchange_id: str, created: int) -> None:
        self._chat = chat = request.messages is not None
        self._kind = "chat.completion" if chat else "text_completion"
        id_ = ("chatcmpl-" if chat else "cmpl-") + exchange_id.replace("-", "")
        self._head = {"id": id_, "created": created, "model": request.model}
        chunk = "chat.completion.chunk" if chat else "text_completion"
        head = _encode({**self._head, "object": chunk})[:-1]
        self._open = head + b',"choices":[{"index":'
        self._include_usage = request.include_usage
        self._usage_open = head + b',"choices":[],"usage":'
        # OpenAI: every other chunk has `usage: null` when usage was asked for.
        self._close = b'}],"usage":null}' if request.include_usage else b"}]}"
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

    def part(self, index: int, part: Part, usage: Usage) -> bytes:
        """Return the event of some text, or of some of a call."""
        if isinstance(part, str):
            middle = b"%d" % index + self._text + _encode(part) + self._text_end
        else:
            delta = _encode({"tool_calls": [_call_delta(part)]})
            middle = b'%d,"delta":%b,"finish_reason":null' % (index, delta)
        return self._event(middle, usage)

    def finish(self, index: int, finish: Finish, usage: Usage) -> bytes:
        """Return the event that ends a choice."""
        middle = b"%d" % index + self._finish + finish.reason.encode() + b'"'
        return self._event(middle, usage)

    def closing(self, usage: Usage) -> bytes:
        """Return the usage event, if asked for, and the end of the stream."""
        if not self._include_usage:
            return sse.DONE
        data = self._usage_open + _encode(_usage(usage)) + b"}"
        return sse.event(data, comment=usage.comment()) + sse.DONE

    def broken(self, problem: Problem, usage: Usage) -> bytes:
        """Return the error as an event; no [DONE] follows."""
        return sse.event(problem.body(), comment=usage.comment())

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
                "usage": _usage(usage),
            }
        )

    def _whole_choice(self, index: int, result: ChoiceResult) -> dict[str, object]:
        text = "".join(block.text for block in result.blocks if block.call is None)
        calls = [
            _call(block, block.call)
            for block in result.blocks
            if block.call is not None
        ]
        answer: dict[str, object] = {"text": text}
        if self._chat:
            message: dict[str, object] = {
                "role": "assistant",
                "content": text,
                "refusal": None,
            }
            if calls:
                message |= {"content": text or None, "tool_calls": calls}
            answer = {"message": message}
        return {
            "index": index,
            **answer,
            "logprobs": None,
            "finish_reason": result.finish.reason,
        }


def _call_delta(part: CallOpened | CallArguments) -> dict[str, object]:
    if isinstance(part, CallArguments):
        return {"index": part.index, "function": {"arguments": part.text}}
    return {"index": part.index, **_call(Block(), part)}


def _call(block: Block, call: CallOpened) -> dict[str, object]:
    function = {"name": call.name, "arguments": block.text}
    return {"id": f"call_{call.id}", "type": "function", "function": function}


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
    }
