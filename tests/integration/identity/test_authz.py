"""The authz process with a real Redis: who passes, what is remembered, what is said."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.integration.identity.authz_process import (
    CHAT,
    Authz,
    environment,
    running_authz,
)
from tests.redis_process import running_redis
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.authz.cache import FRESH_SECONDS
from tollhouse.core.entitlement import AS_PLANNED, Override
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

NOBODY = f"th_{'nobody' * 2}_{'aB3' * 14}x"
MODELS = "/v1/models"
MESSAGES = "/v1/messages"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("th")
    return path


@pytest.fixture(scope="module")
def pepper(folder: Path) -> Path:
    path = folder / "pepper"
    path.touch(mode=0o600)
    path.write_text("5a" * 32 + "\n")
    return path


@pytest.fixture
def keyring(redis_url: str, pepper: Path):
    ring = Keyring(redis_url, Pepper.read(pepper))
    ring.create_tenant("acme", "demo")
    yield ring
    ring.close()


@pytest.fixture(scope="module")
def authz(folder: Path, redis_server, pepper: Path):
    with running_authz(folder, redis_server.url, pepper) as it:
        yield it


def eventually(expected: int | str, ask, *, within: float) -> float:
    """Ask until the answer is the expected one; the seconds it took."""
    begin = time.monotonic()
    while ask() != expected:
        if time.monotonic() - begin > within:
            pytest.fail(f"no {expected} within {within} s")
        time.sleep(0.02)
    return time.monotonic() - begin


def test_passes(authz: Authz, keyring: Keyring):
    """A good key: its principal for the later filters, and the key goes no further."""
    key, record = keyring.create_key("acme", scopes="chat:write=tiny-* models:read")
    answer = authz.check(key)

    assert answer.status.code == 0
    removed = list(answer.ok_response.headers_to_remove)
    assert removed == ["authorization", "x-api-key"]
    fields = answer.dynamic_metadata.fields
    assert {name: value.string_value for name, value in fields.items()} == {
        "tenant": "acme",
        "key_id": record.key_id,
        "plan": "demo",
        "scopes": "chat:write=tiny-* models:read",
    }
    assert key not in str(answer)


def test_plan_of_the_key(authz: Authz, keyring: Keyring):
    """A key's own plan goes before its tenant's."""
    key, _ = keyring.create_key("acme", plan="gold")
    answer = authz.check(key)

    assert answer.dynamic_metadata.fields["plan"].string_value == "gold"


@pytest.mark.parametrize(
    ("scopes", "request_line", "status"),
    [
        ("chat:write", "POST /v1/chat/completions", 200),
        ("chat:write", "POST /v1/chat/completions?a=b", 200),
        ("chat:write", "POST /v1/completions", 403),
        ("chat:write", "GET /v1/models", 403),
        ("completions:write", "POST /v1/chat/completions", 403),
        ("models:read", "GET /v1/models", 200),
        ("chat:write=tiny-*", "POST /v1/chat/completions", 200),
        ("usage:read models:read", "POST /v1/chat/completions", 403),
        # What needs no permission we know of is nobody's, whoever added a route for it.
        ("models:read", "POST /v1/models", 403),
        ("models:read", "GET /nowhere", 403),
        ("chat:write", "POST /v1/chat/completions/", 403),
        ("chat:write", "POST /V1/chat/completions", 403),
    ],
)
def test_operations(authz: Authz, keyring: Keyring, scopes, request_line, status):
    """The operation's scope is needed, whatever others the key has."""
    method, path = request_line.split()
    key, _ = keyring.create_key("acme", scopes=scopes)

    assert authz.status(key, path, method) == status


def test_forbidden_body(authz: Authz, keyring: Keyring):
    """A 403 names the scope that is missing, in OpenAI's error shape."""
    key, _ = keyring.create_key("acme", scopes="models:read")
    denied = authz.check(key).denied_response
    error = json.loads(denied.body)["error"]

    assert error["message"] == "This API key lacks the scope chat:write."
    assert error["code"] == "insufficient_permissions"


