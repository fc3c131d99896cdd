"""The other end of `tollhouse reconcile`: what the engine generated was billed."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tollhouse.adapters.engine_truth import ledger_files, read_ledger, read_truth
from tollhouse.adapters.redis.billing_books import BillingBooks
from tollhouse.adapters.redis.gateway_books import GatewayBooks
from tollhouse.adapters.redis.shards import SHARDS
from tollhouse.cli.both_redis import is_local
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.catalog import Provider
from tollhouse.core.ids import created_ms
from tollhouse.core.truth import Mismatch, mismatches, not_billed, unheard
from tollhouse.core.windows import MS_PER_HOUR


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """The engine's truth log, and the ledger's files, oldest first."""

    truth: Path
    ledger: Sequence[Path]


@dataclass(frozen=True, slots=True)
class EngineBooks:
    """What was compared, and what differs."""

    exchanges: int
    mismatches: Sequence[Mismatch]


def find_files(args: argparse.Namespace) -> EngineFiles | None:
    """The files the options mean, or those of `tollhouse up`; None: no engine of ours.

    Raises UnusableError for half of them.
    """
    truth: Path | None = args.engine_log
    ledger: list[Path] = list(args.ledger or ())
    if is_local(args):
        here = args.state_dir / "truth.jsonl", args.state_dir / "ledger/ledger.jsonl"
        truth = truth or (here[0] if here[0].is_file() else None)
        if not ledger and here[1].parent.is_dir():
            ledger = ledger_files(here[1])
    if truth is None:
        if args.ledger:
            raise UnusableError("--ledger is compared with --engine-log: name both")
        return None
    if not ledger:
        raise UnusableError("--engine-log needs --ledger: Envoy's files of that time")
    return EngineFiles(truth, ledger)


async def compare(
    files: EngineFiles, gateway: GatewayBooks, billing: BillingBooks
) -> EngineBooks:
    """Compare them now. Raises UnusableError for files, Unavailable."""
    try:
        # In this order: what the engine ends, the ledger hears of later.
        generated = read_truth(files.truth)
        ledger = read_ledger(files.ledger)
    except OSError as error:
        raise UnusableError(f"{error.filename}: {error.strerror}") from error
    found = mismatches(generated, ledger, Provider.TRITON.value)
    silent = unheard(generated, ledger, time.time())
    if silent:
        # In this order: a record is in the outbox until it is in the windows.
        way = await gateway.on_the_way(range(SHARDS))
        hours = {id_: created_ms(id_) // MS_PER_HOUR for id_ in silent}
        recorded = await billing.may_have_records(hours)
        recorded.update(it.record_id for it in way.all())
        found += [not_billed(it, generated[it]) for it in silent if it not in recorded]
    return EngineBooks(len(generated), found)
