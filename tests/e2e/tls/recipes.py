"""The recipes of envoy/README.md, as they are printed there."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_README = Path(__file__).parents[3] / "envoy" / "README.md"


def recipe(title: str) -> list[Any]:
    """Return the YAML blocks under a bold title."""
    text = _README.read_text()
    _, _, rest = text.partition(f"\n**{title}.**")
    section = re.split(r"^(?:\*\*|## )", rest, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```yaml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks, title
    return [yaml.safe_load(block) for block in blocks]


def placed(tree: Any, places: Mapping[str, str | Path]) -> Any:
    """Return a tree with words of its strings replaced; each has to be in it."""
    text = json.dumps(tree)
    for word, place in places.items():
        assert word in text, word
        text = text.replace(word, str(place))
    return json.loads(text)
