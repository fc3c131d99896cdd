"""Trains the tokenizer of `tiny-chat` on corpus.txt and writes its release directory.

    python deploy/engine/train_tokenizer.py

The result is committed: run this only after changing the corpus. Two runs give the
same bytes.
"""

import json
import pathlib

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 2048
HERE = pathlib.Path(__file__).parent


def train(texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE tokenizer: every text has an exact round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL_TOKENS],
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Write tokenizer.json and generation_config.json."""
    tokenizer = train((HERE / "corpus.txt").read_text("utf-8").splitlines())
    release = HERE / "release"
    tokenizer.save(str(release / "tokenizer.json"))
    end = tokenizer.token_to_id("<|im_end|>")
    generation = {"eos_token_id": end, "pad_token_id": end}
    (release / "generation_config.json").write_text(json.dumps(generation) + "\n")


if __name__ == "__main__":
    main()
