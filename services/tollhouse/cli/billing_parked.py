"""`tollhouse billing parked`: what waits for an operator, and what is decided."""

import argparse
import time

from tollhouse.adapters.redis.parked import (
    DISCARD,
    RESEAL,
    RETRY,
    Parked,
    ParkedChunks,
    Resolved,
)
from tollhouse.adapters.redis.records import iso
from tollhouse.adapters.redis.refused import Decision, Refused
from tollhouse.cli import billing_records, billing_settle, keyring
from tollhouse.cli.both_redis import (
    add_redis_options,
    add_who_options,
    open_billing,
    open_gateway,
    print_results,
    reporting,
)
from tollhouse.cli.console import Console
from tollhouse.core.chunk import OLDEST_SECONDS, TRUSTED_SECONDS

_DESCRIPTION = """\
Chunks of usage that the provider will not take are parked, and so are usage records
that the aggregator refused (`parked records`). Nothing of them is billed until somebody
decides; what was decided, by whom and why is kept (`parked history`).
`tollhouse billing parked COMMAND --help` explains a command.
"""
_LIST = """\
List parked chunks, longest parked first. DOUBT says that the provider may have it: it
may be retried, never sealed anew. What each reason means: docs/billing.md.

examples:
  tollhouse billing parked list
  tollhouse billing parked list --tenant acme --json
"""
_RETRY = f"""\
Send parked chunks again: the same bytes under the same identifier, which the provider
takes once. One in doubt for {TRUSTED_SECONDS // 3600} hours is looked up there first.

--reseal instead takes a chunk back into its window, to be frozen anew within a second
or so with the customer and provider of now: for a wrong customer. It is refused for a
chunk in doubt, which the provider may have: sealed anew it could be billed twice.

CHUNK is an id as `parked list` shows it (quote it: it has `|`), or an identifier
(th1_...).

examples:
  tollhouse billing parked retry 'acme|tiny-chat|output|490000|1' --why "meter restored"
  tollhouse billing parked retry th1_03_0c5f... --reseal --why "acme has its customer"

Exit status: 0 all done; 1 not all, or Redis did not answer; 2 the command line or the
machine is not right.
"""
_DISCARD = """\
Give parked chunks up: they are never billed. The tokens stay in `tollhouse usage`. A
chunk in doubt may have been billed all the same.

example:
  tollhouse billing parked discard 'acme|tiny-chat|output|490000|1' --why "test traffic"

Exit status: 0 all done; 1 not all, or Redis did not answer; 2 the command line or the
machine is not right.
"""
_HISTORY = """\
List what was decided about parked chunks and refused records, oldest first.

example:
  tollhouse billing parked history --json
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        subparsers,
        "parked",
        summary="what waits for an operator",
        description=_DESCRIPTION,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    list_ = keyring.add_command(
        commands, "list", summary="list parked chunks", description=_LIST
    )
    list_.add_argument("--tenant", metavar="NAME", help="only this one (default: all)")
    add_redis_options(list_, both=False)
    list_.set_defaults(run=reporting(_list))

    retry = keyring.add_command(
        commands, "retry", summary="send chunks again", description=_RETRY
    )
    _add_chunks(retry)
    retry.add_argument(
        "--reseal",
        action="store_true",
        help="freeze anew, with the customer and provider of now",
    )
    retry.set_defaults(run=reporting(_retry))

    discard = keyring.add_command(
        commands, "discard", summary="give chunks up", description=_DISCARD
    )
    _add_chunks(discard)
    discard.set_defaults(run=reporting(_discard))

    billing_settle.add_parser(commands)

    history = keyring.add_command(
        commands, "history", summary="list what was decided", description=_HISTORY
    )
    add_redis_options(history, both=True)
    history.set_defaults(run=reporting(_history))

    billing_records.add_parser(commands)


def _add_chunks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "chunks", metavar="CHUNK", nargs="+", help="id or identifier of a parked chunk"
    )
    add_who_options(parser)
    add_redis_options(parser, both=False)


async def _list(args: argparse.Namespace) -> int:
    async with open_billing(args) as redis:
        parked = await ParkedChunks(redis).all(args.tenant)
    if args.json:
        keyring.print_json({"chunks": list(map(_to_json, parked))})
    elif not parked:
        Console().line("nothing is parked")
    else:
        header = ("CHUNK", "TOKENS", "CUSTOMER", "REASON", "DOUBT", "PARKED", "TRIES")
        keyring.print_table(header, list(map(_cells, parked)))
    return keyring.EXIT_OK


async def _retry(args: argparse.Namespace) -> int:
    return await _resolve(args, RESEAL if args.reseal else RETRY)


async def _discard(args: argparse.Namespace) -> int:
    return await _resolve(args, DISCARD)


async def _resolve(args: argparse.Namespace, action: str) -> int:
    decided_by = keyring.who(args.who)
    results: list[tuple[str, str, bool]] = []
    async with open_billing(args) as redis:
        parked = ParkedChunks(redis)
        for name in args.chunks:
            stored = await parked.find(name)
            if stored is None:
                results.append((name, "no such chunk is kept", False))
                continue
            now = int(time.time())
            outcome = await parked.resolve(
                stored, action, who=decided_by, why=args.why, now=now
            )
            text = _text(outcome, action, stored.chunk.timestamp < now - OLDEST_SECONDS)
            if outcome is Resolved.DONE and action == DISCARD:
                in_doubt = stored.progress.doubt_at != 0
                text += "; it was in doubt: the provider may have it" * in_doubt
            results.append((stored.chunk.id, text, outcome is Resolved.DONE))
    return print_results(results, as_json=args.json)


def _text(outcome: Resolved, action: str, is_old: bool) -> str:  # noqa: FBT001
    match outcome:
        case Resolved.NOT_PARKED:
            return "is not parked (any more)"
        case Resolved.IN_DOUBT:
            return (
                "is in doubt: the provider may have it, and sealed anew it could be"
                " billed twice; retry it without --reseal (it is looked up there"
                " first), or look there yourself and settle or discard it"
            )
        case Resolved.DONE if action == RETRY:
            old = "; too old for Stripe: it will be parked again" if is_old else ""
            return f"will be sent again{old}"
        case Resolved.DONE:
            done = {RESEAL: "will be sealed anew", DISCARD: "is discarded"}
            return done[action]


async def _history(args: argparse.Namespace) -> int:
    async with open_gateway(args) as gateway, open_billing(args) as billing:
        decisions = [
            *await ParkedChunks(billing).history(),
            *await Refused(gateway).history(),
        ]
    decisions.sort(key=lambda it: (it.at, it.subject))
    if args.json:
        rows = [_decision_json(it) for it in decisions]
        keyring.print_json({"decisions": rows})
    elif not decisions:
        Console().line("nothing was decided")
    else:
        keyring.print_table(
            ("AT", "WHO", "ACTION", "WHAT", "TOKENS", "WAS PARKED FOR", "WHY"),
            [
                (
                    iso(it.at) or "",
                    it.who,
                    it.action + ("" if it.settled is None else f" at {it.settled:,}"),
                    it.subject,
                    f"{it.value:,}",
                    it.was,
                    it.why,
                )
                for it in decisions
            ],
        )
    return keyring.EXIT_OK


def _decision_json(it: Decision) -> dict[str, object]:
    return {
        "at": iso(it.at),
        "who": it.who,
        "action": it.action,
        "what": it.subject,
        "tenant": it.tenant,
        "tokens": it.value,
        "settled_tokens": it.settled,
        "was_parked_for": it.was,
        "why": it.why,
    }


def _cells(it: Parked) -> tuple[str, ...]:
    chunk, progress = it.stored.chunk, it.stored.progress
    return (
        chunk.id,
        f"{chunk.value:,}",
        chunk.account.customer,
        progress.reason,
        "yes" if progress.doubt_at else "no",
        iso(it.parked_at) or "",
        str(progress.attempts),
    )


def _to_json(it: Parked) -> dict[str, object]:
    chunk, progress = it.stored.chunk, it.stored.progress
    window = chunk.window
    return {
        "id": chunk.id,
        "identifier": chunk.identifier,
        "tenant": window.tenant,
        "model": window.model,
        "token_type": window.token_type.value,
        "hour": iso(window.hour * 3600),
        "tokens": chunk.value,
        "timestamp": chunk.timestamp,
        "provider": chunk.account.provider,
        "customer": chunk.account.customer,
        "event_name": chunk.event_name,
        "reason": progress.reason,
        "in_doubt_since": iso(progress.doubt_at) if progress.doubt_at else None,
        "attempts": progress.attempts,
        "parked_at": iso(it.parked_at),
    }
