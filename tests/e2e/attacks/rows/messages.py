"""Anthropic's Messages API: what would have a server fetch, remember or act."""

import json

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask
from tests.e2e.attacks.row import PASSES, rows, says
from tests.e2e.attacks.rows.bodies import arrives_at, chat, with_number
from tests.e2e.attacks.rows.media import PIXEL, URLS
from tests.e2e.attacks.rows.numbers import VALUES

_TOOLS = "extproc: tools of the client only"
_BLOCKS = "extproc: a closed list of blocks"
_DATA = "extproc: images in base64 only"
_KEPT = "extproc: nothing is kept between requests, and nobody is called"
_OTHERS = "extproc refuses the other operation's field"
_LEVER = "extproc refuses it by name"
_BOUND = "extproc bounds it"
_WHOLE = "extproc: a whole number from 1 to the model's largest, and always there"
_DATA_64 = PIXEL.partition(",")[2]
_SOURCE = {"type": "base64", "media_type": "image/png", "data": _DATA_64}
_USER = {"role": "user", "content": "a"}
_FIELDS: list[tuple[int, str, dict[str, object], str]] = [
    (1, "other servers", {"mcp_servers": [{"url": "http://evil"}]}, _KEPT),
    (2, "other servers, as an object", {"mcp_servers": {"url": "http://evil"}}, _KEPT),
    (3, "a container that is kept", {"container": "container_1"}, _KEPT),
    (4, "a container with skills", {"container": {"skills": [{}]}}, _KEPT),
    (
        5,
        "a context that a server edits",
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        _KEPT,
    ),
    (10, "a prompt beside the messages", {"prompt": "a"}, _OTHERS),
    (11, "an input beside the messages", {"input": "a"}, _OTHERS),
    (12, "instructions beside the messages", {"instructions": "a"}, _OTHERS),
    (13, "more choices", {"n": 2}, _OTHERS),
    (14, "the cap of chats", {"max_completion_tokens": 5}, _OTHERS),
    (15, "the cap of responses", {"max_output_tokens": 5}, _OTHERS),
    (16, "options of OpenAI's streams", {"stream_options": {}}, _OTHERS),
    (17, "a stream, as a text", {"stream": "true"}, _BOUND),
    (18, "a thousand stop strings", {"stop_sequences": ["a"] * 1_000}, _BOUND),
    (19, "a template", {"chat_template": "{{ evil }}"}, _LEVER),
    (20, "an answer that may not end", {"ignore_eos": True}, _LEVER),
    (21, "a place in the engine's queue", {"priority": -1000}, _LEVER),
    (22, "a peer of the engine", {"kv_transfer_params": {"remote_host": "a"}}, _LEVER),
    (23, "tools that are no list", {"tools": {"name": "a"}}, _TOOLS),
    (24, "messages that are none", {"messages": []}, _BLOCKS),
    (25, "messages that are a text", {"messages": "a"}, _BLOCKS),
    (26, "4,097 messages", {"messages": [_USER] * 4_097}, _BLOCKS),
]
_SERVER_TOOLS: list[tuple[int, str, object]] = [
    (30, "the web", {"type": "web_search_20250305", "name": "web_search"}),
    (31, "pages of the web", {"type": "web_fetch_20250910", "name": "web_fetch"}),
    (32, "code", {"type": "code_execution_20250825", "name": "code_execution"}),
    (33, "a computer", {"type": "computer_20250124", "name": "computer"}),
    (34, "a shell", {"type": "bash_20250124", "name": "bash"}),
    (35, "an editor", {"type": "text_editor_20250728", "name": "editor"}),
    (36, "a memory", {"type": "memory_20250818", "name": "memory"}),
    (37, "another server's tools", {"type": "mcp_toolset", "mcp_server_name": "a"}),
    (38, "a tool of several types", {"type": ["custom", "bash_20250124"]}),
    (39, "a tool that is a text", "web_search"),
]
_SYSTEMS: list[tuple[int, str, object]] = [
    (40, "a number", 5),
    (41, "true", True),
    (42, "an object", {"type": "text", "text": "a"}),
    (43, "a list of texts", ["a"]),
    (44, "a list of lists", [[{"type": "text", "text": "a"}]]),
    (45, "an image", [{"type": "image", "source": _SOURCE}]),
    (46, "a document", [{"type": "document", "source": _SOURCE}]),
    (47, "a text that is a list", [{"type": "text", "text": ["a"]}]),
]
_MESSAGES: list[tuple[int, str, object]] = [
    (50, "a message that is a text", "a"),
    (51, "the role of a system", {"role": "system", "content": "a"}),
    (52, "the role of a tool", {"role": "tool", "content": "a"}),
    (53, "no role", {"content": "a"}),
    (54, "no content", {"role": "user"}),
    (55, "content that is an object", {"role": "user", "content": {"text": "a"}}),
    (56, "a block that is a text", {"role": "user", "content": ["a"]}),
]
_BLOCKED: list[tuple[int, str, object]] = [
    (
        60,
        "a document from a URL",
        {"type": "document", "source": {"type": "url", "url": "http://evil"}},
    ),
    (
        61,
        "a document within",
        {"type": "document", "source": {**_SOURCE, "media_type": "application/pdf"}},
    ),
    (
        62,
        "a document by its id",
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    ),
    (63, "a file for a container", {"type": "container_upload", "file_id": "file_1"}),
    (64, "a result of a search", {"type": "search_result", "source": "http://evil"}),
    (65, "a call of the server's", {"type": "server_tool_use", "name": "web_search"}),
    (66, "what the web said", {"type": "web_search_tool_result", "content": []}),
    (67, "a call of another server", {"type": "mcp_tool_use", "server_name": "evil"}),
    (68, "a part of OpenAI's", {"type": "image_url", "image_url": {"url": PIXEL}}),
    (69, "a block without a type", {"text": "a"}),
    (70, "a block of several types", {"type": ["text"], "text": "a"}),
    (
        71,
        "a text that carries a URL",
        {"type": "text", "text": "a", "url": "http://evil"},
    ),
    (
        72,
        "a tool's result from a URL",
        {
            "type": "tool_result",
            "tool_use_id": "1",
            "content": [
                {"type": "image", "source": {"type": "url", "url": "http://evil"}}
            ],
        },
    ),
    (
        73,
        "a document in a tool's result",
        {
            "type": "tool_result",
            "tool_use_id": "1",
            "content": [{"type": "document", "source": _SOURCE}],
        },
    ),
    (
        74,
        "a tool's result within another",
        {
            "type": "tool_result",
            "tool_use_id": "1",
            "content": [{"type": "tool_result", "tool_use_id": "2", "content": "a"}],
        },
    ),
]
_SOURCES: list[tuple[int, str, object]] = [
    (80, "by its id", {"type": "file", "file_id": "file_1"}),
    (81, "that has a URL beside its data", {**_SOURCE, "url": "http://evil"}),
    (82, "that says base64 and has a URL", {**_SOURCE, "data": "http://evil"}),
    (83, "that is SVG", {**_SOURCE, "media_type": "image/svg+xml"}),
    (84, "that is a page", {**_SOURCE, "media_type": "text/html"}),
    (85, "whose type hides data", {**_SOURCE, "media_type": "image/png;base64,AA"}),
    (86, "whose data are a list", {**_SOURCE, "data": [_DATA_64]}),
    (87, "whose source is a text", PIXEL),
    (88, "without a source", None),
    (89, "of several types", {**_SOURCE, "type": ["base64", "url"]}),
]
_TRICKS = {1, 2, 3, 6, 7, 9}
"""Numbers of `URLS`; the others are tricks with data: URLs."""


