"""What the stand-ins say when all is well, in each API's shape."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.openai_stand_in.profiles import TOKENS_PER_EVENT, Body, Profile

INPUT_TOKENS, CACHED_TOKENS = 11, 4
Event = tuple[str | None, Body | str]
"""Its type, where the API has one, and its data."""


@dataclass(frozen=True)
class Asked:
    """One request that is answered."""

    path: str
    body: Body
    profile: Profile

    @property
    def model(self) -> str:
        model: str = self.body["model"]
        return model

    @property
    def pieces(self) -> int:
        """How many pieces the text of the answer has."""
        names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        caps = [self.body[it] for it in names if self.body.get(it)]
        return min(caps, default=20)

    @property
    def choices(self) -> int:
        return int(self.body.get("n") or 1)

    @property
    def options(self) -> Body:
        return self.body.get("stream_options") or {}

    @property
    def hold_after(self) -> int | None:
        """After how many pieces it goes no further; None: it goes to the end."""
        user = str(self.body.get("user"))
        return int(user.removeprefix("hold-")) if user.startswith("hold-") else None

    @property
    def is_continuous(self) -> bool:
        """Whether every event tells the counts so far, in several tokens each."""
        options = self.options
        asked = options.get("include_usage") and options.get("continuous_usage_stats")
        return bool(self.profile.continuous and asked)


def is_piece(data: Any) -> bool:
    """Whether an event of any of the APIs has text of the model in it."""
    if not isinstance(data, dict):
        return False
    if data.get("type") in ("response.output_text.delta", "content_block_delta"):
        return True
    return any(
        choice.get("text") or choice.get("delta", {}).get("content")
        for choice in data.get("choices") or []
    )


def usage(output: int) -> Body:
    return {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": output,
        "total_tokens": INPUT_TOKENS + output,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }


def response_usage(output: int) -> Body:
    return {
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": CACHED_TOKENS},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT_TOKENS + output,
    }


def messages_usage(output: int) -> Body:
    """Anthropic's: what was cached is beside the input, not in it."""
    return {
        "input_tokens": INPUT_TOKENS - CACHED_TOKENS,
        "cache_read_input_tokens": CACHED_TOKENS,
        "output_tokens": output,
    }


def whole(asked: Asked) -> Body:
    """The answer as one JSON object."""
    output, text = asked.pieces, "w " * asked.pieces
    match asked.path:
        case "/v1/embeddings":
            given = asked.body["input"]
            count = len(given) if isinstance(given, list) else 1
            vectors = [
                {"object": "embedding", "index": it, "embedding": [0.25, -0.5]}
                for it in range(count)
            ]
            counts = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
            return {
                "object": "list",
                "data": vectors,
                "model": asked.model,
                "usage": counts,
            }
        case "/v1/responses":
            return _response(asked, text, output)
        case "/v1/messages":
            return _message(asked) | {
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "usage": messages_usage(output),
            }
        case _:
            choices = [
                {"index": it, "finish_reason": "stop", **_said(asked, "message", text)}
                for it in range(asked.choices)
            ]
            return _chunk(asked, choices) | {"usage": usage(output * asked.choices)}


def events(asked: Asked) -> Iterator[Event]:
    """The answer as a stream."""
    match asked.path:
        case "/v1/responses":
            yield from _response_events(asked)
        case "/v1/messages":
            yield from _message_events(asked)
        case _:
            yield from _chunks(asked)


def _chunks(asked: Asked) -> Iterator[Event]:
    asks = asked.options.get("include_usage")
    shows_null = asked.profile.null_usage and asks
    other = {"usage": None} if shows_null else {}
    each = TOKENS_PER_EVENT if asked.is_continuous else 1
    if "chat" in asked.path:
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        started = {"usage": usage(0)} if asked.is_continuous else other
        yield None, _chunk(asked, [first | {"finish_reason": None}]) | started
    for number in range(1, asked.pieces + 1):
        for index in range(asked.choices):
            is_last = number == asked.pieces
            choice = {
                "index": index,
                "finish_reason": "stop" if is_last else None,
                **_said(asked, "delta", f"w{number} "),
            }
            # vLLM and SGLang tell the count of the chunk's own choice.
            told = {"usage": usage(number * each)} if asked.is_continuous else other
            yield None, _chunk(asked, [choice]) | told
    if asks:
        total = asked.pieces * asked.choices * each
        yield None, _chunk(asked, []) | {"usage": usage(total)}
    yield None, "[DONE]"


def _said(asked: Asked, name: str, text: str) -> Body:
    if "chat" not in asked.path:
        return {"text": text}
    role = {"role": "assistant"} if name == "message" else {}
    return {name: role | {"content": text}}


def _chunk(asked: Asked, choices: list[Body]) -> Body:
    kind = "chat.completion.chunk" if "chat" in asked.path else "text_completion"
    return {
        "id": "cmpl-1",
        "object": kind,
        "created": 1,
        "model": asked.model,
        "choices": choices,
    }


def _response(asked: Asked, text: str, output: int) -> Body:
    content = {"type": "output_text", "text": text, "annotations": []}
    item = {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [content],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": asked.model,
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": response_usage(output),
    }


def _response_events(asked: Asked) -> Iterator[Event]:
    """https://platform.openai.com/docs/api-reference/responses-streaming."""
    begun: dict[str, Any] = _response(asked, "", 0) | {
        "status": "in_progress",
        "output": [],
        "usage": None,
    }
    said: list[tuple[str, Body]] = [
            ("response.created", {"response": begun}),
            *(
                ("response.output_text.delta", {"item_id": "msg_1", "output_index": 0,
                 "content_index": 0, "delta": f"w{it} ", "logprobs": []})
                for it in range(1, asked.pieces + 1)
            ),
            ("response.completed",
             {"response": _response(asked, "w " * asked.pieces, asked.pieces)}),
    ]  # fmt: skip
    for number, (kind, about) in enumerate(said):
        yield kind, {"type": kind, "sequence_number": number} | about


def _message(asked: Asked) -> Body:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _message_events(asked: Asked) -> Iterator[Event]:
    """https://docs.claude.com/en/docs/build-with-claude/streaming."""
    started = _message(asked) | {"usage": messages_usage(0)}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    said: list[tuple[str, Body]] = [
        ("message_start", {"message": started}),
        ("content_block_start",
         {"index": 0, "content_block": {"type": "text", "text": ""}}),
        *(
            ("content_block_delta",
             {"index": 0, "delta": {"type": "text_delta", "text": f"w{it} "}})
            for it in range(1, asked.pieces + 1)
        ),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": end, "usage": messages_usage(asked.pieces)}),
        ("message_stop", {}),
    ]  # fmt: skip
    for kind, about in said:
        yield kind, {"type": kind} | about
