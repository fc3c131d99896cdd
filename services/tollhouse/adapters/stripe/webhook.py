"""What Stripe reports about meter events it found wrong after it had taken them.

Two thin events (https://docs.stripe.com/webhooks, https://docs.stripe.com/billing/
subscriptions/usage-based/recording-usage-api#handle-meter-event-errors) name counts per
code and samples; a sample names the Idempotency-Key of its call, `<identifier>@<n>` in
our calls. The event has to be fetched: what is posted only names it, so a replay says
nothing new.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import stripe

from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.outcome import CallError, reading
from tollhouse.adapters.stripe.secret import Secret
from tollhouse.core.chunk import Rejection

EVENT_TYPES = (
    "v1.billing.meter.error_report_triggered",
    "v1.billing.meter.no_meter_found",
)
TOLERANCE_SECONDS = 300
"""How old a signature may be."""

_SAMPLE = re.compile(r"([A-Za-z0-9_-]{1,100})(?:@(\d{1,9}))?")
_CODE = re.compile(r"[a-z0-9_]{1,64}")


class SignatureError(Exception):
    """It was not Stripe that sent this, or too long ago."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found wrong: events per code, and those of them that are named."""

    counts: Mapping[str, int]
    rejections: tuple[Rejection, ...]


class Webhook:
    """Reads what arrives at our endpoint."""

    def __init__(self, client: Client, secret: Secret) -> None:
        self._sdk = client.sdk
        self._secret = secret

    async def read(self, body: bytes, signature: str) -> Report | None:
        """Check who sent it and fetch the report; None: it is about something else.

        Raises SignatureError; Unavailable when Stripe does not give the event.
        """
        event = self._verified(body, signature)
        if event is None:
            return None
        try:
            with reading():
                fetched = await self._sdk.v2.core.events.retrieve_async(
                    event["id"], {}, {"stripe_context": event.get("context")}
                )
                return _report(fetched.to_dict())
        except CallError as error:
            failure = error.unavailable()
        raise failure

    def _verified(self, body: bytes, signature: str) -> dict[str, Any] | None:
        is_genuine = False
        try:
            if signature.isascii():  # or comparing it would raise a TypeError
                stripe.WebhookSignature.verify_header(
                    body, signature, self._secret.reveal(), TOLERANCE_SECONDS
                )
                is_genuine = True
        except (stripe.SignatureVerificationError, UnicodeDecodeError):
            pass
        if not is_genuine:
            raise SignatureError
        try:
            event = json.loads(body)
        except ValueError:
            return None
        if not isinstance(event, dict) or event.get("object") != "v2.core.event":
            return None
        return event if event.get("type") in EVENT_TYPES else None


def _report(event: dict[str, Any]) -> Report:
    counts: Counter[str] = Counter()
    named: dict[Rejection, None] = {}
    for group in event["data"]["reason"]["error_types"]:
        code = group["code"]
        if not _CODE.fullmatch(code):
            code = "unknown"
        counts[code] += int(group["error_count"])
        for sample in group.get("sample_errors") or ():
            if found := _SAMPLE.fullmatch(sample["request"]["identifier"]):
                named[Rejection(found[1], code, int(found[2] or 0))] = None
    return Report(dict(counts), tuple(named))
