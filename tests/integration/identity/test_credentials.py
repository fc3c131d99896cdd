"""Look-ups in a real Redis, and the servicer around them, in one process."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
import redis
import structlog
from structlog.testing import capture_logs

from tollhouse.adapters import logs
from tollhouse.adapters.jwts import Jwts
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.credentials import Credentials
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.tracing import Tracing
from tollhouse.authz.servicer import SERVICE, AuthorizationServicer
from tollhouse.core.entitlement import Override, Overrides, decode_overrides
from tollhouse.core.identity import Credential, Principal, key_id_of, parse_scopes
from tollhouse.core.problems import ProtocolError, Unavailable
from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

NO_JWTS = Jwts(dict)
PEPPER = Pepper({"v1": b"p" * 32})
NOBODY = f"th_{'nobody' * 2}_{'aB3' * 14}x"


@pytest.fixture
def keyring(redis_url: str):
    ring = Keyring(redis_url, PEPPER)
    ring.create_tenant("acme", "demo")
    ring.create_tenant("other", "gold")
    yield ring
    ring.close()


@pytest.fixture
def raw(redis_url: str):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def client(redis_url: str):
    it = await Redis.connect(redis_url, budget_seconds=1.0)
    yield it
    await it.close()


async def test_find(keyring: Keyring, client: Redis):
    """Plan of the tenant, scopes and expiry of the key; hint or not, the same."""
    key, record = keyring.create_key(
        "acme", scopes="chat:write=tiny-*", expires_at=4e9, labels=["ci"]
    )
    expected = Credential(
        Principal("acme", record.key_id, "demo", parse_scopes("chat:write=tiny-*")),
        expires_at=4e9,
        is_suspended=False,
    )
    find = Credentials(client).find

    assert await find(key_id_of(key), PEPPER.digests(key)) == expected
    assert await find(key_id_of(key), PEPPER.digests(key), "acme") == expected
    assert await find(key_id_of(key), PEPPER.digests(key), "other") == expected


async def test_overrides(keyring: Keyring, client: Redis):
    """Those of key and tenant in one text, with the tenant's time zone."""
    key, record = keyring.create_key("acme")
    plain, _ = keyring.create_key("other")
    keyring.override_key(record.key_id, lambda _: Override(concurrent=1))
    keyring.override_tenant("acme", None, lambda _: Override(concurrent="unlimited"))
    keyring.override_tenant("acme", "m", lambda _: Override(shadow=True))
    keyring.change_tenant("acme", time_zone="Europe/Berlin")
    find = Credentials(client).find

    for hint in (None, "acme", "other"):
        found = await find(key_id_of(key), PEPPER.digests(key), hint)
        assert found is not None
        assert decode_overrides(found.principal.overrides) == Overrides(
            key=Override(concurrent=1),
            tenant=Override(concurrent="unlimited"),
            models={"m": Override(shadow=True)},
            zone="Europe/Berlin",
        )
        without = await find(key_id_of(plain), PEPPER.digests(plain), hint)
        assert without is not None
        assert without.principal.overrides == ""


async def test_find_nothing(keyring: Keyring, client: Redis, raw):
    """Unknown and revoked keys, and those of a tenant that is gone: nothing."""
    find = Credentials(client).find
    revoked, record = keyring.create_key("acme")
    keyring.revoke(record.key_id)
    orphan, _ = keyring.create_key("other")
    raw.delete("th:tenant:other")

    assert [
        await find(key_id_of(key), PEPPER.digests(key), hint)
        for key in (NOBODY, revoked, orphan)
        for hint in (None, "acme", "other")
    ] == [None] * 9


async def test_misplaced(keyring: Keyring, client: Redis, raw):
    """A record that was led under another key's digest opens nothing, and is told."""
    _, record = keyring.create_key("acme")
    digest = raw.get(f"th:keyid:{record.key_id}")
    pepper = Pepper({"v2": b"q" * 32, "v1": b"p" * 32})
    raw.rename(f"th:key:{digest}", f"th:key:{PEPPER.digest(NOBODY)}")
    found = Credentials(client)
    heard = raw.pubsub(ignore_subscribe_messages=True)
    heard.subscribe("th:moved")
    with capture_logs() as logged:
        for hint in (None, "acme", None):
            assert (
                await found.find("nobodynobody", pepper.digests(NOBODY), hint) is None
            )

    assert [it["event"] for it in logged] == ["credential.misread"]
    assert record.key_id in logged[0]["reason"]
    raw.publish("th:moved", "end")
    messages = [heard.get_message(timeout=30) for _ in range(2)]
    assert [it["data"] for it in messages if it] == ["end"]  # nor is it led further
    heard.close()


