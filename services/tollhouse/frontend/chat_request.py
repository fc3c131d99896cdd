"""OpenAI's chat completions and completions, as this frontend reads them.

https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Annotated, Any

import msgspec

from tollhouse.core.refusal import refuse
from tollhouse.core.request import MAX_CHOICES
from tollhouse.frontend.contract import Guide
from tollhouse.frontend.request import (
    LARGEST_TOKENS,
    Messages,
    Reader,
    Request,
    Tokens,
    arguments,
    past_call,
    schema_guide,
    stop_strings,
    unsupported,
)
from tollhouse.frontend.tools import Function, Tools, offered

_ROLES = ("system", "developer", "user", "assistant", "tool")

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]

_CHAT_REFUSED: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "store": (False,),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_COMPLETION_REFUSED = _CHAT_REFUSED | {
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "min_tokens",
)


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _CalledFunction
    id: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Tool(msgspec.Struct):
    type: str
    function: Function | None = None


class _FunctionName(msgspec.Struct):
    name: str


class _NamedChoice(msgspec.Struct):
    type: str
    function: _FunctionName | None = None


class _JsonSchema(msgspec.Struct):
    schema: Any = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_TOKENS)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_TOKENS)] | None = None
    ignore_eos: bool | None = None


class _ChatBody(_Body, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    tools: list[_Tool] | None = None
    tool_choice: str | _NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None


class _CompletionBody(_Body, kw_only=True):
    prompt: str | list[str]


_chats = Reader(_ChatBody, _CHAT_REFUSED)
_completions = Reader(_CompletionBody, _COMPLETION_REFUSED)


def parse_chat(body: bytes) -> Request:
    """Judge a body of POST /v1/chat/completions. Raises Problem."""
    chat = _chats.read(body)
    messages = tuple(
        _message(message, f"messages[{index}]")
        for index, message in enumerate(chat.messages)
    )
    return _request(
        chat,
        len(body),
        messages,
        tools=_tools(chat),
        guide=_guide(chat.response_format),
    )


def parse_completion(body: bytes) -> Request:
    """Judge a body of POST /v1/completions. Raises Problem."""
    completion = _completions.read(body)
    prompt = completion.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1:
            refuse("must be one string.", "prompt")
        prompt = prompt[0]
    if not prompt:
        refuse("must not be empty.", "prompt")
    return _request(completion, len(body), None, prompt)


def _request(
    body: _Body,
    size: int,
    messages: Messages | None,
    prompt: str = "",
    *,
    tools: Tools | None = None,
    guide: Guide | None = None,
) -> Request:
    stream = body.stream is True
    if body.stream_options is not None and not stream:
        refuse("needs `stream: true`.", "stream_options")
    caps = [cap for cap in (body.max_tokens, body.max_completion_tokens) if cap]
    return Request(
        model=body.model,
        messages=messages,
        prompt=prompt,
        stream=stream,
        include_usage=(
            body.stream_options is not None
            and body.stream_options.include_usage is True
        ),
        max_tokens=min(caps, default=None),
        choices=body.n or 1,
        stops=stop_strings(body.stop, "stop"),
        seed=body.seed,
        sampling={
            name: value
            for name in _SAMPLING
            if (value := getattr(body, name)) is not None
        },
        ignore_eos=body.ignore_eos is True,
        tools=tools,
        guide=guide,
        size=size,
    )


def _tools(chat: _ChatBody) -> Tools | None:
    functions = []
    for index, tool in enumerate(chat.tools or ()):
        if tool.type != "function":
            unsupported(f"tools[{index}].type")
        if tool.function is None:
            refuse("is missing.", f"tools[{index}].function")
        functions.append(tool.function)
    choice, named = chat.tool_choice or "auto", None
    if not isinstance(choice, str):
        if choice.type != "function" or choice.function is None:
            unsupported("tool_choice.type")
        named, choice = choice.function.name, "required"
    return offered(
        functions,
        choice=choice,
        named=named,
        parallel=chat.parallel_tool_calls is not False,
        where="tools[{}].function.name",
    )


def _guide(form: _ResponseFormat | None) -> Guide | None:
    param = "response_format"
    match form:
        case None | _ResponseFormat(type="text"):
            return None
        case _ResponseFormat(type="json_object"):
            return Guide("json", "", param)
        case _ResponseFormat(type="json_schema", json_schema=schema):
            where = f"{param}.json_schema"
            if schema is None:
                refuse("is missing.", where)
            return schema_guide(schema.schema, f"{where}.schema", param)
        case _:
            return unsupported(f"{param}.type")


def _message(message: _Message, where: str) -> dict[str, Any]:
    if message.role not in _ROLES:
        refuse(f"must be one of {', '.join(_ROLES)}.", f"{where}.role")
    content = message.content or message.refusal
    if message.content is None and message.role != "assistant":
        refuse("is missing.", f"{where}.content")
    if isinstance(content, list):
        content = "".join(
            _part(part, f"{where}.content[{index}]")
            for index, part in enumerate(content)
        )
    plain: dict[str, Any] = {"role": message.role, "content": content or ""}
    for key in ("name", "tool_call_id"):
        if (value := getattr(message, key)) is not None:
            plain[key] = value
    if message.tool_calls:
        plain["tool_calls"] = [
            past_call(
                call.id,
                call.function.name,
                arguments(
                    call.function.arguments,
                    f"{where}.tool_calls[{index}].function.arguments",
                ),
            )
            for index, call in enumerate(message.tool_calls)
        ]
    return plain


def _part(part: _Part, where: str) -> str:
    text = {"text": part.text, "refusal": part.refusal}.get(part.type)
    if part.type not in ("text", "refusal"):
        unsupported(f"{where}.type")
    if text is None:
        refuse("is missing.", f"{where}.{part.type}")
    return text
