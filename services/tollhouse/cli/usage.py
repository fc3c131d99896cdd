"""`tollhouse usage`: what was used, per tenant, model and hour."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import grpc

from tollhouse.adapters.process import StartError
from tollhouse.adapters.remote import Remote, RemoteSettings, open_remote
from tollhouse.adapters.usage_pb import from_pb_row
from tollhouse.core.windows import SECONDS_PER_HOUR, UsageRow
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2_grpc as usage_grpc

_CALL_SECONDS = 10.0
_PAGE_ROWS = 2000

_RELATIVE = re.compile(r"(\d{1,6})([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_DESCRIPTION = """\
Show token usage per tenant, model and hour, oldest hour first. Cached tokens are a part
of the input, reasoning tokens of the output. final, partial and abandoned count
exchanges. A record arrives within seconds of the end of its exchange.
"""
_EXAMPLES = """\
examples:
  tollhouse usage --since 24h
  tollhouse usage --tenant acme --since 2026-11-01 --json

Exit status: 0 done, also without any usage; 1 the aggregator did not answer; 2 the
command line is not right.
"""

_COLUMNS = (
    "tenant",
    "model",
    "hour (UTC)",
    "input",
    "cached",
    "output",
    "reasoning",
    "final",
    "partial",
    "abandoned",
)
_TEXT_COLUMNS = 3


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "usage",
        help="show token usage per tenant, model and hour",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tenant", default="", help="only this tenant")
    parser.add_argument(
        "--since",
        metavar="WHEN",
        type=since,
        help="from the hour of this time on: 90m, 2h, 7d, 1w ago, or an ISO date or"
        " time (UTC unless it says otherwise); default: all there is",
    )
    parser.add_argument("--json", action="store_true", help="a JSON array of rows")
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        default=Path(".tollhouse"),
        help="state directory of the running `tollhouse up` (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        metavar="HOST:PORT",
        help="gRPC address of an aggregator elsewhere, instead of --state-dir; takes"
        " the next three",
    )
    for option, what in (
        ("--ca-file", "PEM: the authorities that sign the aggregator's certificate"),
        ("--cert-file", "PEM: your certificate; the aggregator must know its name"),
        ("--key-file", "PEM: its private key"),
    ):
        parser.add_argument(option, metavar="FILE", type=Path, help=what)
    parser.add_argument(
        "--server-name",
        metavar="NAME",
        help="DNS name in the aggregator's certificate, if not the address's host",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the rows; 1 when the aggregator does not answer."""
    try:
        rows = list(_rows(_aggregator(args), args.tenant, args.since))
    except StartError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(f"error: {_explain(error, args)}", file=sys.stderr)
        return 1
    _print_json(rows) if args.json else _print_table(rows)
    sys.stdout.flush()  # here a reader that left is dealt with, at exit it is not
    return 0


def parse_since(text: str, now: datetime) -> datetime:
    """Read WHEN: an age such as `2h` or `7d`, or an ISO date or time, UTC if bare.

    Raises ValueError for anything else.
    """
    if age := _RELATIVE.fullmatch(text):
        return now - timedelta(seconds=int(age[1]) * _SECONDS[age[2]])
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def since(text: str) -> datetime:
    """Read WHEN as an option's value."""
    try:
        return parse_since(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; use an age (90m, 2h, 7d, 1w) or an ISO date or time"
            " (2026-11-20, 2026-11-20T10:00+01:00)"
        ) from None


def _socket_of(state_dir: Path) -> str:
    # Through the link: a socket's path must be short, a state directory's may be long.
    return f"unix:{(state_dir / 'run' / 'billing.sock').resolve()}"


def _aggregator(args: argparse.Namespace) -> Remote:
    return open_remote(
        RemoteSettings(
            target=("--target", args.target or _socket_of(args.state_dir)),
            ca_file=("--ca-file", args.ca_file),
            cert_file=("--cert-file", args.cert_file),
            key_file=("--key-file", args.key_file),
            server_name=("--server-name", args.server_name),
        )
    )


def _rows(
    aggregator: Remote, tenant: str, since: datetime | None
) -> Iterator[UsageRow]:
    request = usage_pb.ListUsageRequest(tenant=tenant, page_size=_PAGE_ROWS)
    if since is not None:
        request.start_time.FromDatetime(since)
    with aggregator.blocking_channel() as channel:
        stub = usage_grpc.UsageQueryServiceStub(channel)
        while True:
            response = stub.ListUsage(request, timeout=_CALL_SECONDS)
            yield from map(from_pb_row, response.rows)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token


def _explain(error: grpc.RpcError, args: argparse.Namespace) -> str:
    if args.target:
        where = f"the aggregator at {args.target}"
    else:
        where = f"the aggregator of {args.state_dir}"
    # Every error of a call is the call; grpc's types don't say so.
    match code := cast("grpc.Call", error).code():
        case grpc.StatusCode.UNAVAILABLE if (
            # os.path, because Path.exists raises where another user may not look.
            not args.target
            and not os.path.exists(args.state_dir / "run" / "billing.sock")  # noqa: PTH110
        ):
            return (
                f"no gateway runs with the state directory {args.state_dir};"
                " start it with `tollhouse up`, name another with --state-dir, or be"
                " the user who runs it"
            )
        case grpc.StatusCode.UNAVAILABLE:
            tls = ", its certificate or ours is refused" if args.target else ""
            return f"{where} can't be reached{tls}, or has lost its Redis"
        case grpc.StatusCode.PERMISSION_DENIED:
            return f"{where} does not know your certificate's name"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{where} did not answer within {_CALL_SECONDS:.0f} s"
        case _:
            return f"{where} failed: {code.name}"


def _print_json(rows: Sequence[UsageRow]) -> None:
    if not rows:
        print("[]")
        return
    lines = ",\n".join(json.dumps(_to_json(row), ensure_ascii=False) for row in rows)
    print(f"[\n{lines}\n]")


def _to_json(row: UsageRow) -> dict[str, object]:
    return {
        "tenant": row.tenant,
        "model": row.model,
        "hour": _hour(row).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "input_tokens": row.usage.input_tokens,
        "cached_input_tokens": row.usage.cached_input_tokens,
        "output_tokens": row.usage.output_tokens,
        "reasoning_tokens": row.usage.reasoning_tokens,
        "exchanges": {
            "final": row.final_exchanges,
            "partial": row.partial_exchanges,
            "abandoned": row.abandoned_exchanges,
        },
    }


def _print_table(rows: Sequence[UsageRow]) -> None:
    if not rows:
        print("no usage")
        return
    table = [_COLUMNS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        aligned = [
            cell.ljust(width) if at < _TEXT_COLUMNS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())


def _cells(row: UsageRow) -> tuple[str, ...]:
    counts = (
        row.usage.input_tokens,
        row.usage.cached_input_tokens,
        row.usage.output_tokens,
        row.usage.reasoning_tokens,
        row.final_exchanges,
        row.partial_exchanges,
        row.abandoned_exchanges,
    )
    hour = _hour(row).strftime("%Y-%m-%d %H:00")
    return (row.tenant, row.model, hour, *(f"{count:,}" for count in counts))


def _hour(row: UsageRow) -> datetime:
    return datetime.fromtimestamp(row.hour * SECONDS_PER_HOUR, UTC)
