"""A model's release directory: tokenizer, chat template, generation defaults.

They belong to the model and come from the same release as the engine:

    tokenizer.json            required
    chat_template.jinja       required for chat
    generation_config.json    optional: eos_token_id, temperature, top_p, top_k, …
    tokenizer_config.json     optional: bos_token, eos_token, for the template
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from tollhouse.adapters.process import StartError
from tollhouse.frontend.template import ChatTemplate, Neutraliser

_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty")
# Normalisation may shrink text; nothing we know shrinks it to less than a quarter.
_SHRINKAGE = 4


@dataclass(frozen=True, slots=True)
class Release:
    """What the frontend knows of a model."""

    tokenizer: Tokenizer
    neutraliser: Neutraliser
    chat_template: ChatTemplate | None
    defaults: dict[str, float]
    """Sampling parameters for requests that name none."""
    end_id: int | None
    longest_token: int
    """In bytes, of the longest token."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a release directory. Raises StartError saying which file is at fault."""
        file = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise StartError(f"{file}: is not a tokenizer") from error
        added = tokenizer.get_added_tokens_decoder().values()
        special = [token.content for token in added if token.special]
        generation = _read_json(folder / "generation_config.json")
        names = _read_json(folder / "tokenizer_config.json")
        template = folder / "chat_template.jinja"
        chat_template = None
        if template.is_file():
            tokens = {
                key: _token(names[key])
                for key in ("bos_token", "eos_token")
                if names.get(key)
            }
            try:
                chat_template = ChatTemplate(template.read_text("utf-8"), tokens)
            except Exception as error:
                raise StartError(f"{template}: is not a chat template") from error
        end = generation.get("eos_token_id")
        if isinstance(end, list):  # the first of several
            end = next(iter(end), None)
        return cls(
            tokenizer=tokenizer,
            neutraliser=Neutraliser(special),
            chat_template=chat_template,
            defaults={
                key: generation[key]
                for key in _DEFAULTS
                if isinstance(generation.get(key), int | float)
            },
            end_id=end,
            longest_token=max(len(token.encode()) for token in tokenizer.get_vocab()),
        )

    def count(self, text: str) -> int:
        """Return the number of tokens. Long texts take a while: use a thread."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def surely_exceeds(self, text_bytes: int, tokens: int) -> bool:
        """Whether a text of this size has more tokens whatever is in it."""
        return text_bytes > tokens * self.longest_token * _SHRINKAGE


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise StartError(f"{file}: is not JSON") from error
    if not isinstance(content, dict):
        raise StartError(f"{file}: is not a JSON object")
    return content


def _token(value: object) -> str:
    return str(value["content"] if isinstance(value, dict) else value)