async def test_suspended(keyring: Keyring, client: Redis, raw):
    """Any state but active is suspended: a new word must not open a door."""
    key, _ = keyring.create_key("acme")
    raw.hset("th:tenant:acme", "state", "paused")
    found = await Credentials(client).find(key_id_of(key), PEPPER.digests(key))

    assert found is not None
    assert found.is_suspended


async def test_newer_scopes(keyring: Keyring, client: Redis, raw):
    """Permissions of a later release are kept and do no harm."""
    key, _ = keyring.create_key("acme")
    raw.hset(f"th:key:{PEPPER.digest(key)}", "scopes", "tune:write chat:write")
    found = await Credentials(client).find(key_id_of(key), PEPPER.digests(key))

    assert found is not None
    assert found.principal.scopes == parse_scopes("tune:write chat:write")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scopes", "!"),
        ("expires_at", "soon"),
        ("limits", "{"),
        ("limits", '{"key":{"requests_per_hour":1}}'),
    ],
)
async def test_misread(keyring: Keyring, client: Redis, raw, field, value):
    """A record that can't be read is our fault and says whose key it is."""
    key, record = keyring.create_key("acme")
    raw.hset(f"th:key:{PEPPER.digest(key)}", field, value)

    with pytest.raises(ProtocolError, match=record.key_id):
        await Credentials(client).find(key_id_of(key), PEPPER.digests(key))


@pytest.mark.parametrize("limits", ['{"tenants":{}}', '{"zone":"Mars/Olympus"}'])
async def test_misread_tenant(keyring: Keyring, client: Redis, raw, limits):
    """Limits that can't be read are not none: nothing is admitted by guess."""
    key, record = keyring.create_key("acme")
    raw.hset("th:tenant:acme", "limits", limits)

    with pytest.raises(ProtocolError, match=record.key_id):
        await Credentials(client).find(key_id_of(key), PEPPER.digests(key))


async def test_refused(client: Redis, raw):
    """An error of Redis is an outage, not an unknown key."""
    raw.set(f"th:key:{PEPPER.digest(NOBODY)}", "no hash")

    with pytest.raises(Unavailable):
        await Credentials(client).find(key_id_of(NOBODY), PEPPER.digests(NOBODY))


class Fixed(Credentials):
    """A look-up with one answer."""

    def __init__(self, credential: Credential) -> None:
        self.credential = credential

    async def find(
        self, key_id: str, digests: Sequence[str], tenant: str | None = None
    ) -> Credential | None:
        return self.credential


class Broken(Credentials):
    """A look-up with a bug."""

    def __init__(self) -> None:
        pass

    async def find(
        self, key_id: str, digests: Sequence[str], tenant: str | None = None
    ) -> Credential | None:
        raise KeyError(key_id, digests, tenant, NOBODY)


async def ask(servicer: AuthorizationServicer, folder: Path, key: str) -> bytes:
    """Ask a servicer over gRPC."""
    server = grpc.aio.server()
    servicer.add_to(server)
    server.add_insecure_port(f"unix:{folder}/s")
    await server.start()
    request = ext_authz.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "POST", "/v1/chat/completions"
    http.headers["authorization"] = f"Bearer {key}"
    try:
        async with grpc.aio.insecure_channel(f"unix:{folder}/s") as channel:
            check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            check = channel.unary_unary(f"/{SERVICE}/Check")
            return await check(request.SerializeToString(), timeout=30)
    finally:
        await server.stop(None)


@pytest.fixture
def logged():
    """What is logged, as a service logs; puts the logging back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure("authz", stream=out)
    yield out
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_bug(tmp_path: Path, logged: io.StringIO):
    """A bug of ours is an error to Envoy (a 503), never a pass; it is logged clean."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(
            AuthorizationServicer(Broken(), lambda: PEPPER, NO_JWTS, Tracing()),
            tmp_path,
            NOBODY,
        )

    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert '"event":"check.failed"' in logged.getvalue()
    assert NOBODY not in logged.getvalue()


@pytest.mark.parametrize(
    ("expires_at", "is_suspended", "status"),
    [(None, False, 0), (4e9, False, 0), (None, True, 403), (1.0, True, 401)],
)
async def test_servicer(expires_at, is_suspended, status, tmp_path: Path):
    """Pass, suspended; an expired key is told nothing about its tenant."""
    principal = Principal("acme", "nobodynobody", "demo", parse_scopes("chat:write"))
    credential = Credential(principal, expires_at, is_suspended)
    servicer = AuthorizationServicer(
        Fixed(credential), lambda: PEPPER, NO_JWTS, Tracing()
    )
    answer = ext_authz.CheckResponse.FromString(await ask(servicer, tmp_path, NOBODY))

    assert int(answer.denied_response.status.code) == status
    verdict = {0: "passed", 401: "unauthenticated", 403: "suspended"}[status]
    assert {verdict: 1} == {it: n for it, n in servicer.verdicts.items() if n}
