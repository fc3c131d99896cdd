"""One choice: a Triton request, and its text as a client may see it."""

import asyncio
import codecs
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from tollhouse.adapters.triton import Answer, Inference, Patience, Response, Triton
from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.answer import Finish, Part
from tollhouse.frontend.contract import Contract, Guide, Sampling
from tollhouse.frontend.release import Release
from tollhouse.frontend.stop import StopTrim
from tollhouse.frontend.tool_parser import ToolReader
from tollhouse.frontend.trail import Trail, call_facts, error_type


@dataclass(frozen=True, slots=True)
class Model:
    """One model this frontend serves."""

    name: str
    triton_model: str
    contract: Contract
    release: Release
    context: int
    created: int
    tool_parser: str | None = None
    """How it writes calls of functions (tool_parser.TOOL_PARSERS); None: it can't."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What every choice of one request asks for."""

    model: Model
    prompt: str
    input_tokens: int
    max_tokens: int
    stream: bool
    stops: Sequence[str]
    sampling: Sampling
    guide: Guide | None
    tool_reader: Callable[[], ToolReader] | None
    """Makes the reader of one choice, where the model may call functions."""
    request_id: str
    trail: Trail


@dataclass(frozen=True, slots=True)
class Piece:
    """What may go out now; the last piece says why it is the last."""

    choice: "Choice"
    parts: Sequence[Part]
    finish: Finish | None = None


class Choice:
    """One of the `n` answers to a request."""

    def __init__(self, ask: Ask, index: int, seed: int | None) -> None:
        self.index = index
        self.input_tokens = ask.input_tokens
        self.output_tokens = 0
        self.finish_reason = ""
        """Empty until it has ended."""
        self._ask = ask
        self._contract = ask.model.contract
        self._sampling = dict(ask.sampling)
        if seed is not None:
            self._sampling["seed"] = (seed + index) % 2**63
        # Where the engine does not know the stop strings, only a stream shows them
        # before everything is generated.
        self._streams = ask.stream or bool(ask.stops and not self._contract.stop_words)
        self._trim = StopTrim(ask.stops)
        self._reader = None if ask.tool_reader is None else ask.tool_reader()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._seen = 0
        self._counted: list[str] = []
        self._final = False

    async def pieces(
        self, triton: Triton, patience: Patience
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes; close the iterator to give it up."""
        call = self._ask.trail.call()
        answer = triton.infer(self._inference(call.metadata), patience)
        try:
            async for piece in self._read(answer):
                yield piece
            if self._final:
                await answer.finish()
        except Exception as error:
            call.error = error_type(error)
            raise
        finally:
            answer.cancel()
            model = self._ask.model.triton_model
            call.end(call_facts(model, self.output_tokens, self.finish_reason))

    async def _read(self, answer: Answer) -> AsyncGenerator[Piece, None]:
        reason = ""
        while True:
            response = await answer.read()
            self._final = response.final
            text = ""
            if response.outputs:
                text = self._trim.feed(self._text(response))
                if self._contract.finish_reason:
                    reason = response.text("finish_reason").decode()
            if self._trim.hit:
                # An engine that stopped by itself says so in this very response; one
                # that did not would go on for nobody, and is given up.
                break
            if response.final:
                if not self._contract.cumulative:
                    text += self._trim.feed(self._decode(b"", True))  # noqa: FBT003 - codecs'
                text += self._trim.flush()
                break
            yield Piece(self, self._parts(text))
            if self._reader is not None and self._reader.is_full:
                text = ""
                break
        parts = self._parts(text, last=True)
        self._count_whole()
        self.finish_reason = self._finish_reason(reason)
        yield Piece(self, parts, Finish(self.finish_reason, self._trim.matched))

    def _parts(self, text: str, *, last: bool = False) -> Sequence[Part]:
        if self._reader is None:
            return (text,) if text else ()
        parts = self._reader.feed(text)
        return parts + self._reader.flush() if last else parts

    def _inference(self, metadata: Sequence[tuple[str, str]]) -> Inference:
        ask, contract = self._ask, self._contract
        return Inference(
            model=ask.model.triton_model,
            request_id=ask.request_id + (f"#{self.index}" if self.index else ""),
            inputs=contract.tensors(
                prompt=ask.prompt,
                max_tokens=ask.max_tokens,
                stream=self._streams,
                stops=ask.stops,
                sampling=self._sampling,
                guide=ask.guide,
            ),
            outputs=contract.outputs,
            batched=contract.batched,
            metadata=metadata,
        )

    def _text(self, response: Response) -> str:
        """Return the response's own text, and count its tokens."""
        raw = response.text("text_output")
        if not self._contract.cumulative:
            self.input_tokens = response.integer("num_input_tokens")
            self.output_tokens += response.integer("num_output_tokens")
            return self._decode(raw)
        whole = raw.decode("utf-8", "replace")
        if not response.final:
            whole = whole.rstrip("\ufffd")  # a character that is not complete yet
        text, self._seen = whole[self._seen :], max(self._seen, len(whole))
        if text:
            self._counted.append(text)
            # Close enough while it streams; the last count is the whole text's.
            self.output_tokens += self._ask.model.release.count(text)
        return text

    def _count_whole(self) -> None:
        if not self._contract.counts:
            text = "".join(self._counted)
            self.output_tokens = self._ask.model.release.count(text)

    def _finish_reason(self, reason: str) -> str:
        """Infer it where the contract has none.

        An end token that falls exactly on max_tokens reads as "length".
        """
        if self._trim.hit:
            return "stop"
        stopped = "stop"
        if self._reader is not None and self._reader.calls:
            stopped = "tool_calls"
            if self._reader.is_full:
                return stopped
        if self._contract.finish_reason:
            return "length" if reason == "length" else stopped
        return stopped if self.output_tokens < self._ask.max_tokens else "length"


async def merged(
    choices: Sequence[Choice], triton: Triton, patience: Patience
) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of all choices as they come; the first failure ends all.

    The caller must close the iterator: that cancels what still runs.
    """
    if len(choices) == 1:
        pieces = choices[0].pieces(triton, patience)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()
        return
    # One piece waits per choice, so that a slow reader slows the engine's streams.
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(len(choices))
    tasks = [
        asyncio.create_task(_pump(choice, triton, patience, queue))
        for choice in choices
    ]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    choice: Choice,
    triton: Triton,
    patience: Patience,
    queue: "asyncio.Queue[Piece | Exception | None]",
) -> None:
    pieces = choice.pieces(triton, patience)
    try:
        async for piece in pieces:
            await queue.put(piece)
        await queue.put(None)
    except Exception as error:  # noqa: BLE001 - raised again by the reader
        await queue.put(error)
    finally:
        await pieces.aclose()


def fitting_max_tokens(
    asked: int | None, *, injected: bool, input_tokens: int, context: int
) -> int:
    """Return the output cap that prompt and context leave. Raises Problem.

    A cap of the client's own is never changed: one that does not fit is refused. A
    default that the gateway put in (`injected`) is lowered.
    """
    room = context - input_tokens
    if asked is not None and (room >= asked or (injected and room >= 1)):
        return min(asked, room)
    if asked is None and room >= 1:
        return room
    wanted = "" if asked is None or injected else f" and {asked} for the answer"
    raise Problem(
        Kind.CONTEXT_LENGTH,
        f"This model's context is {context} tokens. The request has {input_tokens} "
        f"in its prompt{wanted}. Shorten the prompt or ask for less.",
        "messages",
    )
