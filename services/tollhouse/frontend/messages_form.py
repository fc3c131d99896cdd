"""Answers in the shape of Anthropic's Messages API.

https://docs.claude.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Sequence

import msgspec

from tollhouse.core.problems import Dialect, Problem
from tollhouse.frontend.answer import (
    Block,
    CallArguments,
    CallOpened,
    ChoiceResult,
    Finish,
    Part,
    Usage,
    named_event,
)
from tollhouse.frontend.request import Request

_encode = msgspec.json.encode
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessagesForm:
    """One message; the API has no second choice."""

    def __init__(self, request: Request, exchange_id: str, created: int) -> None:
        del created  # messages have no date
        self._head = {
            "id": "msg_" + exchange_id.replace("-", ""),
            "type": "message",
            "role": "assistant",
            "model": request.model,
        }
        self._block = -1
        self._in_text = False
        self._delta = b""
        """The event of the open block's next delta, up to its text."""

    def opening(self, index: int, usage: Usage) -> bytes:
        """Return the message without its content."""
        del index
        message: dict[str, object] = {
            **self._head,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(usage),
        }
        return _event("message_start", usage, message=message)

    def part(self, index: int, part: Part, usage: Usage) -> bytes:
        """Return a delta, and the start of its block where it begins one."""
        del index
        if isinstance(part, CallOpened):
            block = _tool_use(part, {})
            return self._begin(block, b"input_json_delta", b"partial_json", usage)
        begun, text = b"", part
        if isinstance(part, CallArguments):
            text = part.text
        elif not self._in_text:
            block = {"type": "text", "text": ""}
            begun = self._begin(block, b"text_delta", b"text", usage)
            self._in_text = True
        data = self._delta + _encode(text) + b"}}"
        return begun + named_event(b"content_block_delta", data, usage)

    def finish(self, index: int, finish: Finish, usage: Usage) -> bytes:
        """Return the end of the last block, and why the message ends."""
        del index
        delta = _stop(finish)
        return self._end(usage) + _event(
            "message_delta", usage, delta=delta, usage=_usage(usage)
        )

    def closing(self, usage: Usage) -> bytes:
        """Return the end of the stream."""
        return _event("message_stop", usage)

    def broken(self, problem: Problem, usage: Usage) -> bytes:
        """Return the error as an event."""
        return named_event(b"error", problem.body(Dialect.ANTHROPIC), usage)

    def whole(self, results: Sequence[ChoiceResult], usage: Usage) -> bytes:
        """Return the answer in one piece."""
        (result,) = results
        return _encode(
            {
                **self._head,
                "content": [_content(block) for block in result.blocks],
                **_stop(result.finish),
                "usage": _usage(usage),
            }
        )

    def _begin(
        self, block: dict[str, object], delta: bytes, field: bytes, usage: Usage
    ) -> bytes:
        ended = self._end(usage)
        self._block += 1
        self._in_text = False
        self._delta = (
            b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._block, delta, field)
        )
        start = _event(
            "content_block_start", usage, index=self._block, content_block=block
        )
        return ended + start

    def _end(self, usage: Usage) -> bytes:
        if self._block < 0:
            return b""
        return _event("content_block_stop", usage, index=self._block)


def _event(name: str, usage: Usage, /, **fields: object) -> bytes:
    return named_event(name.encode(), _encode({"type": name, **fields}), usage)


def _content(block: Block) -> dict[str, object]:
    if block.call is None:
        return {"type": "text", "text": block.text}
    try:
        values = msgspec.json.decode(block.text)
    except msgspec.DecodeError:
        values = {}  # cut off by max_tokens: only an object may stand here
    return _tool_use(block.call, values)


def _tool_use(call: CallOpened, values: object) -> dict[str, object]:
    id_ = f"toolu_{call.id}"
    return {"type": "tool_use", "id": id_, "name": call.name, "input": values}


def _stop(finish: Finish) -> dict[str, object]:
    if finish.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": _REASONS[finish.reason], "stop_sequence": None}


def _usage(usage: Usage) -> dict[str, object]:
    """Anthropic's input does not include what was read from a cache."""
    return {
        "input_tokens": usage.input_tokens - usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_input_tokens,
    }
