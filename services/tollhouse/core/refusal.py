"""Refusals of a request's fields, and the readers that make them."""

from typing import Any, Final, Never

from tollhouse.core.problems import Kind, Problem

LONGEST_NAME: Final = 64
"""Characters of a name that a client chose, in an error."""


def shown(name: str) -> str:
    """A client's name as errors repeat it: printable, and not long.

    In gRPC it travels in a header, and clients take 8 KiB of those.
    """
    cut = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return "".join(
        it if it.isprintable() else "\N{REPLACEMENT CHARACTER}" for it in cut
    )


def refuse(message: str, param: str | None = None) -> Never:
    """Raise the Problem of a field that is wrong.

    `message` may begin with what the field has to be: its name is put in front.
    """
    param = shown(param) if param else param
    if param and not message.startswith(("`", "The", "This")):
        message = f"`{param}` {message}"
    raise Problem(Kind.INVALID_REQUEST, message, param)


def refuse_unsupported(name: str) -> Never:
    """Raise the Problem of a field that is none here."""
    name = shown(name)
    raise Problem(Kind.UNSUPPORTED, f"`{name}` is not supported.", name)


def flag(values: dict[str, Any], name: str) -> bool:
    """Whether a field is true; absent and null are false. Raises Problem."""
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        refuse("must be true or false.", name)
    return value is True


def positive(values: dict[str, Any], name: str) -> int | None:
    """A whole number from 1 on, None where there is none. Raises Problem."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value < 2**31:
        refuse("must be a whole number of at least 1.", name)
    return value


def check_within(values: dict[str, Any], name: str, most: int) -> None:
    """Refuse what is not a whole number from 0 to `most`. Raises Problem."""
    value = values.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= most):
        refuse(f"must be a whole number from 0 to {most}.", name)
