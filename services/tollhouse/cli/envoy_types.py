"""Envoy configuration as envoy-data-plane's typed messages: read, walk, write.

Reading and writing go field by field here rather than through the library's
`from_dict` and `to_dict`, for two reasons. It names the first unknown field only, and
by message instead of place; an operator wants all faults with their path. And it can't
spell Envoy's `…_5xx` fields: it reads them as `…_5_xx`, and writes `…5Xx`.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar

from betterproto2 import Message, _value_from_dict
from betterproto2.casing import safe_snake_case
from envoy_data_plane.google.protobuf import Any as PbAny

_Kind = TypeVar("_Kind", bound=Message)

_REFUSED = object()
"""Stands for a value that is already among the faults."""

Visit = Callable[[Message], None]


def read_message(kind: type[_Kind], tree: Any, faults: list[str]) -> _Kind:
    """Turn a YAML tree into a message.

    Appends `path: what is wrong` to `faults` for everything the type refuses; the
    message is only of use when there were none.
    """
    return _read(kind, tree, "", faults)


def to_json_message(message: Message) -> dict[str, Any]:
    """Return a message as JSON values that Envoy reads, names as in its API."""
    # Any callable will do as casing; `str` leaves names alone.
    return message.to_dict(casing=str)  # type: ignore[arg-type]


def walk(message: Message, visit: Visit) -> None:
    """Visit a message and all messages in it, innermost first; changes are kept.

    Extensions (`typed_config`) are unpacked for the visit and packed again.
    """
    for field in dataclasses.fields(message):  # type: ignore[arg-type]
        value = getattr(message, field.name)
        match value:
            case Message():
                setattr(message, field.name, _walked(value, visit))
            case list():
                value[:] = [_walked(item, visit) for item in value]
            case dict():
                for key, item in value.items():
                    value[key] = _walked(item, visit)
    visit(message)


def _read(kind: type[_Kind], tree: Any, path: str, faults: list[str]) -> _Kind:
    if not isinstance(tree, dict):
        faults.append(f"{path}: should be a mapping ({kind.__name__})")
        return kind()
    about = _about(kind)
    fields: dict[str, Any] = {}
    for key, value in tree.items():
        place = _join(path, str(key))
        name = key if key in about.meta_by_field_name else safe_snake_case(str(key))
        if name not in about.meta_by_field_name:
            close = get_close_matches(name, about.meta_by_field_name, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            faults.append(f"{place}: {kind.__name__} has no such field{hint}")
        elif value is not None:
            fields[name] = _read_field(kind, name, value, place, faults)
    good = {name: value for name, value in fields.items() if value is not _REFUSED}
    try:
        return kind(**good)
    except ValueError as error:  # two members of a oneof, a string that is a number
        faults.append(f"{path}: {_reason(error)}")
        return kind()


def _read_field(
    kind: type[Message], name: str, value: Any, place: str, faults: list[str]
) -> Any:
    about = _about(kind)
    meta = about.meta_by_field_name[name]
    if meta.map_meta is not None:
        if not isinstance(value, dict):
            faults.append(f"{place}: should be a mapping")
            return {}
        item_meta, item_kind = meta.map_meta[1], about.cls_by_field[f"{name}.value"]
        return {
            key: _read_item(item_kind, item_meta, item, f"{place}[{key}]", faults)
            for key, item in value.items()
        }
    item_kind = about.cls_by_field[name]
    if not meta.repeated:
        return _read_item(item_kind, meta, value, place, faults)
    if not isinstance(value, list):
        faults.append(f"{place}: should be a list")
        return []
    return [
        _read_item(item_kind, meta, item, f"{place}[{index}]", faults)
        for index, item in enumerate(value)
    ]


def _read_item(kind: Any, meta: Any, value: Any, place: str, faults: list[str]) -> Any:
    if kind is PbAny:
        return _read_any(value, place, faults)
    if meta.unwrap is None and isinstance(kind, type) and _has_plain_json(kind):
        return _read(kind, value, place, faults)
    try:
        return _value_from_dict(value, meta, kind, ignore_unknown_fields=False)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        faults.append(f"{place}: {_reason(error)} (got {value!r:.60})")
        return _REFUSED


def _read_any(value: Any, place: str, faults: list[str]) -> PbAny:
    if not isinstance(value, dict) or not isinstance(url := value.get("@type"), str):
        faults.append(f"{place}: needs an `@type`")
        return PbAny()
    if (kind := _class_of(url)) is None:
        faults.append(f"{place}.@type: there is no type `{url}`")
        return PbAny()
    fields = {key: item for key, item in value.items() if key != "@type"}
    if _has_plain_json(kind):
        return PbAny.pack(_read(kind, fields, place, faults))
    return PbAny.pack(kind.from_dict(fields.get("value")))


def _walked(value: Any, visit: Visit) -> Any:
    if isinstance(value, PbAny):
        if (inner := value.unpack()) is None:
            return value
        walk(inner, visit)
        return PbAny.pack(inner)
    if isinstance(value, Message):
        walk(value, visit)
    return value


@functools.cache
def _class_of(url: str) -> type[Message] | None:
    """Import the class of a type URL; None when there is none."""
    package, _, name = url.rpartition("/")[2].rpartition(".")
    try:
        module = importlib.import_module(f"envoy_data_plane.{package}")
    except (ImportError, ValueError):
        return None
    found = getattr(module, name, None)
    return found if isinstance(found, type) and issubclass(found, Message) else None


def _has_plain_json(kind: type) -> bool:
    """Tell messages from the types whose JSON is their own (Duration, Struct, …)."""
    return issubclass(kind, Message) and kind.to_dict == Message.to_dict


def _about(kind: type[Message]) -> Any:
    """Return the fields of a message type; the library has no public way in."""
    return kind._betterproto  # type: ignore[arg-type]  # noqa: SLF001


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _reason(error: Exception) -> str:
    """Say in one line what the library says, without its pointers to web pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 2 and "validation error" in lines[0]:  # noqa: PLR2004 - pydantic's
        return f"{lines[1]}: {lines[2].partition(' [type=')[0]}"
    return lines[0] if lines else type(error).__name__
