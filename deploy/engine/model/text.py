"""Text out of tokens, one at a time: incremental decoding, stop words, n-grams.

Pure Python: nothing here knows Triton. Each step costs the same however long the
output has become.
"""

import codecs
import random
from collections.abc import Iterable, Sequence


def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Printable bytes stand for themselves, the others are moved up from U+0100 (GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(moved)
    }


class Vocabulary:
    """The bytes of every token of a byte-level BPE tokenizer; none for special ones."""

    def __init__(self, tokens: dict[str, int], special: Iterable[int]) -> None:
        alphabet = byte_alphabet()
        hidden = frozenset(special)
        self._bytes = [b""] * (max(tokens.values()) + 1)
        for token, number in tokens.items():
            if number not in hidden:
                self._bytes[number] = bytes(alphabet[character] for character in token)

    def __getitem__(self, token: int) -> bytes:
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""


class Detokenizer:
    """Text of one sequence; a character waits until all its bytes have come."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, token: int, *, last: bool = False) -> str:
        """Return the text that this token completes; after the last one, all of it."""
        return self._decode(self._vocabulary[token], last)


class StopWords:
    """Finds stop words across token borders; the one complete first wins."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = [word for word in words if word]
        self._reach = max((len(word) for word in self._words), default=0)
        self._tail = ""

    def feed(self, text: str) -> int | None:
        """Return how much of `text` ends with the first stop word, None without one."""
        if not self._words:
            return None
        seen = self._tail + text
        ends = [
            start + len(word)
            for word in self._words
            if (start := seen.find(word, max(0, len(self._tail) - len(word) + 1))) >= 0
        ]
        if ends:
            return min(ends) - len(self._tail)
        self._tail = seen[-self._reach :]
        return None


class Trigrams:
    """A random walk over the tokens of a corpus: readable, fixed by the seed."""

    def __init__(self, documents: Iterable[Sequence[int]]) -> None:
        self._after_pair: dict[tuple[int, int], list[int]] = {}
        self._after_one: dict[int, list[int]] = {}
        self._any: list[int] = []
        for tokens in documents:
            self._any.extend(tokens)
            for index in range(1, len(tokens)):
                self._after_one.setdefault(tokens[index - 1], []).append(tokens[index])
                if index > 1:
                    pair = tokens[index - 2], tokens[index - 1]
                    self._after_pair.setdefault(pair, []).append(tokens[index])

    def next_token(self, before: int, last: int, rng: random.Random) -> int:
        """Return the next token after `before`, `last`."""
        choices = (
            self._after_pair.get((before, last))
            or self._after_one.get(last)
            or self._any
        )
        return choices[int(rng.random() * len(choices))]
