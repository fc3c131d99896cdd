"""The texts of a judged request, for who counts their tokens.

They are read from the request's fields a second time, and only for a model that has a
tokenizer: nothing else of admission looks at what a prompt says.
"""

from typing import Any

import msgspec

from tollhouse.core.catalog import Operation
from tollhouse.core.openai import Request


def texts(request: Request) -> list[str]:
    """Everything that becomes prompt text; together `request.text_bytes` long."""
    fields = request.fields
    if request.operation is Operation.COMPLETIONS:
        prompt = msgspec.json.decode(fields["prompt"])
        return [prompt if isinstance(prompt, str) else prompt[0]]
    found = []
    for message in msgspec.json.decode(fields["messages"]):
        found += _texts(message)
    if "tools" in fields and (tools := msgspec.json.decode(fields["tools"])):
        found.append(_json(tools))
    return found


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
