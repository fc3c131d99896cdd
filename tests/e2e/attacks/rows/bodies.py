"""What passing bodies look like to a backend, and how attacks write theirs."""

import json

from tests.e2e.attacks import words
from tests.e2e.attacks.row import Arrived
from tests.e2e.edge.backend import Received

_PLAIN = json.loads(words.BODY)


def with_text(text: str) -> bytes:
    """The plain chat with this JSON text in front of its other fields."""
    return b"{" + text.encode() + b"," + words.BODY[1:]


def chat(**fields: object) -> bytes:
    """The plain chat with other or further fields."""
    return json.dumps(_PLAIN | fields).encode()


def prompt(**fields: object) -> bytes:
    """The plain completion with other or further fields."""
    return json.dumps(json.loads(words.PROMPT) | fields).encode()


def embed(**fields: object) -> bytes:
    """The plain request for embeddings with other or further fields."""
    return json.dumps(json.loads(words.EMBED) | fields).encode()


def respond(**fields: object) -> bytes:
    """The plain request for a response with other or further fields."""
    return json.dumps(json.loads(words.RESPOND) | fields).encode()


def parts(*listed: object, model: str = "pictures") -> bytes:
    """A chat whose message has these parts."""
    return chat(model=model, messages=[{"role": "user", "content": list(listed)}])


def is_chat(received: Received) -> bool:
    """Whether it is the plain chat, on its own path."""
    return (
        received.line == f"POST {words.CHAT} HTTP/1.1"
        and json.loads(received.body) == _PLAIN
        and received.headers.get("content-type") == "application/json"
    )


def is_prompt(received: Received) -> bool:
    """Whether it is the plain completion, on its own path."""
    return received.line == f"POST {words.COMPLETIONS} HTTP/1.1" and json.loads(
        received.body
    ) == json.loads(words.PROMPT)


def arrives_at(path: str, body: bytes) -> Arrived:
    """Say that what arrives is this body, on this path."""

    def holds(received: Received) -> bool:
        is_there = received.line == f"POST {path} HTTP/1.1"
        return is_there and json.loads(received.body) == json.loads(body)

    return holds


def with_number(body: bytes, field: str, text: str) -> bytes:
    """A body whose field has this JSON text, whatever it is."""
    marked = json.dumps(json.loads(body) | {field: "@here@"})
    return marked.replace('"@here@"', text).encode()


def has(**fields: object):
    """Say that a forwarded body has these fields, None for not at all."""

    def holds(received: Received) -> bool:
        body = json.loads(received.body)
        return all(body.get(name) == value for name, value in fields.items())

    return holds
