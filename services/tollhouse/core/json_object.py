"""One JSON object as the judge of a request reads it: to the letter, and bounded.

A duplicate key at any depth is refused, because parsers disagree about which one
counts.
"""

import json
import math
from typing import Any

import msgspec

from tollhouse.core.problems import Kind, Problem
from tollhouse.core.refusal import refuse

MAX_VALUES = 65_536
"""Most values of a body, about: reading millions would hold up all admissions."""
MAX_DEPTH = 64
"""Deepest nesting: a recursive reader behind us must not run out of stack."""

_NESTED = (dict, list)

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_values = msgspec.json.Decoder().decode


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        refuse("The body has the same key twice.")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        refuse("The body has a number that is out of range.")
    return number


_strict = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite).decode


def read(body: bytes) -> tuple[dict[str, msgspec.Raw], dict[str, Any]]:
    """Read a body: its top level untouched, and parsed. Raises Problem."""
    try:
        fields = _decode_fields(body)  # JSON to the letter: no NaN, unlike json
        if _has_too_many_values(body):
            refuse("The body has too many values.")
        if b"\\u" in body:
            _decode_values(body)  # refuses lone surrogates, which no backend can encode
        values = _strict(body.decode())
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Problem(Kind.INVALID_REQUEST, "The body must be a JSON object.") from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        for name, value in values.items():
            if _is_too_deep(value):
                refuse("is nested too deeply.", name)
    return fields, values


def _is_too_deep(value: object) -> bool:
    """Go down level by level; the body's own is the first of MAX_DEPTH."""
    level: list[Any] = [value] if type(value) in _NESTED else []
    for _ in range(MAX_DEPTH - 1):
        if not level:
            return False
        level = [
            inner
            for it in level
            for inner in (it.values() if type(it) is dict else it)
            if type(inner) in _NESTED
        ]
    return bool(level)


def _has_too_many_values(body: bytes) -> bool:
    """Count what separates values: at once, then, if need be, outside of strings.

    A body of fewer bytes can't have more: that is nearly every one.
    """
    if len(body) <= MAX_VALUES or _separators(body) <= MAX_VALUES:
        return False
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * MAX_VALUES:  # the quotes of as many keys and strings
        return True
    return _separators(b"".join(bare.split(b'"')[::2])) > MAX_VALUES


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
