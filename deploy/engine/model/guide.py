"""What guided decoding would have made of a model: JSON text that fits a schema.

A simulation: nothing is decoded under a mask, a value is made up from the schema and
written down. Of a schema with a keyword that it does not know it makes nothing.
"""

import json
import random
from collections.abc import Callable

_WORDS = ("toll", "gate", "road", "bridge", "lamp", "ledger", "wagon", "river")
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "duration": "P1D",
    "email": "keeper@toll.example",
    "hostname": "toll.example",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "12:00:00Z",
    "uri": "https://toll.example/",
    "uuid": "6f0c2a52-6a3b-4c6e-9d3b-0e6f2f7f8a10",
}
_SHALLOW = 4  # deeper, what may be left out is
_DEEPEST = 24
_MOST = 3  # items, words, entries, where the schema lets us choose
_NUMBERS = 100
_VALUES = 10_000  # most that are made, those thrown away too
_LONGEST = 4096

# Keywords that bind a value; all others only describe it.
_KNOWN = {
    *("$ref", "allOf", "anyOf", "oneOf", "const", "enum", "type", "format"),
    *("properties", "required", "additionalProperties", "items", "prefixItems"),
    *("minItems", "maxItems", "minLength", "maxLength", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_DESCRIBING = {
    *("$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated"),
    *("description", "discriminator", "example", "examples", "title", "readOnly"),
    *("writeOnly", "contentEncoding", "contentMediaType"),
}


class UnfitSchema(ValueError):
    """The schema can't be followed; the message repeats nothing of it."""


def guided_text(kind: str, guide: str, rng: random.Random) -> str:
    """Return the text of an answer under a guide. Raises UnfitSchema."""
    if kind == "json":
        schema: object = {"type": "object", "additionalProperties": {"type": "string"}}
    elif kind == "json_schema":
        try:
            schema = json.loads(guide)
        except ValueError as error:
            raise UnfitSchema("the guide is not JSON") from error
    else:
        raise UnfitSchema("guides are json and json_schema")
    return written(made_value(schema, rng))


def made_value(schema: object, rng: random.Random) -> object:
    """Return a value that fits a schema. Raises UnfitSchema."""
    try:
        return Maker(schema, rng).value(schema)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise UnfitSchema("the schema is malformed") from error


def written(value: object) -> str:
    """Return JSON in which no control token of a chat template can stand."""
    return json.dumps(value, ensure_ascii=False).replace("<|", "\\u003c|")


class Maker:
    """Makes values for the parts of one schema."""

    def __init__(self, root: object, rng: random.Random) -> None:
        self._root = root
        self._rng = rng
        self._left = _VALUES
        self._makers: dict[str, Callable[[dict, int], object]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda _schema, _depth: rng.choice((True, False)),
            "null": lambda _schema, _depth: None,
        }

    def value(self, schema: object, depth: int = 0) -> object:
        """Return a value that fits. Raises UnfitSchema."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise UnfitSchema("the schema is too deep or too large")
        if schema is True:
            return self._word()
        if not isinstance(schema, dict):
            raise UnfitSchema("a schema must be an object")
        if schema.keys() - _KNOWN - _DESCRIBING:
            raise UnfitSchema("the schema has a keyword that is not supported")
        if "$ref" in schema:
            rest = {key: it for key, it in schema.items() if key != "$ref"}
            return self.value(self._resolved(schema["$ref"]) | rest, depth + 1)
        if "allOf" in schema:
            return self.value(_merged(schema), depth + 1)
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self._any_of(options, depth)
        if given := [schema["const"]] if "const" in schema else schema.get("enum"):
            return self._rng.choice(given)
        return self._typed(schema, depth)

    def _typed(self, schema: dict, depth: int) -> object:
        kind = schema.get("type") or _implied_type(schema)
        if isinstance(kind, list):
            kind = self._rng.choice(kind)
        if kind not in self._makers:
            raise UnfitSchema("the type is not one of JSON's")
        return self._makers[kind](schema, depth)

    def _resolved(self, reference: object) -> dict:
        """Follow a JSON pointer into the schema itself (RFC 6901)."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise UnfitSchema("a $ref must lead into the schema")
        found = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise UnfitSchema("a $ref leads nowhere")
        if not isinstance(found, dict):
            raise UnfitSchema("a $ref must lead to an object")
        return found

    def _any_of(self, options: list, depth: int) -> object:
        """Take one option; if it can't be followed, another."""
        shuffled = self._rng.sample(options, len(options))
        if depth >= _SHALLOW:  # recursive types end where a simple value may stand
            shuffled.sort(key=_is_nested)
        fault = UnfitSchema("no option can be followed")
        for option in shuffled:
            try:
                return self.value(option, depth + 1)
            except UnfitSchema as error:
                fault = error
        raise fault

    def _object(self, schema: dict, depth: int) -> dict:
        required = schema.get("required", [])
        made = {
            name: self.value(it, depth + 1)
            for name, it in schema.get("properties", {}).items()
            if name in required or depth < _SHALLOW
        }
        further = schema.get("additionalProperties", False)
        for name in required:
            if name not in made:
                if further is False:
                    raise UnfitSchema("a required property is not described")
                made[name] = self.value(further, depth + 1)
        if isinstance(further, dict) and not made and depth < _SHALLOW:
            made[self._word()] = self.value(further, depth + 1)
        return made

    def _array(self, schema: dict, depth: int) -> list:
        first = [self.value(it, depth + 1) for it in schema.get("prefixItems", [])]
        least = max(schema.get("minItems", 0) - len(first), 0)
        most = schema.get("maxItems", len(first) + least + _MOST) - len(first)
        wanted = least
        if depth < _SHALLOW and "items" in schema:
            wanted = min(max(least, self._rng.randint(1, _MOST)), most)
        items = schema.get("items", True)
        return first + [self.value(items, depth + 1) for _ in range(wanted)]

    def _string(self, schema: dict, depth: int) -> str:
        del depth
        if (text := _FORMATS.get(schema.get("format"))) is not None:
            return text
        least = schema.get("minLength", 0)
        if least > _LONGEST:
            raise UnfitSchema("a string is too long")
        words = [self._word() for _ in range(self._rng.randint(1, _MOST))]
        return " ".join(words).ljust(least, ".")[: schema.get("maxLength")]

    def _integer(self, schema: dict, depth: int) -> int:
        return int(self._number(schema, depth, step=1))

    def _number(self, schema: dict, depth: int, step: float = 0.25) -> float:
        """Return a multiple of the step within the bounds."""
        del depth
        step = schema.get("multipleOf", step)
        low = schema.get("minimum")
        if "exclusiveMinimum" in schema:
            low = schema["exclusiveMinimum"] + step
        high = schema.get("maximum")
        if "exclusiveMaximum" in schema:
            high = schema["exclusiveMaximum"] - step
        if low is None:
            low = 0 if high is None or high >= 0 else high - _NUMBERS * step
        if high is None:
            high = low + _NUMBERS * step
        first, last = -(-low // step), high // step
        if first > last:
            raise UnfitSchema("no number is within the bounds")
        return self._rng.randint(int(first), int(last)) * step

    def _word(self) -> str:
        return self._rng.choice(_WORDS)


def _merged(schema: dict) -> dict:
    if len(schema["allOf"]) != 1:
        raise UnfitSchema("allOf of several schemas is not supported")
    rest = {key: it for key, it in schema.items() if key != "allOf"}
    return schema["allOf"][0] | rest


def _implied_type(schema: dict) -> str:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _is_nested(option: object) -> bool:
    return not isinstance(option, dict) or option.get("type") not in (
        "string",
        "integer",
        "number",
        "boolean",
        "null",
    )
