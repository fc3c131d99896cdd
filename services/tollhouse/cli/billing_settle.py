"""`tollhouse billing parked settle`: the provider has so much of a parked chunk."""

import argparse
import time

from tollhouse.adapters.redis.parked import SETTLE, ParkedChunks, Resolved
from tollhouse.cli import keyring
from tollhouse.cli.both_redis import (
    add_redis_options,
    add_who_options,
    open_billing,
    print_results,
    reporting,
)
from tollhouse.core.chunk import OLDEST_SECONDS

_SETTLE = """\
Say how many tokens of a parked chunk the provider has, once you have looked: they count
as sent, and what remains goes back into the chunk's window and is sealed anew within a
second or so. For `provider_differs` after Redis was restored: the provider took the
chunk before, with what the window had then.

Look at least an hour after the last attempt, or Stripe may have more than it shows: it
would be billed twice. What a customer has of a meter in the chunk's minute is in the
meter's event summaries (docs/billing.md has the call); the customer, event_name and
timestamp are in `parked list --json`. Leave out what others of the window's chunks have
in that minute: only every sixtieth shares it.

N is between 0 and the chunk's tokens (from the negative ones up to 0 for a correction).
Anything else would send the difference back as a correction of the other sign: that
takes --beyond too, where the provider really has more than the chunk asked for.

examples:
  tollhouse billing parked settle 'acme|tiny-chat|output|490000|1' --tokens 9 \\
      --why "restored at 12:00; event_summaries says 9"
  tollhouse billing parked settle th1_03_0c5f... --tokens 0 --why "not at Stripe"

Exit status: 0 done; 1 not done, or Redis did not answer; 2 the command line or the
machine is not right.
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        subparsers, SETTLE, summary="say what the provider has", description=_SETTLE
    )
    parser.add_argument(
        "chunk", metavar="CHUNK", help="id or identifier of a parked chunk"
    )
    parser.add_argument(
        "--tokens",
        type=int,
        required=True,
        metavar="N",
        help="tokens of the chunk that the provider has",
    )
    parser.add_argument(
        "--beyond", action="store_true", help="N may be more than the chunk has"
    )
    add_who_options(parser)
    add_redis_options(parser, both=False)
    parser.set_defaults(run=reporting(_settle))


async def _settle(args: argparse.Namespace) -> int:
    decided_by, tokens = keyring.who(args.who), int(args.tokens)
    async with open_billing(args) as redis:
        parked = ParkedChunks(redis)
        stored = await parked.find(args.chunk)
        if stored is None:
            result = args.chunk, "no such chunk is kept", False
            return print_results([result], as_json=args.json)
        chunk, now = stored.chunk, int(time.time())
        rest = chunk.value - tokens
        if not (args.beyond or min(0, chunk.value) <= tokens <= max(0, chunk.value)):
            text = (
                f"has {chunk.value:,} tokens: to settle it at {tokens:,} would send a"
                f" correction of {rest:,}; if the provider has that, add --beyond"
            )
            return print_results([(chunk.id, text, False)], as_json=args.json)
        outcome = await parked.resolve(
            stored, SETTLE, who=decided_by, why=args.why, now=now, tokens=tokens
        )
    is_done = outcome is Resolved.DONE
    text = "is not parked (any more)"
    if is_done:
        text = f"is settled at {tokens:,} tokens"
        if rest:
            text += f"; {rest:,} will be sealed anew"
            if chunk.timestamp < now - OLDEST_SECONDS:
                text += ", too old for Stripe: they will be parked"
    return print_results([(chunk.id, text, is_done)], as_json=args.json)
