"""Requests as clients make them, and answers taken apart."""

import dataclasses
import json
import uuid
from typing import Any

import httpx

from tollhouse.core import sse

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

PARAMETERS = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "unit": {"enum": ["c", "f"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["place", "unit", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": PARAMETERS,
    },
}
NEEDS_A_CALL: Any = [{"role": "user", "content": "Use get_weather for Rome, please."}]


def check_arguments(text: str) -> None:
    """The arguments are what the schema says."""
    arguments = json.loads(text)
    assert arguments.keys() == {"place", "unit", "days"}
    assert arguments["unit"] in {"c", "f"}
    assert 1 <= arguments["days"] <= 7


def chat(content: str = "What is a toll?", **fields: Any) -> dict[str, Any]:
    """Return a chat request."""
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny-chat", "messages": messages, **fields}


def completion(prompt: str, **fields: Any) -> dict[str, Any]:
    """Return a completion request."""
    return {"model": "tiny-chat", "prompt": prompt, **fields}


def new_exchange() -> str:
    """Return an exchange id as the gateway would make it."""
    return str(uuid.uuid4())


@dataclasses.dataclass
class Stream:
    """One stream, read to its end."""

    events: list[sse.Event]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The JSON events."""
        return [
            json.loads(event.data) for event in self.events if event.data != "[DONE]"
        ]

    @property
    def comments(self) -> list[tuple[int, int, int]]:
        """The cumulative usage that precedes each event."""
        found = []
        for event in self.events[:-1]:
            (comment,) = event.comments
            assert comment.startswith("usage ")
            counts = [int(count) for count in comment[6:].split(",")]
            found.append((counts[0], counts[1], counts[2]))
        return found

    def text(self, index: int = 0) -> str:
        """The text of one choice."""
        return "".join(self.texts(index))

    def texts(self, index: int = 0) -> list[str]:
        """The text of one choice, event by event."""
        return [
            choice["delta"]["content"] if "delta" in choice else choice["text"]
            for chunk in self.chunks
            for choice in chunk["choices"]
            if choice["index"] == index
            and (choice.get("delta", {}).get("content") or choice.get("text"))
        ]

    def finish_reasons(self) -> dict[int, str]:
        """The finish reason of each choice."""
        return {
            choice["index"]: choice["finish_reason"]
            for chunk in self.chunks
            for choice in chunk["choices"]
            if choice["finish_reason"]
        }

    @property
    def usage(self) -> dict[str, Any]:
        """The usage of the last chunk, which has no choices."""
        last = self.chunks[-1]
        assert last["choices"] == []
        usage: dict[str, Any] = last["usage"]
        return usage


async def stream(
    client: httpx.AsyncClient,
    body: dict[str, Any],
    *,
    path: str = CHAT,
    headers: dict[str, str] | None = None,
) -> Stream:
    """Read a stream to its end, with usage asked for."""
    body = {"stream": True, "stream_options": {"include_usage": True}} | body
    parser = sse.Parser()
    events: list[sse.Event] = []
    async with client.stream("POST", path, json=body, headers=headers) as answer:
        assert answer.status_code == httpx.codes.OK, await answer.aread()
        async for chunk in answer.aiter_raw():
            events += parser.feed(chunk)
    assert events[-1].data == "[DONE]"
    return Stream(events)


async def whole(
    client: httpx.AsyncClient,
    body: dict[str, Any],
    *,
    path: str = CHAT,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return an answer in one piece."""
    answer = await client.post(path, json=body, headers=headers)
    assert answer.status_code == httpx.codes.OK, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed
