"""`tollhouse billing preview` over real windows, chunks and prices."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.integration.reconcile.conftest import HOUR, Answer, Rig, Run, settlement
from tollhouse.core.invoice import Month

CONFIG = """
models:
  tiny-chat:
    cluster: tiny-chat
    operations: [chat]
    context: 4096
    default_output_tokens: 256
    max_output_tokens: 4096
    prices: {input: 1000, cached_input: 0.0001, output: 2500}
plans: {demo: {}}
currency: eur
"""
MONTH = Month.of(HOUR * 3600)


@pytest.fixture
def preview(tollhouse: Run, redis_url: str, tmp_path: Path) -> Run:
    config = tmp_path / "tollhouse.yaml"
    config.write_text(CONFIG)

    def run(*arguments: str) -> Answer:
        return tollhouse(
            *("billing", "preview", "--config", str(config)),
            *("--billing-redis-url", redis_url, "--month", str(MONTH)),
            *arguments,
        )

    return run


@pytest.fixture
async def used(rig: Rig) -> Rig:
    """Shipped 7 output tokens, under way 3, not sealed 11; another tenant's, too."""
    await rig.settle(settlement(), settlement("zeta"))
    await rig.carry()
    await rig.seal()
    await rig.ship()
    await rig.settle(settlement(output=3))
    await rig.carry()
    await rig.seal()
    await rig.settle(
        settlement(output=11),
        settlement(hour=MONTH.first_hour - 1, output=90),
    )
    await rig.carry()
    return rig


def test_quantities_amounts_and_the_exact_total(used: Rig, preview: Run):
    answer = preview("--tenant", "acme", "--json")

    document = json.loads(answer.stdout)
    lines = {it["token_type"]: it for it in document["lines"]}
    assert (0, 3) == (answer.returncode, len(lines))
    assert {
        "model": "tiny-chat",
        "token_type": "output",
        "quantity": 21,
        "with_provider": 7,
        "under_way": 3,
        "parked": 0,
        "not_sealed": 11,
        "price_per_million": "2500",
        "amount": "0.0525",
    } == lines["output"]
    total = Decimal(18) / 1000 + Decimal(12) * Decimal("1e-10") + Decimal("0.0525")
    assert (total, "0.07") == (Decimal(document["total"]), document["total_rounded"])
    assert ("eur", str(MONTH)) == (document["currency"], document["month"])


def test_a_person_reads_both_totals_and_what_is_stripes(used: Rig, preview: Run):
    answer = preview("--tenant", "acme")

    text = answer.stdout
    assert f"tenant acme, {MONTH} (UTC), amounts in EUR" in text
    assert "total    0.0705000012 EUR\nrounded  0.07 EUR\n" in text
    assert "Free tiers, minimums, taxes and discounts are Stripe's" in text
    assert "Prices are those of the catalog now" in text


async def test_a_model_without_a_price_is_shown_and_fails(rig: Rig, preview: Run):
    await rig.settle(settlement(model="gone"))
    await rig.carry()

    answer = preview("--tenant", "acme")

    assert 1 == answer.returncode
    assert 6 + 1 == answer.stdout.count("no price")
    assert "gone is not in the catalog" in answer.stdout


def test_no_usage_costs_nothing(preview: Run, redis_url: str):
    answer = preview("--tenant", "nobody", "--json")

    document = json.loads(answer.stdout)
    assert (0, [], "0.00") == (
        answer.returncode,
        document["lines"],
        document["total_rounded"],
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--tenant", "acme", "--month", "soon"), "'soon' is no month"),
        (("--tenant", "Acme!"), "tenant"),
        (("--tenant", "acme", "--config", "/nowhere"), "/nowhere"),
        ((), "--tenant"),
    ],
)
def test_a_wrong_command_line_is_told(preview: Run, arguments, text):
    answer = preview(*arguments)

    assert (2, "") == (answer.returncode, answer.stdout)
    assert text in answer.stderr
