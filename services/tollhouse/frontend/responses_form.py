"""Answers in the shape of OpenAI's Responses API.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Mapping, Sequence

import msgspec

from tollhouse.core.problems import Problem
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
# What the answer repeats of its request, where the client said nothing.
_DEFAULTS: Mapping[str, object] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
}
_TEXT_DELTA = "response.output_text.delta"
_ARGUMENTS_DELTA = "response.function_call_arguments.delta"


class ResponsesForm:
    """One response; the API has no second choice."""

    def __init__(self, request: Request, exchange_id: str, created: int) -> None:
        self._id = exchange_id.replace("-", "")
        self._head = {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": created,
            "model": request.model,
            "error": None,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **_DEFAULTS,
            **request.echo,
        }
        self._result = ChoiceResult()
        self._sequence = 0
        self._delta_name = b""
        self._delta = b""
        """The event of the open item's next delta, up to its number."""

    def opening(self, index: int, usage: Usage) -> bytes:
        """Return the response without its output, twice as the API has it."""
        del index
        response = self._response("in_progress", None)
        return self._event("response.created", usage, response=response) + self._event(
            "response.in_progress", usage, response=response
        )

    def part(self, index: int, part: Part, usage: Usage) -> bytes:
        """Return a delta, and the start of its item where it begins one."""
        del index
        begins = self._result.add(part)
        begun = self._begin(usage) if begins else b""
        if isinstance(part, CallOpened):
            return begun
        text = part.text if isinstance(part, CallArguments) else part
        data = self._delta + b'%d,"delta":%b}' % (self._sequence, _encode(text))
        self._sequence += 1
        return begun + named_event(self._delta_name, data, usage)

    def finish(self, index: int, finish: Finish, usage: Usage) -> bytes:
        """Return the end of the last item; an answer without any is an empty text."""
        begun = b"" if self._result.blocks else self.part(index, "", usage)
        self._result.finish = finish
        return begun + self._end(len(self._result.blocks) - 1, _status(finish), usage)

    def closing(self, usage: Usage) -> bytes:
        """Return the whole response again."""
        status = _status(self._result.finish)
        response = self._response(status, usage, self._result)
        return self._event(f"response.{status}", usage, response=response)

    def broken(self, problem: Problem, usage: Usage) -> bytes:
        """Return the error as an event."""
        error = problem.error()
        said = {name: error[name] for name in ("code", "message", "param")}
        return self._event("error", usage, **said)

    def whole(self, results: Sequence[ChoiceResult], usage: Usage) -> bytes:
        """Return the answer in one piece."""
        (result,) = results
        return _encode(self._response(_status(result.finish), usage, result))

    def _begin(self, usage: Usage) -> bytes:
        """Return the end of the item before the last, and the start of the last."""
        position = len(self._result.blocks) - 1
        ended = self._end(position - 1, "completed", usage) if position else b""
        block = self._result.blocks[position]
        item = self._item(position, Block(block.call), "in_progress")
        place = {"item_id": item["id"], "output_index": position}
        if block.call is None:
            item["content"] = []
        added = self._event(
            "response.output_item.added", usage, output_index=position, item=item
        )
        name = _ARGUMENTS_DELTA
        if block.call is None:
            name = _TEXT_DELTA
            place["content_index"] = 0
            added += self._event(
                "response.content_part.added", usage, **place, part=_text("")
            )
            place["logprobs"] = []
        self._delta_name = name.encode()
        self._delta = _encode({"type": name, **place})[:-1] + b',"sequence_number":'
        return ended + added

    def _end(self, position: int, status: str, usage: Usage) -> bytes:
        block = self._result.blocks[position]
        item = self._item(position, block, status)
        place = {"item_id": item["id"], "output_index": position}
        if block.call is not None:
            done = self._event(
                "response.function_call_arguments.done",
                usage,
                **place,
                name=block.call.name,
                arguments=block.text,
            )
        else:
            place["content_index"] = 0
            done = self._event(
                "response.output_text.done",
                usage,
                **place,
                text=block.text,
                logprobs=[],
            ) + self._event(
                "response.content_part.done", usage, **place, part=_text(block.text)
            )
        return done + self._event(
            "response.output_item.done", usage, output_index=position, item=item
        )

    def _item(self, position: int, block: Block, status: str) -> dict[str, object]:
        if block.call is not None:
            return {
                "id": f"fc_{block.call.id}",
                "type": "function_call",
                "status": status,
                "call_id": f"call_{block.call.id}",
                "name": block.call.name,
                "arguments": block.text,
            }
        return {
            "id": f"msg_{self._id}_{position}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [_text(block.text)],
        }

    def _response(
        self, status: str, usage: Usage | None, result: ChoiceResult | None = None
    ) -> dict[str, object]:
        blocks = (result.blocks or [Block()]) if result is not None else []
        cut = status == "incomplete"
        last = len(blocks) - 1
        return {
            **self._head,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [
                self._item(index, block, status if index == last else "completed")
                for index, block in enumerate(blocks)
            ],
            "usage": None if usage is None else _usage(usage),
        }

    def _event(self, name: str, usage: Usage, /, **fields: object) -> bytes:
        data = {"type": name, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return named_event(name.encode(), _encode(data), usage)


def _status(finish: Finish) -> str:
    return "incomplete" if finish.reason == "length" else "completed"


def _text(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, object]:
    cached = {"cached_tokens": usage.cached_input_tokens, "cache_write_tokens": 0}
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": cached,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
