"""Checks a request against the typed parameters of Stripe's own SDK.

They are generated from Stripe's OpenAPI, so this always fits the pinned SDK. It finds
what is missing, unknown, wrongly nested or no number. Lengths and rules between
parameters or requests are not in them.
"""

import dataclasses
import functools
import re
import sys
import types
import typing
from decimal import Decimal
from typing import Any

import stripe
import typing_extensions

# Of the SDK's call, never sent: api_key, idempotency_key, max_network_retries, …
_OPTIONS = frozenset(stripe.RequestOptions.__annotations__)
_WHOLE = re.compile(r"-?\d+")
_DECIMAL = re.compile(r"-?\d+(\.\d+)?")


@dataclasses.dataclass(frozen=True, slots=True)
class Violation:
    """One parameter that breaks its type."""

    code: str
    param: str

    def __str__(self) -> str:
        return f"{self.code}: {self.param}"


def violations(params: type, given: Any, path: str = "") -> list[Violation]:
    """What is wrong with `given` as a request of the typed dict `params`."""
    if not isinstance(given, dict):
        return [Violation("parameter_invalid_object", path)]
    known = _fields(params)
    required = typing.cast("frozenset[str]", vars(params)["__required_keys__"])
    found = [
        Violation("parameter_missing", _join(path, name))
        for name in sorted(required - _OPTIONS)
        if name not in given
    ]
    for name, value in given.items():
        at = _join(path, name)
        if name in known:
            found += _wrong(known[name], value, at)
        else:
            found.append(Violation("parameter_unknown", at))
    return found


@functools.cache
def _fields(params: type) -> dict[str, Any]:
    # What the options' own module imports, and what it imports for checkers only.
    names = {
        **vars(sys.modules[stripe.RequestOptions.__module__]),
        "StripeContext": stripe.StripeContext,
    }
    hints = typing_extensions.get_type_hints(params, localns=names)
    return {name: hint for name, hint in hints.items() if name not in _OPTIONS}


def _wrong(hint: Any, value: Any, at: str) -> list[Violation]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _none_fits(typing.get_args(hint), value, at)
    if typing_extensions.is_typeddict(hint):
        return violations(hint, value, at)
    if origin is dict:
        return _wrong_map(typing.get_args(hint)[1], value, at)
    if origin is list:
        return _wrong_list(typing.get_args(hint)[0], value, at)
    code = _wrong_plain(hint, origin, value)
    return [Violation(code, at)] if code else []


def _none_fits(hints: tuple[Any, ...], value: Any, at: str) -> list[Violation]:
    """Nothing if one alternative fits, or else what the likeliest one says."""
    tried = [_wrong(hint, value, at) for hint in hints if not _is_object(hint)]
    if not tried or not all(tried):
        return []
    # One that looked inside names the inner parameter: the longest path.
    return max(tried, key=lambda found: max(len(it.param) for it in found))


def _is_object(hint: Any) -> bool:
    """Whether it is one of the SDK's own objects, which arrive as plain maps."""
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, stripe.StripeObject)


def _wrong_map(hint: Any, value: Any, at: str) -> list[Violation]:
    if not isinstance(value, dict):
        return [Violation("parameter_invalid_object", at)]
    return [wrong for k, v in value.items() for wrong in _wrong(hint, v, _join(at, k))]


def _wrong_list(hint: Any, value: Any, at: str) -> list[Violation]:
    if not isinstance(value, list):
        return [Violation("parameter_invalid_array", at)]
    return [
        wrong
        for number, it in enumerate(value)
        for wrong in _wrong(hint, it, _join(at, str(number)))
    ]


def _wrong_plain(hint: Any, origin: Any, value: Any) -> str | None:
    if hint is int:
        whole = isinstance(value, str) and _WHOLE.fullmatch(value)
        fits = whole or type(value) is int
        return None if fits else "parameter_invalid_integer"
    if hint in (Decimal, float):
        number = isinstance(value, str) and _DECIMAL.fullmatch(value)
        return None if number else "parameter_invalid_decimal"
    if hint is bool:
        fits = value in ("true", "false", True, False)
        return None if fits else "parameter_invalid_boolean"
    if origin in (typing.Literal, typing_extensions.Literal):
        allowed = [str(it) for it in typing.get_args(hint)]
        return None if value in allowed else "parameter_invalid_enum"
    return None if isinstance(value, str) else "parameter_invalid_string"


def _join(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name
