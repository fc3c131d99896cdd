"""OpenAI's Responses API: what would have a server remember, fetch or act."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask
from tests.e2e.attacks.row import (
    INVALID,
    NO_MODEL,
    PASSES,
    UNSUPPORTED,
    Expect,
    rows,
)
from tests.e2e.attacks.rows.bodies import arrives_at, has, respond, with_number
from tests.e2e.attacks.rows.media import PIXEL, URLS
from tests.e2e.attacks.rows.numbers import VALUES

_KEPT = "extproc: nothing is kept between requests"
_TOOLS = "extproc: functions of the client only"
_ITEMS = "extproc: a closed list of items and parts"
_DATA = "extproc: images as data: URLs only"
_OTHERS = "extproc refuses the other operation's field"
_LEVER = "extproc refuses it by name"
_BOUND = "extproc bounds it as OpenAI does"
_WHOLE = "extproc: a whole number from 1 to the model's largest"
_USER = {"role": "user", "content": "a"}
_FIELDS: list[tuple[int, str, dict[str, object], str, Expect]] = [
    (
        1,
        "an earlier response as prompt",
        {"previous_response_id": "resp_1"},
        _KEPT,
        UNSUPPORTED,
    ),
    (
        2,
        "an earlier response of no name",
        {"previous_response_id": ""},
        _KEPT,
        UNSUPPORTED,
    ),
    (3, "a conversation as prompt", {"conversation": "conv_1"}, _KEPT, UNSUPPORTED),
    (
        4,
        "a conversation in an object",
        {"conversation": {"id": "conv_1"}},
        _KEPT,
        UNSUPPORTED,
    ),
    (5, "an answer behind our back", {"background": True}, _KEPT, UNSUPPORTED),
    (6, "an answer that is kept", {"store": True}, _KEPT, UNSUPPORTED),
    (7, "an answer that is kept, as a text", {"store": "yes"}, _KEPT, UNSUPPORTED),
    (
        8,
        "a template that a server keeps",
        {"prompt": {"id": "pmpt_1"}},
        _KEPT,
        UNSUPPORTED,
    ),
    (
        9,
        "vLLM: earlier messages as prompt",
        {"previous_input_messages": [_USER]},
        _LEVER,
        UNSUPPORTED,
    ),
    (20, "messages beside the input", {"messages": [_USER]}, _OTHERS, INVALID),
    (21, "a system prompt of Anthropic's", {"system": "a"}, _OTHERS, INVALID),
    (22, "more choices", {"n": 2}, _OTHERS, INVALID),
    (23, "choices that are ranked", {"best_of": 2}, _OTHERS, INVALID),
    (24, "the cap of completions", {"max_tokens": 5}, _OTHERS, INVALID),
    (25, "the cap of chats", {"max_completion_tokens": 5}, _OTHERS, INVALID),
    (26, "instructions in a list", {"instructions": ["a"]}, _ITEMS, INVALID),
    (27, "instructions that are items", {"instructions": [_USER]}, _ITEMS, INVALID),
    (28, "a schema to compile", {"guided_json": {}}, _LEVER, UNSUPPORTED),
    (
        29,
        "values for the chat template",
        {"chat_template_kwargs": {"evil": 1}},
        _LEVER,
        UNSUPPORTED,
    ),
    (30, "a place in the engine's queue", {"priority": -1000}, _LEVER, UNSUPPORTED),
    (31, "another id for the engine", {"request_id": "evil"}, _LEVER, UNSUPPORTED),
    (
        32,
        "probabilities of every token",
        {"top_logprobs": 100_000},
        _BOUND,
        INVALID,
    ),
    (33, "options of a stream without one", {"stream_options": {}}, _BOUND, INVALID),
    (34, "a stream, as a text", {"stream": "true"}, _BOUND, INVALID),
    (35, "tools that are no list", {"tools": {"type": "function"}}, _TOOLS, INVALID),
]
_SERVER_TOOLS: list[tuple[int, str, object]] = [
    (40, "the web", {"type": "web_search"}),
    (41, "the web, by its old name", {"type": "web_search_preview"}),
    (42, "files of a server", {"type": "file_search", "vector_store_ids": ["vs_1"]}),
    (43, "another server", {"type": "mcp", "server_url": "http://169.254.169.254/"}),
    (44, "code", {"type": "code_interpreter", "container": {"type": "auto"}}),
    (45, "a computer", {"type": "computer_use_preview", "environment": "linux"}),
    (46, "images", {"type": "image_generation"}),
    (47, "a shell", {"type": "local_shell"}),
    (48, "a tool without a type", {"name": "evil"}),
    (49, "a tool of several types", {"type": ["function", "mcp"]}),
    (50, "a tool that is a text", "web_search"),
]
_INPUTS: list[tuple[int, str, object]] = [
    (60, "no input", None),
    (61, "an empty list", []),
    (62, "a number", 5),
    (63, "an object", _USER),
    (64, "true", True),
    (65, "a number among items", [_USER, 5]),
    (66, "a text among items", [_USER, "a"]),
    (67, "a list among items", [[_USER]]),
    (68, "4,097 items", [_USER] * 4_097),
    (69, "an item that a server keeps", [{"type": "item_reference", "id": "msg_1"}]),
    (70, "an item by its id alone", [{"id": "msg_1"}]),
    (71, "an item of type null", [_USER | {"type": None}]),
    (72, "an item of several types", [_USER | {"type": ["message"]}]),
    (73, "an unknown type", [_USER | {"type": "evil"}]),
    (74, "an unknown role", [{"role": "evil", "content": "a"}]),
    (75, "no content", [{"role": "user"}]),
    (76, "a call of the web", [{"type": "web_search_call", "id": "ws_1"}]),
    (
        77,
        "a screenshot from a URL",
        [
            {
                "type": "computer_call_output",
                "output": {"type": "computer_screenshot", "image_url": "http://evil"},
            }
        ],
    ),
    (78, "a call of another server", [{"type": "mcp_call", "server_label": "evil"}]),
    (79, "code that was run", [{"type": "code_interpreter_call", "code": "evil"}]),
    (
        80,
        "an image in a function's output, from a URL",
        [
            {
                "type": "function_call_output",
                "call_id": "1",
                "output": [{"type": "input_image", "image_url": "http://evil"}],
            }
        ],
    ),
    (
        81,
        "a function's output that is an object",
        [{"type": "function_call_output", "call_id": "1", "output": {"a": 1}}],
    ),
    (
        82,
        "arguments that are an object",
        [{"type": "function_call", "name": "f", "arguments": {"a": 1}}],
    ),
]
_PARTS: list[tuple[int, str, object]] = [
    (83, "an image by its id", {"type": "input_image", "file_id": "file-1"}),
    (
        84,
        "an image by its id beside the data",
        {"type": "input_image", "image_url": PIXEL, "file_id": "file-1"},
    ),
    (85, "a file from a URL", {"type": "input_file", "file_url": "http://evil"}),
    (86, "a file by its id", {"type": "input_file", "file_id": "file-1"}),
    (87, "a file within", {"type": "input_file", "file_data": "AAAA"}),
    (88, "sound", {"type": "input_audio", "input_audio": {"data": "AAAA"}}),
    (
        89,
        "a text that carries a URL",
        {"type": "input_text", "text": "a", "image_url": "http://evil"},
    ),
    (90, "a part of a chat", {"type": "image_url", "image_url": {"url": PIXEL}}),
    (91, "a text that is a list", {"type": "input_text", "text": ["a"]}),
]
_TRICKS = {1, 3, 6, 7, 9, 11, 12, 14, 15, 17, 18, 19}
"""Numbers of `URLS`."""


def _send(**fields: object) -> Http1:
    return ask(words.RESPONSES, body=respond(**fields))


def _part(part: object, model: str = "pictures") -> Http1:
    return _send(model=model, input=[{"role": "user", "content": [part]}])


def _image(url: object) -> dict[str, object]:
    return {"type": "input_image", "image_url": url}


ROWS = [
    *rows(
        "responses",
        [(at, what, how, _send(**it), expect) for at, what, it, how, expect in _FIELDS],
    ),
    *rows(
        "responses",
        [
            (
                at,
                f"a tool of the server: {what}",
                _TOOLS,
                _send(tools=[it]),
                UNSUPPORTED,
            )
            for at, what, it in _SERVER_TOOLS
        ],
    ),
    *rows(
        "responses",
        [(at, what, _ITEMS, _send(input=it), INVALID) for at, what, it in _INPUTS],
    ),
    *rows(
        "responses",
        [(at, what, _ITEMS, _part(it), INVALID) for at, what, it in _PARTS],
    ),
    *rows(
        "responses",
        [
            (200 + at, f"an image from {what}", _DATA, _part(_image(it)), INVALID)
            for at, what, it in URLS
            if at in _TRICKS
        ],
    ),
    *rows(
        "responses",
        [
            (
                at,
                f"max_output_tokens: {what}",
                _WHOLE,
                ask(
                    words.RESPONSES,
                    body=with_number(words.RESPOND, "max_output_tokens", it),
                ),
                INVALID,
            )
            for at, (what, it) in enumerate(VALUES, start=100)
        ],
    ),
    *rows(
        "responses",
        [
            (
                120,
                "max_output_tokens: more than the model gives",
                _WHOLE,
                _send(max_output_tokens=4_097),
                INVALID,
            ),
            (
                121,
                "no cap",
                "extproc puts the default in",
                _send(max_output_tokens=None),
                PASSES,
                has(max_output_tokens=256),
            ),
            (
                122,
                "a response as it should be",
                _ITEMS,
                _send(),
                PASSES,
                arrives_at(words.RESPONSES, words.RESPOND),
            ),
            (
                123,
                "an image for a model that takes text",
                "extproc: Triton's models take text",
                _part(_image(PIXEL), model="tiny-chat"),
                INVALID,
            ),
            (
                124,
                "an image as it should be",
                _DATA,
                _part(_image(PIXEL)),
                PASSES,
                lambda received: PIXEL.encode() in received.body,
            ),
            (
                125,
                "a response by a model beyond the key's scopes",
                "extproc: scopes name models; unknown and forbidden look alike",
                _send(model="private"),
                NO_MODEL,
            ),
            (
                126,
                "a chat to the path of responses",
                _OTHERS,
                ask(words.RESPONSES),
                INVALID,
            ),
            (
                127,
                "a response to the path of chats",
                _OTHERS,
                ask(body=words.RESPOND),
                INVALID,
            ),
        ],
    ),
]
