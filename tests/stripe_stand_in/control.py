"""/_stand_in/…: what a test in another process may ask and change."""

import dataclasses
import json
from typing import Any

from tests.stripe_stand_in.pipeline import Answer, Raw
from tests.stripe_stand_in.refusals import Refusal
from tests.stripe_stand_in.stand_in import StandIn

PREFIX = "/_stand_in/"


def control(stand_in: StandIn, raw: Raw) -> Answer:
    """Do one control call; a wrong one is a 400 that says what is wrong."""
    verb = raw.path.removeprefix(PREFIX)
    try:
        result = _do(stand_in, verb, json.loads(raw.body or b"{}"))
    except Refusal as refusal:
        return Answer.of(refusal)
    except (ValueError, KeyError, TypeError) as error:
        text = f"{type(error).__name__}: {error}"
        return Answer(400, {"error": {"message": text}}, {}, "control")
    return Answer(200, result, {}, "control")


def _do(stand_in: StandIn, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    match verb:
        case "dump":
            return dump(stand_in)
        case "clock":
            to = body.get("set")
            return {"now": stand_in.move_clock(advance=body.get("advance"), to=to)}
        case "meters":
            return {"id": stand_in.add_meter(**body)}
        case "customers":
            return {"id": stand_in.add_customer(body.get("id"))}
        case "outage":
            stand_in.outage(body.get("seconds"))
        case "faults":
            _change_faults(stand_in, body)
        case _:
            stand_in.settings.change(_settings(verb, body))
    return {}


def _change_faults(stand_in: StandIn, body: dict[str, Any]) -> None:
    if "share" in body:
        stand_in.settings.fault_share = body["share"]
    if "plan" in body:
        stand_in.faults.plan(body["plan"], body.get("on"))


def _settings(verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """The settings that a control call changes."""
    match verb:
        case "settings":
            return body
        case "latency":
            return {"latency_seconds": body["seconds"]}
        case "webhook":
            return {f"webhook_{name}": value for name, value in body.items()}
        case _:
            raise ValueError(f"there is no control {verb}")


def dump(stand_in: StandIn) -> dict[str, Any]:
    """Everything it saw, as JSON."""
    concurrency = stand_in.max_concurrency.items()
    return {
        "now": stand_in.clock.now(),
        "events": [dataclasses.asdict(it) for it in stand_in.events],
        "totals": [[*key, value] for key, value in stand_in.totals().items()],
        "counts": dict(stand_in.counts),
        "calls": [dataclasses.asdict(it) for it in stand_in.calls],
        "max_concurrency": [[*pair, most] for pair, most in concurrency],
        "highest_rate": stand_in.highest_rate,
        "violations": stand_in.violations,
        "thin_events": stand_in.thin_events,
        "deliveries": [dataclasses.asdict(it) for it in stand_in.deliveries],
    }
