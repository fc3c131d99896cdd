"""Exact counts, of long prompts too, and files that are none."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests import examples
from tollhouse.adapters.configuration import ConfigurationError
from tollhouse.adapters.tokenizer import (
    INLINE_BYTES,
    MOST_BYTES,
    Tokenizers,
)

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "deploy/engine/release/tokenizer.json"
CORPUS = (ROOT / "deploy/engine/corpus.txt").read_text("utf-8")
MODEL = examples.model(name="tiny", tokenizer=FILE)


@pytest.fixture(scope="module")
def exact():
    """What the engine itself makes of a text."""
    tokenizer = Tokenizer.from_file(str(FILE))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.fixture
def tokenizers():
    """Patient ones: what else runs on the machine must not cost a count."""
    made = Tokenizers(patience_seconds=60.0)
    made.load([MODEL, replace(MODEL, name="other", tokenizer=None)])
    return made


@pytest.mark.parametrize("size", [5, 1000, INLINE_BYTES + 1, 100_000])
async def test_counts_what_the_engine_counts(tokenizers, exact, size):
    text = (CORPUS * 20)[:size]

    assert exact(text) + exact("more") == await tokenizers.count("tiny", [text, "more"])


async def test_nothing_has_no_tokens(tokenizers):
    assert [0, 0] == [await tokenizers.count("tiny", it) for it in ([], [""])]


@pytest.mark.parametrize("parts", [1, 7])
async def test_what_is_too_long_to_count_is_like_its_beginning(
    tokenizers, exact, parts
):
    """3 MiB would take longer than Envoy waits."""
    text = (CORPUS * 400)[: 3 * 2**20]
    size = len(text) // parts
    texts = [text[start : start + size] for start in range(0, len(text), size)]
    beginning = exact(text.encode()[:MOST_BYTES].decode(errors="ignore"))
    expected = beginning * len(text.encode()) / MOST_BYTES

    assert await tokenizers.count("tiny", texts) == pytest.approx(expected, rel=0.001)


@pytest.mark.timed
async def test_the_loop_goes_on_while_a_long_text_is_counted(tokenizers):
    """Encoded in a thread that does not hold the interpreter's lock."""
    counting = asyncio.create_task(
        tokenizers.count("tiny", [(CORPUS * 400)[:MOST_BYTES]])
    )
    turns = 0
    while not counting.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 100
    assert await counting


@pytest.mark.timed
async def test_a_flood_of_long_texts_holds_up_no_other(exact):
    """Few are counted, none waits for long: Envoy has a second in all."""
    tokenizers = Tokenizers()
    tokenizers.load([MODEL])
    odd = "a\u0301" * (MOST_BYTES // 3)
    began = time.monotonic()
    flood = [asyncio.create_task(tokenizers.count("tiny", [odd])) for _ in range(100)]
    await asyncio.sleep(0)

    assert exact("short") == await tokenizers.count("tiny", ["short"])
    assert await tokenizers.count("tiny", [odd]) is None
    answers = await asyncio.gather(*flood)
    assert time.monotonic() - began < 2
    assert 92 <= answers.count(None)


@pytest.mark.timed
async def test_many_small_texts_are_a_long_one(tokenizers, exact):
    """Each costs something by itself."""
    texts = ["a"] * 4096
    counting = asyncio.create_task(tokenizers.count("tiny", texts))
    await asyncio.sleep(0)

    assert not counting.done()
    assert 4096 * exact("a") == await counting


async def test_a_tokenizer_of_short_sequences_counts_to_the_end(tmp_path, exact):
    """Some come with the length and the padding their model was trained with."""
    tokenizer = Tokenizer.from_file(str(FILE))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=64)
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    tokenizers = Tokenizers()
    tokenizers.load([replace(MODEL, tokenizer=file)])
    text = CORPUS[:1000]

    assert exact(text) == await tokenizers.count("tiny", [text])
    assert exact("more") == await tokenizers.count("tiny", ["more"])


async def test_says_which_files_are_none_and_keeps_what_it_had(tmp_path, tokenizers):
    bad = tmp_path / "tokenizer.json"
    bad.write_text("{}")
    missing = tmp_path / "missing.json"
    models = [
        replace(MODEL, name="a", tokenizer=bad),
        replace(MODEL, name="b", tokenizer=missing),
    ]

    with pytest.raises(ConfigurationError) as caught:
        tokenizers.load(models)

    assert [
        f"models.a.tokenizer: {bad} is not a tokenizer.json",
        f"models.b.tokenizer: {missing} is not there",
    ] == str(caught.value).splitlines()
    assert 0 < await tokenizers.count("tiny", ["hello"])


async def test_a_model_that_is_gone_is_still_counted_for_who_asked(tokenizers):
    """A request under way holds the catalog it was judged by."""
    tokenizers.load([])

    assert 0 < await tokenizers.count("tiny", ["hello"])
