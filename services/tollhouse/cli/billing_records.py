"""`tollhouse billing parked records`: usage records that the aggregator refused."""

import argparse
import time
from collections.abc import Sequence

from tollhouse.adapters.redis.records import iso
from tollhouse.adapters.redis.refused import DISCARD, RETRY, Refused, Waiting
from tollhouse.cli import keyring
from tollhouse.cli.both_redis import (
    add_redis_options,
    add_who_options,
    open_gateway,
    print_results,
    reporting,
)
from tollhouse.cli.console import Console
from tollhouse.core.reconciliation import EXCHANGES
from tollhouse.core.usage import UsageKind
from tollhouse.core.windows import SECONDS_PER_HOUR, TokenType

_LIST = """\
List usage records that the aggregator refused for good, and why. They were settled and
are in no window. Without a COMMAND this is what happens.

examples:
  tollhouse billing parked records
  tollhouse billing parked records --json
"""
_RETRY = """\
Put refused records back into their outbox, once what they were refused for is repaired:
a relay carries them within seconds. A record that is refused again is parked again.

example:
  tollhouse billing parked records retry 019ac... --why "aggregator was too old"

Exit status: 0 all done; 1 not all, or Redis did not answer; 2 the command line or the
machine is not right.
"""
_DISCARD = """\
Drop refused records: they are never billed. The history keeps each whole, so that the
books still balance.

example:
  tollhouse billing parked records discard 019ac... --why "billed by hand"

Exit status: 0 all done; 1 not all, or Redis did not answer; 2 the command line or the
machine is not right.
"""
_DONE = {RETRY: "is in its outbox again", DISCARD: "is dropped"}


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        subparsers,
        "records",
        summary="usage records that the aggregator refused",
        description=_LIST,
    )
    add_redis_options(parser, both=True)
    parser.set_defaults(run=reporting(_list))
    commands = parser.add_subparsers(metavar="COMMAND")
    retry = keyring.add_command(
        commands, RETRY, summary="put records back", description=_RETRY
    )
    discard = keyring.add_command(
        commands, DISCARD, summary="drop records", description=_DISCARD
    )
    for command, work in ((retry, _retry), (discard, _discard)):
        command.add_argument("records", metavar="ID", nargs="+", help="a record's id")
        add_who_options(command)
        add_redis_options(command, both=True)
        command.set_defaults(run=reporting(work))


async def _list(args: argparse.Namespace) -> int:
    async with open_gateway(args) as redis:
        records = await Refused(redis).all()
    if args.json:
        keyring.print_json({"records": list(map(_to_json, records))})
    elif not records:
        Console().line("no record is refused")
    else:
        keyring.print_table(
            ("RECORD", "TENANT", "MODEL", "HOUR (UTC)", "IN", "OUT", "REASON"),
            list(map(_cells, records)),
        )
    return keyring.EXIT_OK


async def _retry(args: argparse.Namespace) -> int:
    return await _resolve(args, RETRY)


async def _discard(args: argparse.Namespace) -> int:
    return await _resolve(args, DISCARD)


async def _resolve(args: argparse.Namespace, action: str) -> int:
    decided_by = keyring.who(args.who)
    results: list[tuple[str, str, bool]] = []
    async with open_gateway(args) as redis:
        refused = Refused(redis)
        # By id: where a replay wrote a record twice, both are meant.
        known: dict[str, list[Waiting]] = {}
        for record in await refused.all():
            known.setdefault(record.record_id, []).append(record)
        for id_ in dict.fromkeys(args.records):
            found: Sequence[Waiting] = known.get(id_, ())
            done = await refused.resolve(
                found, action, who=decided_by, why=args.why, now=int(time.time())
            )
            is_done = any(done)
            what = _DONE[action] if is_done else "is not among the refused"
            results.append((id_, what, is_done))
    return print_results(results, as_json=args.json)


def _cells(it: Waiting) -> tuple[str, ...]:
    place = it.place
    return (
        it.record_id or "?",
        place.tenant if place else "?",
        place.model if place else "?",
        (iso(place.hour * SECONDS_PER_HOUR) or "?")[:16] if place else "?",
        f"{_input(it):,}",
        f"{it.amounts.get(TokenType.OUTPUT, 0):,}",
        it.reason,
    )


def _input(it: Waiting) -> int:
    types = TokenType.UNCACHED_INPUT, TokenType.CACHED_INPUT
    return sum(it.amounts.get(token_type, 0) for token_type in types)


def _to_json(it: Waiting) -> dict[str, object]:
    place = it.place
    return {
        "id": it.record_id,
        "tenant": place.tenant if place else None,
        "model": place.model if place else None,
        "hour": iso(place.hour * SECONDS_PER_HOUR) if place else None,
        "kind": UsageKind(it.kind).name.lower() if it.kind in set(UsageKind) else None,
        "input_tokens": _input(it),
        "cached_input_tokens": it.amounts.get(TokenType.CACHED_INPUT, 0),
        "output_tokens": it.amounts.get(TokenType.OUTPUT, 0),
        "reasoning_tokens": it.amounts.get(TokenType.REASONING, 0),
        "exchanges": it.amounts.get(EXCHANGES, 0),
        "reason": it.reason,
    }
