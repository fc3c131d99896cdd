"""`tollhouse limits show`: how the limits of tenants stand right now."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import msgspec

from tollhouse.adapters.configuration import ConfigurationError, load
from tollhouse.adapters.redis.keyring import Keyring, KeyringError
from tollhouse.adapters.redis.levels import Levels, Owned, Taken
from tollhouse.adapters.redis.records import ACTIVE, ApiKey, Tenant
from tollhouse.cli import keyring, places
from tollhouse.cli.console import Console
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.catalog import Catalog
from tollhouse.core.entitlement import entitlement
from tollhouse.core.identity import Principal
from tollhouse.core.limits import MONEY, Limit, Measure, Scope
from tollhouse.core.room import debit
from tollhouse.core.standing import Standing, standing

_DESCRIPTION = """\
Show how limits stand now: of every tenant, or of one, with those of its keys and models
and those all tenants share. Values are those of tollhouse.yaml and of `tollhouse limits
set`; what is used comes from the gateway's Redis.

  USED       of a limit per minute: what has not refilled yet, above the burst: debt
  REMAINING  what would be admitted now; of a limit per minute at most its burst
  RESERVED   the part of USED that exchanges hold which still run
  IN FLIGHT  how many those are

examples:
  tollhouse limits show
  tollhouse limits show --tenant acme --model tiny-chat
  tollhouse limits show --key k3v9q0z7m2xp --json
