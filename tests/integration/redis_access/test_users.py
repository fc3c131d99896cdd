"""Each user of Redis does its own work, and nothing else.

What a Redis before 7.0 can't tell apart is marked: there a user's rights are one list.
"""

import contextlib
import re
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.cli import places
from tollhouse.cli.redis_users import USERS, render

ROOT = Path(__file__).resolve().parents[3]
ADAPTERS = ROOT / "services" / "tollhouse" / "adapters" / "redis"

# What nobody may: to run code of the moment, to see or to empty everything, to change
# the server, to look over others' shoulders.
NOBODY_MAY = [
    *("EVAL return(1) 0", "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *"),
    *("CONFIG SET maxmemory 1", "DEBUG SLEEP 0", "SHUTDOWN NOSAVE", "MONITOR"),
    *("ACL LIST", "ACL SETUSER x on nopass +@all", "ACL LOAD", "ACL SAVE"),
    *("SCRIPT FLUSH", "SCRIPT KILL", "CLIENT PAUSE 0", "CLIENT NO-EVICT ON"),
    *("REPLICAOF x 1", "SLAVEOF x 1", "SWAPDB 0 1", "SELECT 1", "SAVE"),
    *("BGREWRITEAOF", "MODULE LIST", "MIGRATE x 1 k 0 1", "RESTORE k 0 x"),
    *("LATENCY RESET", "SLOWLOG RESET", "CLUSTER RESET", "PSUBSCRIBE *", "SORT k"),
    *("SUBSCRIBE elsewhere", "PUBLISH elsewhere x", "OBJECT ENCODING k", "COPY k l"),
    *("SET other x", "GET other", "SET th: x", "HSET th:other f x"),
]
# What runbooks ask for; docs/operations.md and docs/alerts.md.
ONLY_OPERATOR_MAY = [
    *("SCAN 0", "ACL LOG", "SLOWLOG GET 10", "LATENCY LATEST", "DUMP th:outbox"),
    "DBSIZE",
    *("CLIENT LIST", "CLIENT KILL USER nobody", "BGSAVE", "LASTSAVE"),
]

GATEWAY = ["{s3}:outbox", "{m0}:leases", "th:outbox", "th:ledger:local", "th:workers"]
BILLING = ["{b3}:tenants", "{b0}:watermarks"]
IDENTITY = [
    *("th:tenants", "th:tenant:x", "th:key:x", "th:keyid:x", "th:keys:x"),
    *("th:source:x", "th:request:x:y"),
]
AUDIT = ["th:audit"]

# user → keys it may write; of all others not even the kind is told.
WRITES = {
    "authz": [],
    "extproc": GATEWAY,
    "billing": BILLING,
    "admin": IDENTITY,
    "operator": [*GATEWAY, *BILLING, *IDENTITY],
}

REWRITES = [
    *("SET th:audit x", "RENAME th:audit th:key:x"),
    *("RENAME th:key:x th:audit", "HSET th:audit f x", "SADD th:audit x"),
]
OPERATORS_REWRITES = [
    "DEL th:audit",
    *("XDEL th:audit 1-1", "EXPIRE th:audit 1", "PERSIST th:audit"),
    *("ZADD th:audit 1 x", "HDEL th:audit f"),
]


def is_refused(client: redis.Redis, command: str) -> bool:
    try:
        client.execute_command(*command.split())
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:
        # DEBUG is off from 7.0 on, whoever asks; of others: allowed, and of no use.
        return "not allowed" in str(error)
    return False


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("command", NOBODY_MAY)
def test_nobody_may(guarded, user, command):
    with guarded.client(user) as client:
        assert is_refused(client, command)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("command", ONLY_OPERATOR_MAY)
def test_only_a_person_looks_around(guarded, user, command):
    with guarded.client(user) as client:
        assert (user != "operator") == is_refused(client, command)


@pytest.mark.parametrize("user", USERS)
def test_who_watches_redis_asks_how_it_is(guarded, user):
    """Of each Redis who has it, and a person."""
    with guarded.client(user) as client:
        may = user != "authz"
        assert may != is_refused(client, "INFO")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("key", [*GATEWAY, *BILLING, *IDENTITY])
