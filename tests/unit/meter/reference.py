"""What the meter should do, said plainly in Python over the whole stream at once.

Lines and fields follow https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import json
import re
from typing import Any

from tests.unit.meter.lua_meter import Metered

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_COMMENT = re.compile(rb": usage (\d+),(\d+),(\d+)")
_TEXT = {"content", "reasoning_content", "reasoning", "refusal"}


class _Counts:
    def __init__(self) -> None:
        self.events = self.usages = 0
        self.contents: dict[int, int] = {}
        self.said: dict[str, str] = {}
        self.done = False

    def packed(self) -> str:
        choices = range(max(self.contents, default=0) + 1)
        contents = ":".join(str(self.contents.get(choice, 0)) for choice in choices)
        said = ",".join(
            self.said.get(name, "-")
            for name in ("input", "output", "cached", "reasoning")
        )
        flags = "DF" if self.done else "F"
        return f"sse,{self.events},{contents},{self.usages},{said},0,0,{flags}"


def expected(stream: bytes, *, strip: bool) -> Metered:
    """Read a whole event stream."""
    counts = _Counts()
    forwarded, event, payload = b"", b"", list[bytes]()
    for match in _LINE.finditer(stream):
        line, end = match.groups()
        if not line:
            dropped = _end_event(counts, payload, strip=strip)
            forwarded += b"" if dropped else event + end
            event, payload = b"", []
        elif comment := _COMMENT.fullmatch(line):
            counts.usages += 1
            counts.said |= zip(
                ("input", "output", "cached"),
                map(bytes.decode, comment.groups()),
                strict=True,
            )
        else:
            event += line + end
            if line.startswith(b"data:"):
                payload.append(line.removeprefix(b"data:").removeprefix(b" "))
    return Metered(forwarded, counts.packed())


def _end_event(counts: _Counts, payload: list[bytes], *, strip: bool) -> bool:
    text = b"\n".join(payload).strip()
    if text.startswith(b"[DONE]"):
        counts.done = True
    if not text.startswith(b"{"):
        return False
    counts.events += 1
    try:
        chunk = json.loads(text)
    except json.JSONDecodeError:  # the stream broke off here
        return False
    choices = chunk.get("choices")
    for position, choice in enumerate(choices or []):
        if _has_text(choice):
            index = choice.get("index", position)
            counts.contents[index] = counts.contents.get(index, 0) + 1
    return _usage(counts, chunk.get("usage")) and choices == [] and strip


def _has_text(choice: Any) -> bool:
    delta = choice.get("delta") or {}
    texts = [choice.get("text"), *(delta.get(name) for name in _TEXT)]
    texts += [call["function"]["arguments"] for call in delta.get("tool_calls", [])]
    return any(texts)


def _usage(counts: _Counts, usage: Any) -> bool:
    if usage is None:
        return False
    counts.usages += 1
    counts.said["input"] = str(usage["prompt_tokens"])
    counts.said["output"] = str(usage["completion_tokens"])
    if details := usage.get("prompt_tokens_details"):
        counts.said["cached"] = str(details["cached_tokens"])
    if details := usage.get("completion_tokens_details"):
        counts.said["reasoning"] = str(details["reasoning_tokens"])
    return True