"""
_MEASURES = {
    Measure.REQUESTS: "requests/min",
    Measure.UNITS: "units/min",
    Measure.CONCURRENT: "concurrent",
    Measure.UNITS_PER_DAY: "units/day",
    Measure.UNITS_PER_MONTH: "units/month",
    Measure.MONEY_PER_DAY: "money/day",
    Measure.MONEY_PER_MONTH: "money/month",
    Measure.CAPACITY: "units in flight",
}
_NUMBERS = ("VALUE", "USED", "REMAINING", "RESERVED", "IN FLIGHT", "RESETS IN")


@dataclass(frozen=True, slots=True)
class _Row:
    """One limit and how it stands."""

    limit: Limit
    place: Owned
    taken: Taken
    standing: Standing


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = keyring.add_command(
        commands, "show", summary="show how limits stand", description=_DESCRIPTION
    )
    parser.add_argument("--tenant", metavar="NAME", help="only this one (default: all)")
    parser.add_argument(
        "--key",
        metavar="KEY_ID",
        help="only this key and its tenant (default: all that are active)",
    )
    parser.add_argument("--model", help="only this model (default: all)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="models and plans (default: ./tollhouse.yaml, else the repository's)",
    )
    keyring.add_place_options(parser)
    parser.set_defaults(run=keyring.reporting(_show))


def _show(args: argparse.Namespace) -> None:
    try:
        catalog = load(args.config or places.default_config()).catalog()
    except ConfigurationError as error:
        raise UnusableError(str(error)) from error
    if args.model is not None and args.model not in catalog.models:
        known = ", ".join(catalog.models)
        raise UnusableError(f"--model {args.model!r} is not offered; there are {known}")
    with keyring.open_keyring(args) as ring:
        owners = _owners(ring, args.tenant, args.key)
    models = [args.model] if args.model is not None else list(catalog.models)
    # By key: tenants of different priority share one capacity.
    found: dict[str, tuple[Owned, Limit]] = {}
    unplanned: dict[str, None] = {}
    with closing(Levels(keyring.redis_access(args))) as levels:
        now_ms = levels.now_ms()
        for principal in _principals(owners):
            try:
                for place, limit in _limits(catalog, principal, models, now_ms):
                    found.setdefault(place.key, (place, limit))
            except UnusableError as error:
                unplanned[str(error)] = None
        read = levels.read([place for place, _ in found.values()], now_ms)
    if unplanned and not found:
        raise UnusableError("; ".join(unplanned))
    for what in unplanned:
        Console(sys.stderr).warning(what)
    rows = [
        _Row(limit, place, level, standing(limit, level.level, now_ms))
        for (place, limit), level in zip(found.values(), read, strict=True)
    ]
    rows.sort(
        key=lambda row: (row.limit.scope.is_fleet, row.place.tenant, row.limit.scope)
    )
    if args.json:
        keyring.print_json({"limits": list(map(_to_json, rows))})
    else:
        _print(rows)


def _owners(
    ring: Keyring, name: str | None, key_id: str | None
) -> list[tuple[Tenant, list[ApiKey]]]:
    """Find the tenants that are meant, each with its keys that are."""
    tenants = [it for it in ring.tenants() if name in (None, it.name)]
    if name is not None and not tenants:
        raise KeyringError(f"no tenant {name}; see: tollhouse tenants list")
    now = time.time()
    keys = [
        key
        for key in ring.keys(name)
        if key.key_id == key_id or (key_id is None and key.state(now) == ACTIVE)
    ]
    if key_id is not None:
        if not keys:
            raise KeyringError(_no_key(key_id, name))
        tenants = [it for it in tenants if it.name == keys[0].tenant]
    return [(it, [key for key in keys if key.tenant == it.name]) for it in tenants]


def _no_key(key_id: str, tenant: str | None) -> str:
    if tenant is None:
        return f"no key {key_id}; see: tollhouse keys list"
    return (
        f"tenant {tenant} has no key {key_id}; "
        f"see: tollhouse keys list --tenant {tenant}"
    )


def _limits(
    catalog: Catalog, principal: Principal, models: Sequence[str], now_ms: int
) -> Iterator[tuple[Owned, Limit]]:
    """Find every limit of a caller: most are those of many keys and models."""
    tenant, key_id = principal.tenant, principal.key_id
    for model in models:
        entitled = entitlement(catalog, principal, catalog.models[model])
        if entitled is None:
            raise UnusableError(
                f"tenant {tenant}: plan {principal.plan} is not in tollhouse.yaml"
                f" (there: {', '.join(catalog.plans)}); name the gateway's with"
                " --config"
            )
        for limit in entitled.limits:
            scope = limit.scope
            if scope is Scope.KEY and not key_id:
                continue
            yield (
                Owned(
                    debit(limit, now_ms),
                    "" if scope.is_fleet else tenant,
                    key_id if scope is Scope.KEY else "",
                    model if scope in (Scope.TENANT_MODEL, Scope.MODEL) else "",
                ),
                limit,
            )


def _principals(
    owners: Sequence[tuple[Tenant, Sequence[ApiKey]]],
) -> Iterator[Principal]:
    """Yield the callers: each key, and nobody, for a tenant that has none."""
    for tenant, keys in owners:
        for key in keys:
            overrides = msgspec.structs.replace(tenant.overrides, key=key.override)
            yield Principal(
                tenant=tenant.name,
                key_id=key.key_id,
                plan=key.plan or tenant.plan,
                scopes=(),
                overrides=overrides.encode(),
            )
        yield Principal(
            tenant=tenant.name,
            key_id="",
            plan=tenant.plan,
            scopes=(),
            overrides=tenant.overrides.encode(),
        )


def _print(rows: Sequence[_Row]) -> None:
    numbers = [_NUMBERS, *map(_numbers, rows)]
    widths = [max(map(len, column)) for column in zip(*numbers, strict=True)]
    aligned = [
        tuple(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in numbers
    ]
    names = [_names(row) for row in rows]
    keyring.print_table(
        ("TENANT", "SCOPE", "OF", "LIMIT", *aligned[0]),
        [(*left, *right) for left, right in zip(names, aligned[1:], strict=True)],
    )


def _names(row: _Row) -> tuple[str, str, str, str]:
    scope = row.limit.scope.name.lower().replace("_", " x ")
    shadow = " (shadow)" if row.limit.shadow else ""
    measure = f"{_MEASURES[row.limit.measure]}{shadow}"
    return row.place.tenant or "-", scope, _whose(row) or "-", measure


def _whose(row: _Row) -> str | None:
    """The key or model, where there is one for each."""
    return row.place.key_id or row.place.model or None


def _numbers(row: _Row) -> tuple[str, ...]:
    limit, seen = row.limit, row.standing
    resets_in = seen.resets_in_seconds
    return (
        _amount(limit, limit.value),
        _amount(limit, seen.used),
        _amount(limit, seen.remaining),
        _amount(limit, row.taken.reserved),
        f"{row.taken.in_flight:,}",
        "-" if resets_in is None else _duration(resets_in),
    )


def _amount(limit: Limit, value: int) -> str:
    if limit.measure.is_money:
        return f"{Decimal(value) / MONEY:,.4f}"
    return f"{value:,}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    if minutes:
        return f"{minutes}m {whole % 60}s"
    return f"{seconds:.1f}s"


def _to_json(row: _Row) -> dict[str, object]:
    limit, seen = row.limit, row.standing
    return {
        "tenant": row.place.tenant or None,
        "scope": limit.scope.name.lower(),
        "measure": limit.measure.name.lower(),
        "key_id": row.place.key_id or None,
        "model": row.place.model or None,
        "shadow": limit.shadow,
        "value": _plain(limit, limit.value),
        "used": _plain(limit, seen.used),
        "remaining": _plain(limit, seen.remaining),
        "reserved": _plain(limit, row.taken.reserved),
        "in_flight": row.taken.in_flight,
        "resets_in_seconds": seen.resets_in_seconds,
    }


def _plain(limit: Limit, value: int) -> int | str:
    """A number, but money as text: no float is exact."""
    return f"{Decimal(value) / MONEY:f}" if limit.measure.is_money else value