def _send(**fields: object) -> Http1:
    return ask(words.MESSAGES, body=chat(**fields))


def _block(block: object, model: str = "pictures") -> Http1:
    return _send(model=model, messages=[{"role": "user", "content": [block]}])


def _image(source: object) -> dict[str, object]:
    return {"type": "image", "source": source}


def _without_cap() -> bytes:
    body = json.loads(words.BODY)
    del body["max_tokens"]
    return json.dumps(body).encode()


_AT_BLOCK = says("messages[0].content[0]")
_CAP = says("`max_tokens`")

ROWS = [
    *rows(
        "messages",
        [
            (at, what, how, _send(**it), says(f"`{name}`"))
            for at, what, it, how in _FIELDS
            for name in it
        ],
    ),
    *rows(
        "messages",
        [
            (
                at,
                f"a tool of the server: {what}",
                _TOOLS,
                _send(tools=[it]),
                says("tools[0]"),
            )
            for at, what, it in _SERVER_TOOLS
        ],
    ),
    *rows(
        "messages",
        [
            (at, f"a system prompt: {what}", _BLOCKS, _send(system=it), says("`system"))
            for at, what, it in _SYSTEMS
        ],
    ),
    *rows(
        "messages",
        [
            (at, what, _BLOCKS, _send(messages=[it]), says("`messages[0]"))
            for at, what, it in _MESSAGES
        ],
    ),
    *rows(
        "messages",
        [(at, what, _BLOCKS, _block(it), _AT_BLOCK) for at, what, it in _BLOCKED],
    ),
    *rows(
        "messages",
        [
            (at, f"an image {what}", _DATA, _block(_image(it)), _AT_BLOCK)
            for at, what, it in _SOURCES
        ],
    ),
    *rows(
        "messages",
        [
            (
                200 + at,
                f"an image from {what}",
                _DATA,
                _block(_image({"type": "url", "url": it})),
                _AT_BLOCK,
            )
            for at, what, it in URLS
            if at in _TRICKS
        ],
    ),
    *rows(
        "messages",
        [
            (
                at,
                f"max_tokens: {what}",
                _WHOLE,
                ask(words.MESSAGES, body=with_number(words.BODY, "max_tokens", it)),
                says("out of range") if what == "beyond a float" else _CAP,
            )
            for at, (what, it) in enumerate(VALUES, start=100)
        ],
    ),
    *rows(
        "messages",
        [
            (
                120,
                "max_tokens: more than the model gives",
                _WHOLE,
                _send(max_tokens=4_097),
                says("4096"),
            ),
            (121, "max_tokens: null", _WHOLE, _send(max_tokens=None), _CAP),
            (
                122,
                "no cap",
                _WHOLE,
                ask(words.MESSAGES, body=_without_cap()),
                _CAP,
            ),
            (
                123,
                "messages as they should be",
                _BLOCKS,
                ask(words.MESSAGES, "anthropic-version: 2023-06-01"),
                PASSES,
                arrives_at(words.MESSAGES, words.BODY),
            ),
            (
                124,
                "an image for a model that takes text",
                "extproc: Triton's models take text",
                _block(_image(_SOURCE), model="tiny-chat"),
                says("text only"),
            ),
            (
                125,
                "an image as it should be",
                _DATA,
                _block(_image(_SOURCE)),
                PASSES,
                lambda received: _DATA_64.encode() in received.body,
            ),
            (
                126,
                "messages for a model beyond the key's scopes",
                "extproc: scopes name models; unknown and forbidden look alike",
                _send(model="private"),
                says("does not exist", status=404),
            ),
            (
                127,
                "a response to the path of messages",
                _OTHERS,
                ask(words.MESSAGES, body=words.RESPOND),
                says("belongs to"),
            ),
            (
                128,
                "JSON that is none",
                "extproc: one plain JSON object",
                ask(words.MESSAGES, body=b"{"),
                says("JSON"),
            ),
            (
                129,
                "a compressed body",
                "a route answers it",
                ask(words.MESSAGES, "content-encoding: gzip"),
                says("content-encoding", status=415),
            ),
            (
                130,
                "20 MB declared, nothing sent",
                "a route answers it at once",
                ask(
                    words.MESSAGES,
                    "content-length: 20000000",
                    body=b"",
                    length=False,
                ),
                says("3 MiB", status=413),
            ),
        ],
    ),
]
