"""An answer as it comes, whichever API it goes out by: parts, their end, their cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tollhouse.core.problems import Problem


@dataclass(frozen=True, slots=True)
class CallOpened:
    """The model calls a function. `id` has no prefix: each API has its own."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Some of the arguments of the call that was opened last, as JSON."""

    index: int
    text: str


Part = str | CallOpened | CallArguments
"""Text, or some of a call."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a choice ended: stop, length or tool_calls."""

    reason: str
    stop: str | None = None
    """The stop string that ended it, if one did."""


@dataclass(slots=True)
class Block:
    """A run of text or, with `call`, one call and its arguments."""

    call: CallOpened | None = None
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self.texts)


@dataclass(slots=True)
class ChoiceResult:
    """One choice of an answer, put together."""

    blocks: list[Block] = field(default_factory=list)
    finish: Finish = Finish("stop")

    def add(self, part: Part) -> bool:
        """Take the next part; whether it begins a block."""
        if isinstance(part, CallOpened):
            self.blocks.append(Block(part))
            return True
        if isinstance(part, CallArguments):
            self.blocks[-1].texts.append(part.text)
            return False
        begins = not self.blocks or self.blocks[-1].call is not None
        if begins:
            self.blocks.append(Block())
        self.blocks[-1].texts.append(part)
        return begins


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far, over all choices; the prompt counts once."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0

    def comment(self) -> bytes:
        """Return what the gateway's meter reads from a stream."""
        return b"usage %d,%d,%d" % (
            self.input_tokens,
            self.output_tokens,
            self.cached_input_tokens,
        )


class Form(Protocol):
    """One answer in the shape of one API: events as it comes, or one body.

    A stream is opening and parts and finish for each choice, in any order among
    choices, then closing; every method returns what to send, maybe nothing.
    """

    def opening(self, index: int, usage: Usage) -> bytes:
        """Return the events before the first part of a choice."""

    def part(self, index: int, part: Part, usage: Usage) -> bytes:
        """Return the events of one part."""

    def finish(self, index: int, finish: Finish, usage: Usage) -> bytes:
        """Return the events that end a choice."""

    def closing(self, usage: Usage) -> bytes:
        """Return the end of a stream that ended well."""

    def broken(self, problem: Problem, usage: Usage) -> bytes:
        """Return the event that says why a stream ends here; nothing follows."""

    def whole(self, results: Sequence[ChoiceResult], usage: Usage) -> bytes:
        """Return the answer in one piece."""


def named_event(name: bytes, data: bytes, usage: Usage) -> bytes:
    """Return an event with a name, as the newer APIs have them."""
    return b": %b\nevent: %b\ndata: %b\n\n" % (usage.comment(), name, data)
