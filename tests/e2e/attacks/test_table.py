"""Every attack meets what its row says; what all of them must never do, they don't."""

import asyncio
import json

import pytest

from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.judge import faults
from tests.e2e.attacks.rows.logs import MARK
from tests.e2e.attacks.seen import Reply
from tests.e2e.attacks.table import TABLE

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
async def test_attack(gateways, row):
    """The right answer in the right protocol, in time; and nothing behind us."""
    assert [] == await faults(row, gateways[row.variant])


def _untraced(reply: Reply) -> bytes:
    trace = reply.header("x-tollhouse-trace") or "none"
    return reply.body.replace(trace.encode(), b"")


async def test_all_nobodies_look_alike(gateways):
    """No 401 says what was wrong with the key, but which trace that was."""
    gateway = gateways["main"]
    answers = {
        (seen.dialect, _untraced(reply), reply.header("www-authenticate"))
        for row in TABLE
        if row.variant == "main" and row.expect.statuses == {401}
        for seen in [await row.send(gateway)]
        for reply in seen.replies
    }

    assert len(answers) == len({dialect for dialect, *_ in answers}) > 1


async def test_logs_hold_nothing_of_a_client(rig, gateways):
    """No line and no field of a client's making, and no key, in any log."""
    gateway = gateways["main"]
    for row in TABLE:
        if row.family == "log":
            await row.send(gateway)
    (last,) = (await ask()(gateway)).replies
    exchange = (last.header("x-tollhouse-exchange") or "none").encode()
    ledger = gateway.folder / "ledger.jsonl"
    async with asyncio.timeout(30):
        while exchange not in ledger.read_bytes():  # noqa: ASYNC110  # Envoy flushes
            await asyncio.sleep(0.02)

    logs = [*rig.folder.rglob("*.log"), ledger]
    assert {"authz.log", "envoy.log", "extproc.log"} < {it.name for it in logs}
    for log in logs:
        text = log.read_bytes()
        assert MARK.encode() not in text, log
        for secret in rig.secrets.values():
            assert secret[-43:] not in text, log
    for line in ledger.read_bytes().splitlines():
        assert json.loads(line)["tenant"] == "acme"
