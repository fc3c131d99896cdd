"""Write the attack table into docs/security.md: `python -m tests.e2e.attacks.document`.

It stands between two markers; the rest of the page is written by hand.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.e2e.attacks.table import FAMILIES, TABLE

DOCUMENT = Path(__file__).parents[3] / "docs" / "security.md"
_BEGIN = "<!-- The rows of tests/e2e/attacks; written by `make attacks`. -->"
_END = "<!-- The end of the rows. -->"


def written(text: str) -> str:
    """The page with the table of now. Raises ValueError where it lacks a marker."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{DOCUMENT} lacks a marker: {_BEGIN} and {_END}")
    return f"{before}{_BEGIN}\n{''.join(_lines())}\n{_END}{after}"


def _lines() -> Iterator[str]:
    yield f"\n{len(TABLE)} attacks.\n"
    for family, title in FAMILIES.items():
        yield f"\n### {title}\n\n| threat | mitigation | test |\n|---|---|---|\n"
        for row in sorted(TABLE, key=lambda it: it.id):
            if row.family == family:
                cells = (row.threat, row.mitigation, f"`{row.id}`")
                yield f"| {' | '.join(map(_cell, cells))} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