def test_unauthenticated_alike(authz: Authz, redis_url, keyring: Keyring):
    """No key, a malformed, unknown, wrong, expired, revoked one: the same bytes."""
    revoked, record = keyring.create_key("acme")
    keyring.revoke(record.key_id)
    expired, record = keyring.create_key("acme", expires_at=time.time() + 60)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        digest = client.get(f"th:keyid:{record.key_id}")
        client.hset(f"th:key:{digest}", "expires_at", time.time() - 1)
    good, _ = keyring.create_key("acme")
    assert authz.status(good) == 200
    wrong = good[:-4] + ("aaaa" if not good.endswith("aaaa") else "bbbb")
    answers = {
        authz.raw(value)
        for value in [
            None,
            "",
            good,
            f"Basic {good}",
            f"Bearer {good},Bearer {good}",
            f"Bearer {NOBODY}",
            f"Bearer {wrong}",
            f"Bearer {expired}",
            f"Bearer {revoked}",
            "Bearer " + "x" * 60_000,
        ]
    }

    assert len(answers) == 1
    denied = ext_authz.CheckResponse.FromString(answers.pop()).denied_response
    assert denied.status.code == 401
    assert {it.header.key: it.header.value for it in denied.headers} == {
        "content-type": "application/json",
        "www-authenticate": "Bearer",
    }
    error = json.loads(denied.body)["error"]
    assert (error["type"], error["code"]) == (
        "invalid_request_error",
        "invalid_api_key",
    )


def test_x_api_key(authz: Authz, keyring: Keyring):
    """Anthropic's clients send it so; elsewhere it says nothing, and never two."""
    good, _ = keyring.create_key("acme")
    other, _ = keyring.create_key("acme")

    def status(authorization: str | None, api_key: str, path: str = MESSAGES) -> int:
        answer = authz.raw(authorization, path, api_key=api_key)
        said = ext_authz.CheckResponse.FromString(answer)
        return int(said.denied_response.status.code) or 200

    assert status(None, good) == 200
    assert status(None, good, f"{MESSAGES}?beta=true") == 200
    assert status(f"Bearer {good}", good) == 200
    assert status(f"Bearer {other}", good) == 401
    assert status("", good) == 401
    assert status(f"Basic {good}", good) == 401
    assert status(None, f"{good},{good}") == 401
    assert status(None, f"Bearer {good}") == 401
    assert status(None, NOBODY) == 401
    assert status(f"Bearer {good}", NOBODY) == 401
    assert status(None, good, CHAT) == 401
    assert status(f"Bearer {good}", NOBODY, CHAT) == 200


def test_anthropic_body(authz: Authz):
    """Refusals on Anthropic's path are in its error shape."""
    answer = ext_authz.CheckResponse.FromString(authz.raw(None, MESSAGES))
    body = json.loads(answer.denied_response.body)

    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"


def test_same_for_every_path(authz: Authz, keyring: Keyring):
    """Without a key nothing is learned about paths either."""
    assert authz.raw(None, MODELS, "GET") == authz.raw(None, "/nowhere", "GET")


@pytest.mark.timed
def test_revoked(authz: Authz, keyring: Keyring):
    """A key in use stops working within two seconds of its revocation."""
    key, record = keyring.create_key("acme")
    for _ in range(20):  # in use: remembered, and looked up ahead
        assert authz.status(key) == 200
        time.sleep(0.02)
    keyring.revoke(record.key_id)

    assert eventually(401, lambda: authz.status(key), within=2.3) < 2.3