def test_keys_of_others(guarded, user, key):
    """Another part's keys are neither read nor written, by any command it has."""
    mine = key in WRITES[user]
    with guarded.client(user) as client:
        assert mine != is_refused(client, f"HSET {key} f x")
        reads = mine or (user == "authz" and key in ("th:tenant:x", "th:key:x"))
        read = f"HGETALL {key}" if user == "admin" else f"HMGET {key} f"
        assert reads != is_refused(client, read)


@pytest.mark.parametrize("user", USERS)
def test_a_script_may_what_its_caller_may(guarded, user):
    """Loading one and running it is no way around."""
    theirs = "th:tenant:x" if user in ("extproc", "billing") else "{x}:y"
    with guarded.client("root") as root:
        sha = root.execute_command(
            "SCRIPT", "LOAD", "return redis.call('HSET', KEYS[1] or ARGV[1], 'f', 'x')"
        ).decode()
    with guarded.client(user) as client:
        refused = r"no permissions|executing the script can't"
        with pytest.raises(redis.ResponseError, match=refused):
            client.execute_command("EVALSHA", sha, 1, theirs)
        with pytest.raises(redis.ResponseError, match=refused):
            client.execute_command("EVALSHA", sha, 0, theirs)


@pytest.mark.parametrize("user", ["admin", "operator"])
def test_the_audit_stream_grows(guarded, user):
    """What was done is added and read by whoever does it."""
    with guarded.client(user) as client:
        assert not is_refused(client, "XADD th:audit * who x")
        for read in ("XREVRANGE th:audit + -", "XREAD STREAMS th:audit 0"):
            assert not is_refused(client, read)


@pytest.mark.parametrize("user", ["admin", "operator"])
def test_changes_are_recorded(guarded, user):
    """All that a change asks of the stream is allowed, the first time and later."""
    with guarded.client("root") as root:
        root.execute_command("DEL", "th:audit", "th:tenants", "th:tenant:acme")
    ring = Keyring(guarded.access(user), None, who=user)
    with contextlib.closing(ring):
        ring.create_tenant("acme", "demo")
        ring.suspend_tenant("acme")
        entries, _ = ring.log.latest(9)

    assert [(it.who, it.action) for it in entries] == [
        *((user, "tenant.suspended"), (user, "tenant.created")),
    ]


@pytest.mark.parametrize("user", ["authz", "extproc", "billing"])
@pytest.mark.parametrize("command", ["XADD th:audit * a b", "XRANGE th:audit - +"])
def test_the_audit_stream_is_not_for_all(guarded, user, command):
    with guarded.client(user) as client:
        assert is_refused(client, command)


@pytest.mark.parametrize(
    ("user", "command"),
    [
        *(("admin", it) for it in REWRITES),
        *(("operator", it) for it in (*REWRITES, *OPERATORS_REWRITES)),
    ],
)
def test_the_audit_stream_is_not_rewritten(guarded, user, command):
    """From 7.0 on; before, whoever may add to it may do more."""
    with guarded.client("root") as root:
        root.execute_command("DEL", "th:audit", "th:key:x")
        root.execute_command("XADD", "th:audit", "1-1", "a", "b")
        root.execute_command("HSET", "th:key:x", "f", "x")
    with guarded.client(user) as client:
        assert guarded.has_selectors == is_refused(client, command)


@pytest.mark.parametrize("command", ["XTRIM th:audit MAXLEN 0", "XSETID th:audit 9-9"])
@pytest.mark.parametrize("user", USERS)
def test_nobody_trims_the_audit_stream(guarded, user, command):
    with guarded.client(user) as client:
        assert is_refused(client, command)


def test_a_trimmed_audit_stream_shows_it(guarded):
    """XADD can trim, and no ACL can forbid that: the counters tell."""
    if not guarded.has_selectors:
        return  # they came with 7.0 as well
    with guarded.client("root") as root:
        root.execute_command("DEL", "th:audit")
    with guarded.client("admin") as admin:
        for _ in range(3):
            admin.execute_command("XADD", "th:audit", "*", "who", "x")
        admin.execute_command("XADD", "th:audit", "MAXLEN", 0, "*", "who", "y")
    with guarded.client("operator") as operator:
        facts = operator.execute_command("XINFO", "STREAM", "th:audit")
    told = dict(zip(facts[::2], facts[1::2], strict=True))
    assert (0, 4) == (told[b"length"], told[b"entries-added"])


