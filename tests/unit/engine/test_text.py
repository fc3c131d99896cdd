"""The engine's text: exact decoding token by token, stop words, the random walk."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.unit.engine.load import engine_module
from tollhouse.cli.engine import engine_dir, release_dir

text = engine_module("text")
TOKENIZER = Tokenizer.from_file(str(release_dir() / "tokenizer.json"))
SPECIAL = {
    number
    for number, token in TOKENIZER.get_added_tokens_decoder().items()
    if token.special
}
VOCABULARY = text.Vocabulary(TOKENIZER.get_vocab(), SPECIAL)


def decode(tokens: list[int]) -> str:
    """Decode one token at a time."""
    detokenizer = text.Detokenizer(VOCABULARY)
    last = len(tokens) - 1
    return "".join(
        detokenizer.feed(token, last=index == last)
        for index, token in enumerate(tokens)
    )


@given(st.text(max_size=40))
def test_decoding_token_by_token_is_exact(sample: str):
    """Every text has an exact round trip, without decoding anything twice."""
    assert decode(TOKENIZER.encode(sample, add_special_tokens=False).ids) == sample or (
        "<|" in sample
    )


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=20))
def test_decoding_agrees_with_the_library(tokens: list[int]):
    """Also for tokens that no text has, broken characters included."""
    assert decode(tokens) == TOKENIZER.decode(tokens, skip_special_tokens=True)


def test_special_tokens_have_no_text():
    """They end turns; they are not said."""
    assert decode(sorted(SPECIAL)) == ""


def test_the_corpus_survives_its_tokenizer():
    """The committed tokenizer belongs to the committed corpus."""
    corpus = (engine_dir() / "corpus.txt").read_text("utf-8")
    tokens = TOKENIZER.encode(corpus).ids

    assert TOKENIZER.decode(tokens) == corpus
    assert 2.5 < len(corpus) / len(tokens) < 5


@pytest.mark.parametrize("split", range(1, 12))
def test_stop_word_complete_first(split: int):
    """TensorRT-LLM stops where a word is complete, and keeps it."""
    sample = "one two three"
    stops = text.StopWords(["two three", "two", "", "never"])
    pieces = [sample[:split], sample[split:]]
    seen = ""
    for piece in pieces:
        cut = stops.feed(piece)
        if cut is not None:
            seen += piece[:cut]
            break
        seen += piece

    assert seen == "one two"


def test_without_stop_words_nothing_is_kept():
    """The common case costs nothing."""
    assert text.StopWords([]).feed("two") is None


def test_the_walk_is_fixed_by_its_seed():
    """Same seed, same text: what tests rely on."""
    trigrams = text.Trigrams([[1, 2, 3, 4], [1, 2, 5, 6]])

    def walk(seed: int) -> list[int]:
        rng = random.Random(seed)
        before, last = 1, 2
        out: list[int] = []
        for _ in range(8):
            before, last = last, trigrams.next_token(before, last, rng)
            out.append(last)
        return out

    assert walk(1) == walk(1)
    assert {walk(seed)[0] for seed in range(20)} == {3, 5}
    anywhere = trigrams.next_token(-1, -1, random.Random(1))
    assert anywhere in {1, 2, 3, 4, 5, 6}
