"""What the meter should do, said plainly in Python over the whole stream at once.

Lines and fields follow https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.unit.meter.lua_meter import Metered

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_COMMENT = re.compile(rb": usage (\d+),(\d+),(\d+)")
_TEXT = {"content", "reasoning_content", "reasoning", "refusal"}
_BLOCK_TEXT = {"text", "partial_json", "thinking"}

WORDS = "The model's server broke off."
OPENAI_ERROR = (
    b'{"message":"%s","type":"server_error","param":null,"code":"upstream_error"}'
    % WORDS.encode()
)
ERRORS = {
    "openai": b'data: {"error":%s}\n\n' % OPENAI_ERROR,
    "responses": b'event: error\ndata: {"type":"error","code":"upstream_error",'
    b'"message":"%s","param":null}\n\n' % WORDS.encode(),
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
    b'"message":"%s"}}\n\n' % WORDS.encode(),
    "triton": b'data: {"error":"%s"}\n\n' % WORDS.encode(),
}


class _Counts:
    def __init__(self) -> None:
        self.events = self.usages = self.bytes = 0
        self.contents: dict[int, int] = {}
        self.said: dict[str, int] = {}
        self.done = self.broke = self.is_messages = False

    def has_text(self, choice: int) -> None:
        self.contents[choice] = self.contents.get(choice, 0) + 1

    def packed(self) -> str:
        choices = range(max(self.contents, default=0) + 1)
        contents = ":".join(str(self.contents.get(choice, 0)) for choice in choices)
        said = ",".join(
            str(self.said.get(name, "-"))
            for name in ("input", "output", "cached", "reasoning")
        )
        flags = ("D" if self.done else "") + ("B" if self.broke else "F")
        head = f"sse,{self.events},{contents},{self.usages}"
        return f"{head},{said},0,0,{flags},{self.bytes}"


def expected(stream: bytes, *, strip: bool, foreign: bool = False) -> Metered:
    """Read a whole event stream."""
    counts = _Counts()
    forwarded, event, payload = b"", b"", list[bytes]()
    is_error = False
    for match in _LINE.finditer(stream):
        line, end = match.groups()
        if not line:
            instead = _end_event(
                counts, payload, strip=strip, foreign=foreign, is_error=is_error
            )
            forwarded += event + end if instead is None else instead
            event, payload, is_error = b"", [], False
        elif comment := _COMMENT.fullmatch(line):
            counts.usages += 1
            counts.said |= zip(
                ("input", "output", "cached"),
                map(int, comment.groups()),
                strict=True,
            )
        else:
            event += line + end
            is_error = is_error or line in {b"event: error", b"event:error"}
            if line.startswith(b"data:"):
                payload.append(line.removeprefix(b"data:").removeprefix(b" "))
    return Metered(forwarded, counts.packed())


def _end_event(
    counts: _Counts,
    payload: list[bytes],
    *,
    strip: bool,
    foreign: bool,
    is_error: bool,
) -> bytes | None:
    """Read an event; what to forward instead, None for the event itself."""
    text = b"\n".join(payload).strip()
    if not text.startswith(b"{"):
        counts.done = counts.done or text == b"[DONE]"
        is_error = is_error or text not in {b"", b"[DONE]"}
        return _unread(counts) if foreign and payload and is_error else None
    counts.events += 1
    try:
        chunk, end = json.JSONDecoder().raw_decode(text.decode())
    except json.JSONDecodeError:  # the stream broke off here
        chunk, end = {}, 0
    is_whole = end == len(text.decode())
    has_usage = is_whole and _usages(counts, chunk)
    if dialect := _error(counts, chunk):
        counts.broke = True
        return ERRORS[dialect] if foreign or dialect == "triton" else None
    if foreign and is_error:
        return _unread(counts)
    hits = _read(counts, chunk) if is_whole else False
    is_usage_only = has_usage and chunk.get("choices") == [] and not hits
    return b"" if is_usage_only and strip else None


def _unread(counts: _Counts) -> bytes:
    """Stand for an error that only its name tells."""
    counts.broke = True
    return ERRORS["anthropic" if counts.is_messages else "openai"]


def _read(counts: _Counts, chunk: dict[str, Any]) -> bool:
    """Count the output of an event; whether it has any."""
    _triton(counts, chunk)
    hits = list(_hits(chunk))
    for choice in hits:
        counts.has_text(choice)
    return bool(hits)


def _hits(chunk: dict[str, Any]) -> Iterator[int]:
    for position, choice in enumerate(chunk.get("choices") or []):
        if _has_text(choice):
            yield choice.get("index", position)
    match chunk.get("delta"):
        case str() as delta if delta:
            yield 0
        case dict() as delta if any(delta.get(name) for name in _BLOCK_TEXT):
            yield 0


def _has_text(choice: Any) -> bool:
    delta = choice.get("delta") or {}
    texts = [choice.get("text"), *(delta.get(name) for name in _TEXT)]
    texts += [call["function"]["arguments"] for call in delta.get("tool_calls", [])]
    return any(texts)


def _error(counts: _Counts, chunk: dict[str, Any]) -> str | None:
    error, is_typed = chunk.get("error"), chunk.get("type") == "error"
    if isinstance(error, str):
        return "triton"
    if (chunk.get("response") or {}).get("error") or (is_typed and error is None):
        return "responses"
    if is_typed or (counts.is_messages and error is not None):
        return "anthropic"
    is_flat = chunk.get("object") == "error"
    if error is None and not is_flat:
        return None
    return "anthropic" if counts.is_messages else "openai"


def _usages(counts: _Counts, chunk: dict[str, Any]) -> bool:
    usage = chunk.get("usage")
    if usage is None and "response" in chunk:
        usage = chunk["response"].get("usage")
    if usage is None and isinstance(chunk.get("message"), dict):
        usage = chunk["message"].get("usage")
        if usage is not None:
            counts.is_messages = True
            _usage(counts, usage)
            counts.said.pop("output", None)
            return True
    return usage is not None and _usage(counts, usage)


def _usage(counts: _Counts, usage: dict[str, Any]) -> bool:
    counts.usages += 1
    said = counts.said
    if "prompt_tokens" in usage:
        said["input"] = usage["prompt_tokens"]
        said["output"] = usage["completion_tokens"]
    elif "input_tokens" in usage:
        read = usage.get("cache_read_input_tokens")
        written = usage.get("cache_creation_input_tokens")
        said["input"] = usage["input_tokens"] + (read or 0) + (written or 0)
        if read is not None:
            said["cached"] = read
    if "output_tokens" in usage:
        said["output"] = usage["output_tokens"]
    for of in ("prompt_tokens_details", "input_tokens_details"):
        if details := usage.get(of):
            said["cached"] = details["cached_tokens"]
    for of in ("completion_tokens_details", "output_tokens_details"):
        if details := usage.get(of):
            said["reasoning"] = details["reasoning_tokens"]
    return True


def _triton(counts: _Counts, chunk: dict[str, Any]) -> None:
    input_, output = (_sum(chunk.get(f"num_{of}_tokens")) for of in ("input", "output"))
    texts = chunk.get("text_output", [])
    length = sum(
        len(json.dumps(text, ensure_ascii=False).encode()) - len('""')
        for text in ([texts] if isinstance(texts, str) else texts)
    )
    said = counts.said
    if input_ is not None or output is not None:
        counts.usages += 1
    if input_ is not None:
        said["input"] = max(said.get("input", 0), input_)
    if output is not None:
        said["output"] = said.get("output", 0) + output
    if length:
        counts.bytes += length
        counts.has_text(0)


def _sum(tensor: Any) -> Any:
    return sum(tensor) if isinstance(tensor, list) else tensor
