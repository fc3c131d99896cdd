"""Reads what core/truth.py compares: the engine's truth log and the ledger's files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tollhouse.adapters.ledger_files import LedgerFolder
from tollhouse.core.ids import created_ms
from tollhouse.core.ledger import judge, parse
from tollhouse.core.problems import ProtocolError
from tollhouse.core.truth import Generated, Ledger, add_up

_SUCCESS = 2  # xx


def read_truth(path: Path) -> dict[str, Generated]:
    """What the engine generated, by exchange. Raises OSError.

    A line that is half written, or torn by a crash, is left out.
    """
    return add_up(_truth_lines(path))


def _truth_lines(path: Path) -> Iterator[tuple[str, int, int, float]]:
    with path.open("rb") as file:
        for raw in file:
            try:
                line = json.loads(raw)
                yield (
                    str(line["id"]),
                    int(line["input_tokens"]),
                    int(line["output_tokens"]),
                    float(line["at"]),
                )
            except (ValueError, KeyError, TypeError):
                continue


def ledger_files(path: Path) -> list[Path]:
    """A ledger and the files it was renamed to, oldest first. Raises OSError."""
    return [it.path for it in LedgerFolder(path).files(())]


def read_ledger(paths: Sequence[Path]) -> Ledger:
    """The last word on each exchange in these files, oldest first. Raises OSError.

    Lines that can't be read name no exchange: it is settled otherwise, if at all.
    """
    ledger = Ledger({})
    for path in paths:
        with path.open("rb") as file:
            for raw in file:
                _hear(ledger, raw.rstrip(b"\n"))
    return ledger


def _hear(ledger: Ledger, raw: bytes) -> None:
    try:
        line = parse(raw)
        entry = judge(line)
        at = float(line.started_at) + (line.duration_ms or 0) / 1000
        created_ms(line.exchange)
    except (ProtocolError, ValueError):
        return
    ledger.hear(entry, at=at, succeeded=line.code // 100 == _SUCCESS)