@pytest.mark.parametrize(
    ("user", "hears", "tells"),
    [
        ("authz", "th:changed", "th:moved"),
        ("admin", "th:moved", "th:changed"),
        ("operator", "th:moved", "th:changed"),
        ("extproc", None, None),
        ("billing", None, None),
    ],
)
def test_channels(guarded, user, hears, tells):
    """Who hears of changes can't make them up; before 7.0 it can."""
    for channel in ("th:changed", "th:moved"):
        with guarded.client(user) as client:
            may = channel == tells or (hears and not guarded.has_selectors)
            assert bool(may) != is_refused(client, f"PUBLISH {channel} x")
        with guarded.client(user) as client:
            may = channel == hears or (tells and not guarded.has_selectors)
            assert bool(may) != is_refused(client, f"SUBSCRIBE {channel}")


ONCE = Retry(NoBackoff(), 0)


def test_nobody_is_let_in_without_a_name(guarded):
    socket = str(guarded.server.socket_path)
    for user, password in ((None, None), (None, "x"), ("default", "x")):
        with (
            redis.Redis(
                unix_socket_path=socket, username=user, password=password, retry=ONCE
            ) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


# Which sources are a user's: modules, scripts.
SOURCES = {
    "authz": (["credentials.py"], []),
    "extproc": (
        [
            *("experience.py", "limiter.py", "outbox.py", "positions.py"),
            *("vitals.py", "workers.py"),
        ],
        [
            *("beat", "exchange", "release", "reserve", "settle", "reap"),
            *("waits", "fairness", "ack", "learn", "workers", "clock"),
        ],
    ),
    "admin": (
        [
            *("audit.py", "audit_tail.py", "imports.py", "keyring.py", "keys.py"),
            *("new_keys.py", "ring.py", "tenants.py", "vitals.py"),
        ],
        [],
    ),
    "billing": (
        [
            *("backlog.py", "chunks.py", "customers.py", "dedupe.py"),
            *("leadership.py", "vitals.py", "windows.py"),
        ],
        ["apply", "begin", "conclude", "forget", "lease", "reject", "seal"],
    ),
}
_OF_PYTHON = re.compile(r"[\[(]\s*\"([A-Z]{3,})\"(?:, \"([A-Z]{4,})\")?")
# redis-py's methods, and what a change of the keyring writes.
_OF_METHODS = re.compile(r"(?:_redis|_pipe|pipe|client)\.([a-z_]+)\(")
_OF_CHANGES = re.compile(r"\.write\(\s*(?:\*\()?\"([A-Z]+)\"")
_OF_LUA = re.compile(r"redis\.p?call\(\s*'([A-Z]+)'")
NO_COMMANDS = {
    *("group", "count", "limit"),
    *("close", "pipeline", "transaction", "execute", "execute|command"),
    *("call", "call|many", "ask"),
}
_SCRIPTS = {"ping", "evalsha", "script|load", "cluster|slots", "asking"}
_CHANNELS = {"ping", "subscribe", "unsubscribe", "publish"}
_TRANSACTION = {"watch", "unwatch", "multi", "exec"}
BESIDES = {
    "authz": _CHANNELS,
    "extproc": _SCRIPTS,
    "billing": _SCRIPTS,
    "admin": _CHANNELS | _TRANSACTION,
}
"""What no literal shows."""


def _allowed(user: str) -> set[str]:
    text = places.redis_users().read_text()
    rendered = render(text, dict.fromkeys(USERS, "x"), selectors=True)
    (line,) = re.findall(rf"^user {user} .*", rendered, re.MULTILINE)
    return set(re.findall(r"\+([\w|]+)", line))


def _used(user: str) -> set[str]:
    modules, scripts = SOURCES[user]
    used = set()
    for name in modules:
        text = (ADAPTERS / name).read_text()
        used |= {it.lower() for it in _OF_CHANGES.findall(text)}
        used |= {it.replace("_", "|") for it in _OF_METHODS.findall(text)}
        for command, sub in _OF_PYTHON.findall(text):
            is_container = command in ("XGROUP", "SCRIPT", "CLUSTER")
            used.add(f"{command}|{sub}".lower() if is_container else command.lower())
    for name in scripts:
        text = (ADAPTERS / f"{name}.lua").read_text()
        used |= {it.lower() for it in _OF_LUA.findall(text)}
    return used - NO_COMMANDS


@pytest.mark.parametrize("user", SOURCES)
def test_commands_are_those_of_the_sources(user):
    """Not one that is missing on a rare path, not one that nobody uses."""
    assert _used(user) | BESIDES[user] == _allowed(user)
