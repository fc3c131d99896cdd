"""The input of a request for embeddings: texts, or tokens that a client made of them.

https://platform.openai.com/docs/api-reference/embeddings/create
"""

from typing import Any

from tollhouse.core.prompt_fields import Prompt
from tollhouse.core.refusal import positive, refuse

MAX_INPUTS = 2048
"""OpenAI's bound on inputs of one request."""
_LARGEST_ID = 2**31 - 1


def embeddings_prompt(values: dict[str, Any]) -> Prompt:
    """Judge the input; each of several counts as a message. Raises Problem."""
    if values.get("encoding_format") not in (None, "float", "base64"):
        refuse("must be float or base64.", "encoding_format")
    positive(values, "dimensions")
    inputs = _inputs(values)
    for index, it in enumerate(inputs):
        if not it:
            refuse("must not be empty.", f"input[{index}]")
    return Prompt(
        messages=len(inputs),
        text_bytes=sum(len(it.encode()) for it in inputs if isinstance(it, str)),
        tokens=sum(len(it) for it in inputs if not isinstance(it, str)),
    )


def embeddings_texts(values: dict[str, Any]) -> list[str]:
    """Those inputs that are text."""
    return [it for it in _inputs(values) if isinstance(it, str)]


def _inputs(values: dict[str, Any]) -> list[str | list[int]]:
    given: Any = values.get("input")
    several = isinstance(given, list) and not _is_tokens(given)
    inputs: list[Any] = given if several else [given]
    if not inputs or not all(isinstance(it, str) or _is_tokens(it) for it in inputs):
        refuse("must be text or tokens, or a list of one of these.", "input")
    if len(inputs) > MAX_INPUTS:
        refuse(f"must have at most {MAX_INPUTS} items.", "input")
    return inputs


def _is_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(it) is int and 0 <= it <= _LARGEST_ID for it in value)
    )
