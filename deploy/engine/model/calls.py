"""When this simulated model calls functions, and how: by name, in Hermes' tags.

It has no judgement: it calls each offered function that the last turn, if it is a
user's, mentions by its name, with arguments made up from the schema.
"""

import json
import random
import re

from guide import UnfitSchema, made_value, written

# As release/chat_template.jinja writes them.
_TOOLS = re.compile(r"<tools>\n(.*?)\n</tools>", re.DOTALL)
_USER = "<|im_start|>user"
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


def calls_text(prompt: str, rng: random.Random) -> str:
    """Return the calls that a prompt asks for; nothing where it asks for none."""
    _, user, turn = prompt.rpartition(_USER)
    offered = _TOOLS.search(prompt)
    if not user or not turn.endswith(_ANSWER) or offered is None:
        return ""
    said = turn.removesuffix(_ANSWER)
    if "<|im_end|>" in said:  # something came after the user's turn
        return ""
    return "\n".join(
        f"<tool_call>\n{written(call)}\n</tool_call>"
        for line in offered[1].splitlines()
        if (call := _call(line, said, rng)) is not None
    )


def _call(line: str, said: str, rng: random.Random) -> dict | None:
    try:
        function = json.loads(line)["function"]
        name, parameters = function["name"], function["parameters"]
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said):
            return None
        return {"name": name, "arguments": made_value(parameters, rng)}
    except (ValueError, LookupError, TypeError, UnfitSchema):
        return None  # free to call, it is free not to