@pytest.mark.timed
def test_overrides(authz: Authz, keyring: Keyring):
    """Left out while nothing differs; a change is there within two seconds."""
    key, record = keyring.create_key("acme")

    def told() -> str:
        fields = authz.check(key).dynamic_metadata.fields
        return fields["overrides"].string_value if "overrides" in fields else "none"

    assert told() == "none"
    keyring.override_tenant("acme", None, lambda _: Override(concurrent=3))
    eventually('{"tenant":{"concurrent":3}}', told, within=2.3)
    keyring.override_key(record.key_id, lambda _: Override(units_per_day=4))
    expected = '{"key":{"units_per_day":4},"tenant":{"concurrent":3}}'
    eventually(expected, told, within=2.3)
    keyring.override_tenant("acme", None, lambda _: AS_PLANNED)
    keyring.override_key(record.key_id, lambda _: AS_PLANNED)

    assert eventually("none", told, within=2.3) < 2.3


@pytest.mark.timed
def test_created_after_a_try(authz: Authz, redis_url, keyring: Keyring):
    """A key that was unknown works within five seconds, though nobody told of it."""
    key, record = keyring.create_key("acme")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        name = f"th:key:{client.get(f'th:keyid:{record.key_id}')}"
        client.rename(name, "aside")
        assert authz.status(key) == 401
        client.rename("aside", name)

    eventually(200, lambda: authz.status(key), within=5)


@pytest.mark.timed
def test_suspended(authz: Authz, redis_url, keyring: Keyring):
    """A suspended tenant's keys are good, and forbidden; whoever did it, within 5 s."""
    key, _ = keyring.create_key("acme")
    assert authz.status(key) == 200
    with redis.Redis.from_url(redis_url) as client:
        client.hset("th:tenant:acme", "state", "suspended")
        eventually(403, lambda: authz.status(key), within=5)
        error = json.loads(authz.check(key).denied_response.body)["error"]
        assert error["code"] == "tenant_suspended"
        client.delete("th:tenant:acme")

    eventually(401, lambda: authz.status(key), within=5)


@pytest.mark.timed
def test_expires_while_remembered(authz: Authz, keyring: Keyring):
    """An expiry holds to the moment, also for a key that was just looked up."""
    expires_at = time.time() + 0.5
    key, _ = keyring.create_key("acme", expires_at=expires_at)
    assert authz.status(key) == 200
    eventually(401, lambda: authz.status(key), within=2)

    assert time.time() - expires_at < 0.3


@pytest.mark.timed
def test_unknown_keys_cost_little(authz: Authz, redis_url):
    """One look-up per unknown key and four seconds, however often it is tried."""
    with redis.Redis.from_url(redis_url) as client:
        before = client.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0)
        for _ in range(200):
            assert authz.status(NOBODY[:-1] + "Q") == 401
        after = client.info("commandstats")["cmdstat_hmget"]["calls"]

    assert after - before <= 2


@pytest.mark.timed
def test_redis_gone(folder: Path, pepper: Path, tmp_path: Path):
    """Redis killed: a known key goes on, an unknown one is a 503, all heals itself."""
    with running_redis(tmp_path, appendonly="yes") as server:
        ring = Keyring(server.url, Pepper.read(pepper))
        ring.create_tenant("acme", "demo")
        known, _ = ring.create_key("acme")
        unseen, _ = ring.create_key("acme")
        ring.close()
        (tmp_path / "a").mkdir()
        with running_authz(tmp_path / "a", server.url, pepper) as authz:
            assert authz.status(known) == 200
            server.process.kill()
            server.process.wait()
            time.sleep(FRESH_SECONDS + 0.2)  # older than what is fresh
            begin = time.monotonic()
            for _ in range(50):
                assert authz.status(known) == 200
            assert time.monotonic() - begin < 1
            denied = authz.check(unseen).denied_response
            assert denied.status.code == 503
            assert json.loads(denied.body)["error"]["code"] == "service_unavailable"
            assert {it.header.key: it.header.value for it in denied.headers}[
                "retry-after"
            ] == "1"
            assert authz.status("no key") == 401
            with running_redis(tmp_path, appendonly="yes"):
                eventually(200, lambda: authz.status(unseen), within=3)
            status, out = authz.end()
    events = [json.loads(line)["event"] for line in out.splitlines()]

    assert status == 0
    assert events.count("redis.lost") == events.count("redis.returned") == 1


