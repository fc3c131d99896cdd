"""Refusals of a request's fields, and the readers that make them."""

from typing import Any, Never

from tollhouse.core.problems import Kind, Problem


def refuse(message: str, param: str | None = None) -> Never:
    """Raise the Problem of a field that is wrong.

    `message` may begin with what the field has to be: its name is put in front.
    """
    if param and not message.startswith(("`", "The", "This")):
        message = f"`{param}` {message}"
    raise Problem(Kind.INVALID_REQUEST, message, param)


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
