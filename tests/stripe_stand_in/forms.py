"""Stripe's form encoding: `a[b]=1&c[0]=2` is {"a": {"b": "1"}, "c": ["2"]}."""

import re
from typing import Any
from urllib.parse import parse_qsl

from tests.stripe_stand_in.refusals import malformed

_NAME = re.compile(r"[^\[\]]+(\[[^\[\]]*\])*")


def parse_form(text: str) -> dict[str, Any]:
    """Read a body or a query; raises Refusal when a name makes no sense."""
    form: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if not _NAME.fullmatch(name):
            raise malformed(f"Invalid parameter name: {name}", "parameter_unknown")
        *path, last = name.replace("]", "").split("[")
        place = form
        for key in path:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise malformed(f"Invalid object: {name}", "parameter_invalid", name)
        # `lookup_keys[]=a&lookup_keys[]=b`: numbered as they come.
        place[last or str(len(place))] = value
    return {key: _with_lists(value) for key, value in form.items()}


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    parts = {key: _with_lists(it) for key, it in value.items()}
    if list(parts) == [str(number) for number in range(len(parts))]:
        return list(parts.values())
    return parts
