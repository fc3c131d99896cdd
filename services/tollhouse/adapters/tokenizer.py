"""Exact token counts of prompt texts, by the tokenizer.json of a model.

The library holds the interpreter's lock while it encodes one text (measured: 0.2 s for
1 MB), but not for a batch, so a batch of one it is; long texts go to a thread.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from tollhouse.adapters.configuration import ConfigurationError
from tollhouse.core.catalog import Model

INLINE_BYTES = 4096
INLINE_TEXTS = 64
"""Up to here, 1 ms, a thread costs more than it saves; odd texts take ten times it."""
MOST_BYTES = 262_144
"""What is counted of a prompt: 60 to 120 ms. Envoy waits for a second."""
THREADS = 2
"""Long prompts counted at once; more wait."""
MOST_UNDER_WAY_BYTES = 8 * MOST_BYTES
PATIENCE_SECONDS = 0.5
"""Who comes when so much is under way, or waits for longer, is not counted: nothing
bounds how many long prompts a tenant sends, and Envoy would give up on everybody's."""


class Tokenizers:
    """The tokenizers of the models that have one."""

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._of: dict[str, Tokenizer] = {}
        self._turns = asyncio.Semaphore(THREADS)
        self._under_way: dict[asyncio.Task[int], int] = {}

    def load(self, models: Iterable[Model]) -> None:
        """Read the files of these models, when they start or their catalog changes.

        None is forgotten: a request under way may still ask. Raises ConfigurationError
        with a line per file at fault; then nothing has changed.
        """
        read: dict[str, Tokenizer] = {}
        faults: list[str] = []
        for model in models:
            if model.tokenizer is not None:
                try:
                    read[model.name] = _open(model.tokenizer)
                except ConfigurationError as error:
                    faults.append(f"models.{model.name}.tokenizer: {error}")
        if faults:
            raise ConfigurationError("\n".join(faults))
        self._of |= read

    async def count(self, model: str, texts: Sequence[str]) -> int | None:
        """Count the tokens of texts; the template's control tokens are none of them.

        Of a prompt that is too long to count in time the rest is taken to be like
        the beginning. None: it is long, and too many long ones are before it.
        """
        tokenizer = self._of[model]
        size = sum(len(text.encode()) for text in texts)
        if size <= INLINE_BYTES and len(texts) <= INLINE_TEXTS:
            return _count(tokenizer, texts)
        takes = min(size, MOST_BYTES)
        if sum(self._under_way.values()) + takes > MOST_UNDER_WAY_BYTES:
            return None
        counting = asyncio.create_task(self._count_in_turn(tokenizer, texts, size))
        # A thread can't be stopped: it keeps its turn and its bytes until it is done.
        self._under_way[counting] = takes
        counting.add_done_callback(self._under_way.pop)
        await asyncio.wait([counting], timeout=self._patience_seconds)
        return counting.result() if counting.done() else None

    async def _count_in_turn(
        self, tokenizer: Tokenizer, texts: Sequence[str], size: int
    ) -> int:
        async with self._turns:
            return await asyncio.to_thread(_count_long, tokenizer, texts, size)


def _open(file: Path) -> Tokenizer:
    if not file.is_file():
        raise ConfigurationError(f"{file} is not there")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigurationError(f"{file} is not a tokenizer.json") from error
    # Some files come with the length their model was trained at.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _count(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return sum(len(one) for one in found)


def _count_long(tokenizer: Tokenizer, texts: Sequence[str], size: int) -> int:
    if size <= MOST_BYTES:
        return _count(tokenizer, texts)
    beginning: list[str] = []
    left = MOST_BYTES
    for text in texts:
        part = text.encode()[:left].decode(errors="ignore")
        beginning.append(part)
        left -= len(part.encode())
        if left <= 0 or len(part) < len(text):
            break
    return -(-_count(tokenizer, beginning) * size // (MOST_BYTES - left))
