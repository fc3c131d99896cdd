"""A chunk as one line of text: a CloudEvent in JSON, or a FOCUS row in CSV.

CloudEvents 1.0 (https://github.com/cloudevents/spec, JSON format): `id` is the chunk's
identifier, which with `source` names the event once and for all. FOCUS 1.2
(https://focus.finops.org/focus-specification): one row per charge, own columns begin
with `x_`. Costs are those of the catalog at the time of writing.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from tollhouse.core.chunk import Chunk
from tollhouse.core.windows import SECONDS_PER_HOUR

_MILLION = 1_000_000
_DECEMBER = 12

FOCUS_COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "SkuId",
    "SkuMeter",
    "x_EventName",
    "x_Identifier",
    "x_Timestamp",
)


class Format(StrEnum):
    """How lines are written; the values are those of the setting."""

    CLOUDEVENTS = "cloudevents"
    FOCUS = "focus"

    @property
    def suffix(self) -> str:
        """Of file names."""
        return "jsonl" if self is Format.CLOUDEVENTS else "csv"


@dataclass(frozen=True, slots=True)
class Priced:
    """A chunk with what it costs: `price` of the currency per million tokens.

    None where the catalog no longer has the model: the cost columns are empty then.
    """

    chunk: Chunk
    price: Decimal | None
    currency: str

    @property
    def cost(self) -> Decimal | None:
        """Exact, negative for a correction."""
        return None if self.price is None else self.price * self.chunk.value / _MILLION


@dataclass(frozen=True, slots=True)
class Charge:
    """What has to be found again of a line."""

    identifier: str
    customer: str
    event_name: str
    timestamp: int
    value: int


def write(priced: Priced, format_: Format, source: str) -> str:
    """One line, newline included; `source` is the deployment."""
    if format_ is Format.CLOUDEVENTS:
        return json.dumps(_event(priced, source), separators=(",", ":")) + "\n"
    return _csv([_focus(priced)[name] for name in FOCUS_COLUMNS])


def head(format_: Format) -> str:
    """What a file begins with."""
    return "" if format_ is Format.CLOUDEVENTS else _csv(FOCUS_COLUMNS)


def read(line: str, format_: Format) -> Charge:
    """Read a line of `write`. Raises ValueError for anything else."""
    try:
        if format_ is Format.CLOUDEVENTS:
            event = json.loads(line)
            charged = event["data"]
            return Charge(
                identifier=event["id"],
                customer=charged["customer"],
                event_name=charged["event_name"],
                timestamp=int(datetime.fromisoformat(event["time"]).timestamp()),
                value=int(charged["tokens"]),
            )
        (cells,) = csv.reader([line])
        row = dict(zip(FOCUS_COLUMNS, cells, strict=True))
        return Charge(
            identifier=row["x_Identifier"],
            customer=row["BillingAccountId"],
            event_name=row["x_EventName"],
            timestamp=int(datetime.fromisoformat(row["x_Timestamp"]).timestamp()),
            value=int(row["ConsumedQuantity"]),
        )
    except (KeyError, TypeError, csv.Error) as error:
        raise ValueError("not a charge") from error


def _event(priced: Priced, source: str) -> Mapping[str, object]:
    chunk, window = priced.chunk, priced.chunk.window
    return {
        "specversion": "1.0",
        "id": chunk.identifier,
        "source": f"/tollhouse/{source}",
        "type": "tollhouse.usage.charged.v1",
        "subject": window.tenant,
        "time": _text(chunk.timestamp),
        "datacontenttype": "application/json",
        "data": {
            "tenant": window.tenant,
            "customer": chunk.account.customer,
            "model": window.model,
            "token_type": window.token_type.value,
            "period_start": _text(window.hour * SECONDS_PER_HOUR),
            "period_end": _text((window.hour + 1) * SECONDS_PER_HOUR),
            "tokens": chunk.value,
            "event_name": chunk.event_name,
            "price_per_million": _plain(priced.price),
            "cost": _plain(priced.cost),
            "currency": priced.currency.upper(),
        },
    }


def _focus(priced: Priced) -> Mapping[str, object]:
    chunk, window = priced.chunk, priced.chunk.window
    begins = datetime.fromtimestamp(window.hour * SECONDS_PER_HOUR, UTC)
    month = begins.replace(day=1, hour=0)
    year, number = divmod(month.month, _DECEMBER)
    cost, kind = _plain(priced.cost), window.token_type.value
    is_correction = chunk.value < 0
    return {
        "BilledCost": cost,
        "BillingAccountId": chunk.account.customer,
        "BillingAccountName": window.tenant,
        "BillingCurrency": priced.currency.upper(),
        "BillingPeriodEnd": _text(
            month.replace(year=month.year + year, month=number + 1).timestamp()
        ),
        "BillingPeriodStart": _text(month.timestamp()),
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if is_correction else None,
        "ChargeDescription": f"{window.model}: {kind.replace('_', ' ')} tokens",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _text((window.hour + 1) * SECONDS_PER_HOUR),
        "ChargePeriodStart": _text(window.hour * SECONDS_PER_HOUR),
        "ConsumedQuantity": chunk.value,
        "ConsumedUnit": "Tokens",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "InvoiceIssuerName": "Tollhouse",
        "ListCost": cost,
        "ListUnitPrice": _plain(priced.price),
        "PricingCategory": "Standard",
        "PricingQuantity": _plain(Decimal(chunk.value) / _MILLION),
        "PricingUnit": "1000000 Tokens",
        "ProviderName": "Tollhouse",
        "PublisherName": "Tollhouse",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Tollhouse",
        "SkuId": window.model,
        "SkuMeter": kind,
        "x_EventName": chunk.event_name,
        "x_Identifier": chunk.identifier,
        "x_Timestamp": _text(chunk.timestamp),
    }


def _csv(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _plain(number: Decimal | None) -> str | None:
    """Digits without an exponent; text, because a float would not be exact."""
    return None if number is None else f"{number.normalize():f}"


def _text(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
