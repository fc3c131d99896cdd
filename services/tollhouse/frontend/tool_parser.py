"""Calls out of a model's text, as it comes, however it is split.

Models that are free to call write calls between the tags of their family; one that is
held to a call by a guide writes the bare call, or its arguments alone (tools.guide).
"""

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import msgspec

from tollhouse.frontend.answer import CallArguments, CallOpened, Part
from tollhouse.frontend.tools import Tools

# The order in which models are trained to write it; any other is read at its end.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*(?=\{)')
_LONGEST_HEAD = 512
_MARKS = re.compile(r'["\\{}\[\]]')


class ToolReader(ABC):
    """Reads one choice's text."""

    def __init__(self) -> None:
        self.calls = 0
        """How many were opened."""
        self.is_full = False
        """Whether nothing more is wanted of the model."""

    @abstractmethod
    def feed(self, text: str) -> list[Part]:
        """Return what can be told of the answer so far."""

    @abstractmethod
    def flush(self) -> list[Part]:
        """Return the rest, once no more text can come."""

    def _open(self, name: str) -> CallOpened:
        self.calls += 1
        return CallOpened(self.calls - 1, secrets.token_hex(12), name)

    def _arguments(self, text: str) -> CallArguments:
        return CallArguments(self.calls - 1, text)


class _NamedReader(ToolReader):
    """The text is the arguments of the one function that must be called."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def feed(self, text: str) -> list[Part]:
        if not text:
            return []
        opened: list[Part] = [] if self.calls else [self._open(self._name)]
        return [*opened, self._arguments(text)]

    def flush(self) -> list[Part]:
        return []


class _TaggedReader(ToolReader):
    """Text, and calls between two tags; without tags, the text is one bare call.

    Of a call whose name comes first the arguments are passed on as they come. What
    stands between the tags but is no call of a known function is text, as written.
    """

    def __init__(self, tools: Tools, begin: str, end: str) -> None:
        super().__init__()
        self._names = tools.names
        self._parallel = tools.parallel
        self._begin, self._end = begin, end
        self._step: Callable[[list[Part]], bool] = (
            self._in_text if begin else self._in_head
        )
        self._held = ""
        self._gap = ""
        """Space before the tag: told only where no call follows."""
        self._seen = 0
        """Characters of `_held` in which the end tag was looked for in vain."""
        self._nesting = _Nesting()

    def feed(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while not self.is_full and self._step(parts):
            pass
        return parts

    def flush(self) -> list[Part]:
        parts: list[Part] = []
        held, self._held = self._held, ""
        if self.is_full:
            return []
        if self._step == self._in_head:
            parts += self._whole_call(held)
        elif self._step == self._in_text and (held.strip() or not self.calls):
            parts.append(held)
        return [part for part in parts if part]

    # Each step takes from `_held` what it can and is asked again while it is true.

    def _in_text(self, parts: list[Part]) -> bool:
        text, tag, rest = self._held.partition(self._begin)
        if tag:
            if said := text.rstrip():
                parts.append(said)
            self._gap = text[len(said) :]
            self._held, self._seen, self._step = rest, 0, self._in_head
            self.is_full = self.calls > 0 and not self._parallel
            return True
        # What may become a tag waits, and so does the space before it.
        keep = next(
            size
            for size in range(min(len(self._begin) - 1, len(text)), -1, -1)
            if text.endswith(self._begin[:size])
        )
        said = text[: len(text) - keep].rstrip()
        if said:
            parts.append(said)
        self._held = text[len(said) :]
        return False

    def _in_head(self, parts: list[Part]) -> bool:
        if len(self._held) <= _LONGEST_HEAD or not self._seen:
            head = _HEAD.match(self._held)
            if head is not None and head[1] in self._names:
                parts.append(self._open(head[1]))
                self._held = self._held[head.end() :]
                self._nesting, self._step = _Nesting(), self._in_arguments
                return True
        if not self._end:
            self._seen = len(self._held)
            return False
        at = self._held.find(self._end, max(0, self._seen - len(self._end)))
        self._seen = len(self._held)
        if at < 0:
            return False
        call, self._held = self._held[:at], self._held[at + len(self._end) :]
        parts += self._whole_call(call, self._end)
        self._step = self._in_text
        return True

    def _in_arguments(self, parts: list[Part]) -> bool:
        size = self._nesting.feed(self._held)
        if size:
            parts.append(self._arguments(self._held[:size]))
        self._held = self._held[size:]
        if not self._nesting.is_closed:
            return False
        self._step = self._in_tail
        return True

    def _in_tail(self, parts: list[Part]) -> bool:
        """Drop what closes the call."""
        del parts
        _, tag, rest = self._held.partition(self._end) if self._end else ("", "", "")
        if not tag:
            return False
        self._held, self._step = rest, self._in_text
        return True

    def _whole_call(self, text: str, end: str = "") -> list[Part]:
        """Read a call that is there to its end."""
        try:
            call = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            call = None
        match call:
            case {"name": str(name), "arguments": dict(values)} if name in self._names:
                opened = self._open(name)
                written = json.dumps(values, ensure_ascii=False)
                return [opened, self._arguments(written)]
            case _:
                return [self._gap + self._begin + text + end]


class _Nesting:
    """Finds the end of a JSON object, whatever its strings hold."""

    def __init__(self) -> None:
        self.is_closed = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> int:
        """Return how much of the text belongs to the object."""
        position = 0
        while not self.is_closed and position < len(text):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            found = _MARKS.search(text, position)
            if found is None:
                return len(text)
            position = found.end()
            match found[0]:
                case "\\":
                    self._escaped = self._in_string
                case '"':
                    self._in_string = not self._in_string
                case "{" | "[" if not self._in_string:
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
                    self.is_closed = self._depth == 0
                case _:
                    pass
        return position


def _hermes(tools: Tools) -> ToolReader:
    return _TaggedReader(tools, "<tool_call>", "</tool_call>")


TOOL_PARSERS: Mapping[str, Callable[[Tools], ToolReader]] = {"hermes": _hermes}
"""Family of models → how it writes calls. Qwen, from 2.5 on, does it as Hermes does."""


def tool_reader(tools: Tools, family: str) -> ToolReader:
    """Return a reader for one choice of a model of this family."""
    if len(tools.forced) == 1:
        return _NamedReader(tools.forced[0])
    if tools.forced:
        return _TaggedReader(tools, "", "")
    return TOOL_PARSERS[family](tools)
