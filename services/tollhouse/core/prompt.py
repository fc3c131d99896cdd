"""The texts of a judged request, for who counts their tokens.

They are read from the request's fields a second time, and only for a model that has a
tokenizer: nothing else of admission looks at what a prompt says.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from tollhouse.core.catalog import Operation
from tollhouse.core.embeddings_fields import embeddings_texts
from tollhouse.core.messages_fields import messages_texts
from tollhouse.core.request import Request
from tollhouse.core.responses_fields import responses_texts

_Fields = dict[str, Any]


def texts(request: Request) -> list[str]:
    """Everything that becomes prompt text; together `request.text_bytes` long."""
    fields = {
        name: msgspec.json.decode(raw)
        for name, raw in request.fields.items()
        if name in _PROMPT_FIELDS
    }
    return list(_READERS[request.operation](fields))


def _chat(fields: _Fields) -> list[str]:
    found = []
    for message in fields["messages"]:
        found += _texts(message)
    if tools := fields.get("tools"):
        found.append(_json(tools))
    return found


def _completion(fields: _Fields) -> list[str]:
    prompt = fields["prompt"]
    return [prompt if isinstance(prompt, str) else prompt[0]]


def _texts(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        found = [content]
    else:
        found = [
            part[part["type"]]
            for part in content or ()
            if part["type"] in ("text", "refusal")
        ]
    if calls := message.get("tool_calls"):
        found.append(_json(calls))
    return found


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_PROMPT_FIELDS = {"messages", "prompt", "input", "instructions", "system", "tools"}
_READERS: Mapping[Operation, Callable[[_Fields], Iterable[str]]] = {
    Operation.CHAT: _chat,
    Operation.COMPLETIONS: _completion,
    Operation.EMBEDDINGS: embeddings_texts,
    Operation.RESPONSES: responses_texts,
    Operation.MESSAGES: messages_texts,
}