@pytest.mark.timed
def test_redis_hangs(pepper: Path, tmp_path: Path):
    """Redis stopped, not dead: known keys don't wait for it, unknown ones not long."""
    with running_redis(tmp_path) as server:
        ring = Keyring(server.url, Pepper.read(pepper))
        ring.create_tenant("acme", "demo")
        known, _ = ring.create_key("acme")
        ring.close()
        (tmp_path / "a").mkdir()
        with running_authz(tmp_path / "a", server.url, pepper) as authz:
            assert authz.status(known) == 200
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(FRESH_SECONDS + 0.1)
            slow = 0
            for _ in range(50):
                begin = time.monotonic()
                assert authz.status(known) == 200
                slow += time.monotonic() - begin > 0.04
            begin = time.monotonic()
            assert authz.status(NOBODY) == 503
            assert time.monotonic() - begin < 0.45  # Envoy waits 0.5 s
            server.process.send_signal(signal.SIGCONT)

            assert slow <= 3
            eventually(401, lambda: authz.status(NOBODY), within=5)


def test_wrong_pepper(folder: Path, redis_url, keyring, tmp_path: Path):
    """With another pepper no digest fits: what Redis holds opens nothing."""
    key, _ = keyring.create_key("acme")
    other = tmp_path / "pepper"
    other.touch(mode=0o600)
    other.write_text("c3" * 32)
    with running_authz(tmp_path, redis_url, other) as authz:
        assert authz.status(key) == 401


def test_secrets_stay(pepper: Path, tmp_path: Path):
    """A key leaves no trace: not in Redis, its files, the logs or the environment."""
    with running_redis(tmp_path, appendonly="yes") as server:
        ring = Keyring(server.url, Pepper.read(pepper))
        ring.create_tenant("acme", "demo")
        key, record = ring.create_key("acme", labels=["canary"])
        (tmp_path / "a").mkdir()
        with running_authz(tmp_path / "a", server.url, pepper) as authz:
            assert authz.status(key) == 200
            authz.status(key + "x")
            authz.status(key, "/nowhere")
            authz.raw(f"Bearer {key},Bearer {key}")
            ring.revoke(record.key_id)
            server.process.kill()
            authz.status(NOBODY)
            environ = Path(f"/proc/{authz.popen.pid}/environ").read_bytes()
            _, out = authz.end()
        ring.close()
    secret = key.rpartition("_")[2]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files)

    assert record.key_id.encode() in everything  # so the search sees something
    assert "redis.lost" in out
    assert secret.encode() not in everything
    assert secret not in out
    assert secret.encode() not in environ
    assert pepper.read_bytes().strip() not in everything + environ + out.encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"TOLLHOUSE_PEPPER_FILE": "open"}, "everybody on this machine can use it"),
        ({"TOLLHOUSE_REDIS_URL": "redis://:hunter2@x/0"}, "must not hold a password"),
        ({"TOLLHOUSE_REDIS_URL": None}, "TOLLHOUSE_REDIS_URL: is not set (Redis of"),
        ({"TOLLHOUSE_LOG_LEVEL": "loud"}, "TOLLHOUSE_LOG_LEVEL: Input should be"),
    ],
)
def test_bad_start(redis_url, pepper: Path, tmp_path: Path, change, reason):
    """What can't work is one line on stderr and status 2; no secret is repeated."""
    (tmp_path / "open").write_text("s" * 64)
    (tmp_path / "open").chmod(0o644)
    settings = environment(tmp_path, redis_url, pepper)
    for name, value in change.items():
        if value is None:
            del settings[name]
        else:
            settings[name] = value
    done = subprocess.run(
        [sys.executable, "-m", "tollhouse.authz"],
        env=settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "authz.sock").exists()
