"""The audit log: read by command, followed, and never more than it should say."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.redis_process import running_redis
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.adapters.redis.audit import AuditEntry
from tollhouse.adapters.redis.audit_tail import AuditTail
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.redis_py import asyncio_clients
from tollhouse.core.entitlement import Override
from tollhouse.core.problems import Unavailable

ROOT = Path(__file__).resolve().parents[3]


def test_story(tollhouse, keyring: Keyring):
    """Who, what, from what to what; by command as by others."""
    tollhouse("tenants", "create", "acme", "--plan", "demo")
    tollhouse("tenants", "set", "acme", "--plan", "metered")
    _, key, _ = tollhouse("keys", "create", "--tenant", "acme", "--label", "ci")
    key_id = key.split("_")[1]
    tollhouse("limits", "set", "--key", key_id, "--money-per-day", "12.5")
    tollhouse("limits", "clear", "--key", key_id)
    keyring.by("api:ci").revoke(key_id)
    status, out, _ = tollhouse("audit")
    lines = [line.split("  ", 2) for line in out.splitlines()]

    assert status == 0
    assert [(words[0][-1], words[2].split("  ")[0]) for words in lines] == [
        ("Z", "tenant.created"),
        ("Z", "tenant.changed"),
        ("Z", "key.created"),
        ("Z", "key.changed"),
        ("Z", "key.changed"),
        ("Z", "key.revoked"),
    ]
    assert lines[0][1].startswith("cli:")
    assert "@" in lines[0][1]
    assert lines[-1][1] == "api:ci"
    assert lines[1][2].endswith("tenant acme: plan demo → metered")
    assert lines[3][2].endswith('limits {"money_per_day": "12.50"}')
    assert lines[4][2].endswith('limits {"money_per_day": "12.50"} → none')
    assert key.strip().rpartition("_")[2] not in out

    _, out, _ = tollhouse("audit", "--key", key_id, "--json")
    entries = json.loads(out)["entries"]
    assert [it["action"] for it in entries] == [
        *("key.created", "key.changed", "key.changed", "key.revoked")
    ]
    assert entries[0]["changes"]["labels"] == {"to": ["ci"]}
    assert entries[0]["changes"]["pepper"] == {"to": "v1"}
    assert entries[0]["tenant"] == "acme"
    tollhouse("tenants", "create", "beta", "--plan", "demo")
    assert "beta" not in tollhouse("audit", "--tenant", "acme")[1]
    assert len(tollhouse("audit", "--limit", "2")[1].splitlines()) == 2
    assert tollhouse("audit", "--since", "2100-01-01")[1] == ""
    assert len(tollhouse("audit", "--since", "1h")[1].splitlines()) == 7


def test_nothing_secret(keyring: Keyring, redis_url: str, state: Path):
    """No key, no digest, in any entry of any kind."""
    pepper = Pepper.read(state / "pepper")
    keyring.create_tenant("acme", "demo")
    key, record = keyring.create_key("acme", labels=["x"], networks=["::1"])
    made = keyring.rotate(record.key_id)
    keyring.override_key(record.key_id, lambda _: Override(concurrent=1))
    keyring.delete_tenant("acme")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        told = json.dumps(client.xrange("th:audit"))

    for secret in (key, made.key):
        assert secret.rpartition("_")[2] not in told
        assert pepper.digest(secret).partition(":")[2] not in told


def test_many_entries(keyring: Keyring):
    """Those asked for are found behind any number of others, page by page."""
    keyring.create_tenant("acme", "demo")
    keyring.create_tenant("beta", "demo")
    for number in range(600):
        keyring.suspend_tenant("beta", str(number))
        keyring.resume_tenant("beta")
    entries, end = keyring.log.latest(5, tenant="acme")
    assert ([it.action for it in entries], end) == (["tenant.created"], "")

    entries, end = keyring.log.latest(5, tenant="acme", most_read=700)
    assert entries == []
    entries, end = keyring.log.latest(5, tenant="acme", before=end, most_read=700)
    assert ([it.action for it in entries], end) == (["tenant.created"], "")
    seen, before = 0, None
    while before != "":
        page, before = keyring.log.latest(100, before=before)
        seen += len(page)
    assert seen == 1202


def test_follow(state: Path, keyring: Keyring):
    """What was, then what comes, a line each, until it is told to stop."""
    keyring.create_tenant("acme", "demo")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tollhouse.cli", "audit", "--follow", "--json"),
            *("--state-dir", str(state)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "services")},
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        try:
            assert json.loads(command.stdout.readline())["action"] == "tenant.created"
            keyring.suspend_tenant("acme", "late")
            line = json.loads(command.stdout.readline())
        finally:
            command.terminate()

    assert (line["action"], line["changes"]["reason"]) == (
        "tenant.suspended",
        {"to": "late"},
    )


async def test_tail_loses_nothing(tmp_path: Path):
    """What is written while the connection is cut is told after it, once, in order."""
    folder = tmp_path / "r"
    folder.mkdir()
    told: asyncio.Queue[AuditEntry] = asyncio.Queue()
    names = []
    made = 0

    def write(url: str, count: int) -> None:
        nonlocal made
        ring = Keyring(url, None, who="test")
        for _ in range(count):
            ring.create_tenant(f"t{made}", "demo")
            made += 1
        ring.close()

    async def take(count: int) -> None:
        async with asyncio.timeout(60):
            names.extend([(await told.get()).tenant for _ in range(count)])

    with running_redis(folder, appendonly="yes") as server:
        url = server.url
        write(url, 3)  # before it began: not told
        tail = AuditTail(asyncio_clients(RedisAccess(url)), told.put_nowait)
        await tail.begin()
        running = asyncio.create_task(tail.run())
        write(url, 5)
        await take(5)
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        write(url, 5)
        await take(5)
    with running_redis(folder, appendonly="yes") as server:
        write(url, 5)
        await take(5)
    running.cancel()

    assert told.empty()
    assert names == [f"t{number}" for number in range(3, 18)]


UNREADABLE = [
    {"a": "b"},
    {"who": "x", "action": "y", "tenant": "acme", "key_id": "", "changes": "{"},
    *(
        {"who": "x", "action": "y", "tenant": "acme", "key_id": "", "changes": it}
        for it in (
            *("[]", '{"a": 1}', '{"a": {"to": [[1]]}}', '{"a": {"to": 1e999}}'),
            *('{"a": {"to": "\\ud800"}}', "[" * 5000, '{"a":' * 5000),
            *('{"a": {"to": ' + "9" * 5000 + "}}", '{"a": {"to": NaN}}'),
        )
    ),
    {b"who": b"\xff\xfe", b"\xff": b"\xff"},
]


async def test_unreadable(tollhouse, keyring: Keyring, redis_url: str):
    """What anybody wrote there hides no other entry, wherever they are shown."""
    told: asyncio.Queue[AuditEntry] = asyncio.Queue()
    tail = AuditTail(asyncio_clients(RedisAccess(redis_url)), told.put_nowait)
    await tail.begin()
    following = asyncio.create_task(tail.run())
    keyring.create_tenant("acme", "demo")
    with redis.Redis.from_url(redis_url) as client:
        for fields in UNREADABLE:
            client.xadd("th:audit", fields)
        keyring.suspend_tenant("acme")
        far = "18446744073709551615-7"
        client.xadd("th:audit", {"a": "b"}, id=far)
    actions = ["tenant.created", *["unreadable"] * len(UNREADABLE), "tenant.suspended"]
    async with asyncio.timeout(30):
        heard = [await told.get() for _ in range(len(actions) + 1)]
    following.cancel()
    status, out, err = tollhouse("audit", "--json")
    shown = json.loads(out)["entries"]

    assert (status, err) == (0, "")
    assert [it["action"] for it in shown] == [*actions, "unreadable"]
    assert [it.action for it in heard] == [*actions, "unreadable"]
    assert shown[-1]["id"] == heard[-1].id == far
    assert (shown[-1]["at"][:4], shown[-1]["who"]) == ("9999", "")
    lines = tollhouse("audit")[1].splitlines()
    assert lines[-1].endswith(f"unreadable  entry {far}")
    assert lines[0].endswith(
        "tenant.created  tenant acme: plan demo, state active, time_zone UTC"
    )
    of_acme = json.loads(tollhouse("audit", "--tenant", "acme", "--json")[1])
    assert len(of_acme["entries"]) == 2


def test_no_redis():
    """Says so."""
    ring = Keyring("unix:///nowhere", None)
    with pytest.raises(Unavailable):
        ring.log.latest(1)
    with pytest.raises(Unavailable):
        ring.log.after("0-0")
