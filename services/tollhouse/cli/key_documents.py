"""Files of keys: YAML, JSON or a JSON object a line, each key read with its place."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tollhouse.adapters.configuration import StrictLoader
from tollhouse.adapters.redis.imports import MOST_DOCUMENTS
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.key_terms import KeyDocument, TermsError, read_document

MOST_BYTES: Final = 16 * 1024 * 1024
_LIST = "keys"

Placed = tuple[str, Any]
"""Where something stands, and what."""


def read_documents(name: str, path: str) -> list[tuple[str, KeyDocument]]:
    """Read a file (`-`: standard input), each key with its place.

    Raises UnusableError with all faults, one a line. No fault shows a key.
    """
    text = _text(name, path)
    try:
        placed = list(_from_json(text) if _is_json(text) else _from_yaml(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        # Not PyYAML's own text: it quotes the file.
        what = "is not YAML, or says a field twice"
        raise UnusableError(f"{name}{line}: {what}") from None
    except _JsonError as error:
        raise UnusableError(f"{name} {error}") from None
    except (ValueError, RecursionError):  # a date or number that is none
        raise UnusableError(f"{name}: a value can't be read") from None
    if len(placed) > MOST_DOCUMENTS:
        raise UnusableError(
            f"{name}: {len(placed)} keys; at most {MOST_DOCUMENTS} at once"
        )
    documents, faults = [], []
    for place, fields in placed:
        where = f"{name} {place}"
        if not isinstance(fields, dict):
            faults.append(f"{where}: must be a mapping with key_id, digest and tenant")
            continue
        try:
            documents.append((where, read_document(fields)))
        except TermsError as error:
            faults += [f"{where}: {field}: {text}" for field, text in error.faults]
    if faults:
        raise UnusableError("\n".join(faults))
    return documents


def _text(name: str, path: str) -> str:
    try:
        if path == "-":
            text = sys.stdin.read(MOST_BYTES + 1)
        else:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnusableError(f"{name}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise UnusableError(f"{name}: is not UTF-8 text") from None
    if len(text) > MOST_BYTES:
        raise UnusableError(f"{name}: is larger than {MOST_BYTES:_} bytes")
    return text


class _JsonError(Exception):
    """What is no JSON, and where."""


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[")


def _from_json(text: str) -> Iterator[Placed]:
    """Read values one after the other: JSON, or a value a line."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    position = _next(text, 0)
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _JsonError(f"line {error.lineno}: is not JSON") from None
        except _TwiceError:
            raise _JsonError(f"line {line}: says a field twice") from None
        yield from _flat(f"line {line}", value)
        position = _next(text, position)


def _next(text: str, position: int) -> int:
    """Where the next value begins."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _flat(place: str, value: Any) -> Iterator[Placed]:
    """Take a list, or the one under `keys`, apart."""
    if isinstance(value, dict) and set(value) == {_LIST}:
        value = value[_LIST]
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield f"{place}, key {number}", item
    else:
        yield place, value


class _TwiceError(ValueError):
    """A field is given twice: the last one must not win silently."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _from_yaml(text: str) -> Iterator[Placed]:
    loader = StrictLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            for item in _items(node):
                line = item.start_mark.line + 1
                yield f"line {line}", loader.construct_document(item)
    finally:
        loader.dispose()


def _items(node: yaml.Node) -> list[yaml.Node]:
    """Take a list, or the one under `keys`, apart."""
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        name, value = node.value[0]
        if name.value == _LIST:
            node = value
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.ScalarNode) and not node.value:  # an empty document
        return []
    return [node]
