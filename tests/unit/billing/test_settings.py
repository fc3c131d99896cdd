"""Settings of the billing process: whole or refused, and written down."""

from pathlib import Path

import pytest

from tollhouse.adapters.process import StartError, read_settings
from tollhouse.billing.config import Settings

DOCS = Path(__file__).resolve().parents[3] / "docs" / "billing.md"
LEAST = {
    "LISTEN": "unix:/run/billing.sock",
    "BILLING_REDIS_URL": "unix:///run/redis.sock",
    "CONFIG": "tollhouse.yaml",
    "BILLING_LEDGER": "/var/lib/billing",
}


@pytest.fixture
def read(monkeypatch):
    """Read settings from an environment that has only these."""

    def read_(**changes):
        for name, value in (LEAST | changes).items():
            if value is not None:
                monkeypatch.setenv(f"TOLLHOUSE_{name}", value)
        return read_settings(Settings)

    return read_


def test_the_least(read):
    """Files of CloudEvents, sealed at hour + 5 minutes."""
    settings = read()

    assert ("ledger", "cloudevents") == (
        settings.provider.value,
        settings.billing_ledger_format.value,
    )
    assert (300, 3600, 48) == (
        settings.seal_delay_seconds,
        settings.seal_every_seconds,
        settings.dedupe_hours,
    )


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"BILLING_LEDGER": None}, "needs TOLLHOUSE_BILLING_LEDGER"),
        ({"PROVIDER": "stripe"}, "needs TOLLHOUSE_STRIPE_KEY_FILE"),
        ({"PROVIDER": "paypal"}, "TOLLHOUSE_PROVIDER"),
        ({"WEBHOOK_LISTEN": "127.0.0.1:1"}, "go together"),
        ({"WEBHOOK_SECRET_FILE": "/x"}, "go together"),
        (
            {"WEBHOOK_LISTEN": "127.0.0.1:1", "WEBHOOK_SECRET_FILE": "/x"},
            "for provider stripe",
        ),
        ({"DEPLOYMENT": "No Spaces"}, "TOLLHOUSE_DEPLOYMENT"),
        ({"DEDUPE_HOURS": "47"}, "TOLLHOUSE_DEDUPE_HOURS"),
        ({"SEAL_EVERY_SECONDS": "1"}, "TOLLHOUSE_SEAL_EVERY_SECONDS"),
        ({"CALLS_PER_SECOND": "0"}, "TOLLHOUSE_CALLS_PER_SECOND"),
    ],
)
def test_what_does_not_fit_is_refused(read, changes, fault):
    with pytest.raises(StartError, match=fault):
        read(**changes)


def test_every_setting_is_in_the_docs_as_it_is():
    """Name, default and meaning: the table is made from these."""
    text = DOCS.read_text()

    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = "" if field.is_required() or default is None else f"`{default}`"
        row = f"| `TOLLHOUSE_{name.upper()}` | {shown} | {field.description} |"

        assert row in text, row
