"""The admin API: the real process, over its socket."""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import grpc
import pytest
import redis
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.identity.admin_process import (
    READER,
    TOKEN,
    Admin,
    bearer,
    environment,
    refusal,
    running_admin,
    violations,
)
from tests.metric_receiver import MetricReceiver, metric_receiver
from tests.redis_process import RedisServer, running_redis
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.changes import MOVED, key_seen
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.new_keys import draw_key
from tollhouse.admin import convert
from tollhouse.pb.tollhouse.admin.v1 import admin_pb2 as admin_pb

ME = bearer()
OLD = "5a" * 32


def write_files(folder: Path) -> Path:
    """Write tokens and peppers."""
    tokens, pepper = folder / "tokens", folder / "pepper"
    for path in (tokens, pepper):
        path.touch(mode=0o600)
    tokens.write_text(f"# who may call\n\nci:{TOKEN}\nboard:{READER}:read\n")
    pepper.write_text(f"v2:{'6b' * 32}\nv1:{OLD}\n")
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with tokens and peppers."""
    return write_files(tmp_path)


@pytest.fixture(scope="module")
def metrics():
    """What the process exports."""
    with metric_receiver() as it:
        yield it


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer,
    metrics: MetricReceiver,
):
    folder = write_files(tmp_path_factory.mktemp("a"))
    settings = environment(
        folder, redis_server.url, folder / "tokens", folder / "pepper"
    )
    settings |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": metrics.endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    }
    with running_admin(settings) as it:
        yield it


@pytest.fixture
def admin(process: Admin, redis_url: str):
    """One that is left as it is; all in its Redis is of this test."""
    return process


@pytest.fixture
def own_admin(files: Path, redis_url: str):
    """One that may end or be given other tokens."""
    settings = environment(files, redis_url, files / "tokens", files / "pepper")
    with running_admin(settings) as it:
        yield it


@pytest.fixture
def ring(files: Path, redis_url: str):
    it = Keyring(redis_url, Pepper.read(files / "pepper"), who="test")
    yield it
    it.close()


def create(admin: Admin, name: str = "acme") -> admin_pb.Tenant:
    request = admin_pb.CreateTenantRequest(name=name, plan="demo")
    return admin.tenants.CreateTenant(request, **ME).tenant


def test_tenants(admin: Admin, ring: Keyring):
    """From the first call to the last, as the keyring has it."""
    request = admin_pb.CreateTenantRequest(
        name="acme", plan="demo", time_zone="Europe/Berlin"
    )
    made = admin.tenants.CreateTenant(request, **ME)
    assert (made.created, made.tenant.state) == (True, admin_pb.TENANT_STATE_ACTIVE)
    assert not admin.tenants.CreateTenant(request, **ME).created
    changed = admin.tenants.UpdateTenant(
        admin_pb.UpdateTenantRequest(name="acme", plan="gold"), **ME
    ).tenant
    assert (changed.plan, changed.time_zone) == ("gold", "Europe/Berlin")
    suspend = admin_pb.SuspendTenantRequest(name="acme", reason="late")
    assert admin.tenants.SuspendTenant(suspend, **ME).tenant.reason == "late"
    assert ring.tenant("acme").state == "suspended"
    resume = admin_pb.ResumeTenantRequest(name="acme")
    admin.tenants.ResumeTenant(resume, **ME)
    assert ring.tenant("acme").state == "active"
    ring.create_key("acme")
    gone = admin.tenants.DeleteTenant(admin_pb.DeleteTenantRequest(name="acme"), **ME)
    assert (gone.revoked_keys, ring.keys("acme")[0].state(0)) == (1, "revoked")
    got = admin.tenants.GetTenant(admin_pb.GetTenantRequest(name="acme"), **ME)

    assert got.tenant == gone.tenant
    assert [it.action for it in ring.log.latest(9, tenant="acme")[0]] == [
        *("key.revoked", "tenant.deleted", "key.created", "tenant.resumed"),
        *("tenant.suspended", "tenant.changed", "tenant.created"),
    ]
    assert {it.who for it in ring.log.latest(9)[0]} == {"api:ci", "test"}


def test_keys(admin: Admin, ring: Keyring):
    """Made once, shown once; rotated, revoked."""
    create(admin)
    ends = int(time.time()) + 3600
    request = admin_pb.CreateKeyRequest(tenant="acme")
    request.terms.scopes.append("chat:write=tiny-*")
    request.terms.networks.append("203.0.113.0/24")
    request.terms.labels.append("ci")
    request.terms.expire_time.FromSeconds(ends)
    made = admin.keys.CreateKey(request, **ME)
    found = ring.find(made.secret)
    assert found is not None
    assert (found.key_id, found.expires_at, found.labels) == (
        *(made.key.key_id, float(ends), ("ci",)),
    )
    got = admin.keys.GetKey(admin_pb.GetKeyRequest(key_id=found.key_id), **ME).key
    assert got == made.key
    assert got.terms == request.terms

    rotate = admin_pb.RotateKeyRequest(key_id=found.key_id)
    rotate.grace.FromSeconds(60)
    rotated = admin.keys.RotateKey(rotate, **ME)
    successor = ring.find(rotated.secret)
    assert successor is not None
    assert successor.rotated_from == rotated.old_key.key_id == found.key_id
    assert rotated.old_key.terms.expire_time.seconds < ends
    assert refusal(admin.keys.RotateKey, rotate)[0] == "FAILED_PRECONDITION"

    revoke = admin_pb.RevokeKeyRequest(key_id=found.key_id)
    assert admin.keys.RevokeKey(revoke, **ME).key.state == admin_pb.KEY_STATE_REVOKED
    assert admin.keys.RevokeKey(revoke, **ME).key.HasField("revoke_time")
    status, text = refusal(admin.keys.RotateKey, rotate)
    assert (status, text) == (
        *("FAILED_PRECONDITION", f"key {found.key_id} is revoked"),
    )


def test_request_id(admin: Admin):
    """What is sent again makes no second key, and names the first."""
    create(admin)
    request = admin_pb.CreateKeyRequest(tenant="acme", request_id=str(uuid.uuid4()))
    made = admin.keys.CreateKey(request, **ME).key
    request.request_id = request.request_id.upper()
    status, text = refusal(admin.keys.CreateKey, request)

    assert (status, made.key_id in text) == ("ALREADY_EXISTS", True)
    listed = admin.keys.ListKeys(admin_pb.ListKeysRequest(), **ME).keys
    assert [it.key_id for it in listed] == [made.key_id]


def test_pages(admin: Admin, ring: Keyring):
    """Every tenant, key and entry is on one page."""
    for number in range(5):
        ring.create_tenant(f"t{number}", "demo")
        ring.create_key(f"t{number}")
    ring.delete_tenant("t2")

    def all_of(call, kind, field: str, **fields) -> list:
        request, found = kind(page_size=2, **fields), []
        while True:
            page = call(request, **ME)
            assert len(getattr(page, field)) <= 2
            found += getattr(page, field)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    tenants = (admin.tenants.ListTenants, admin_pb.ListTenantsRequest, "tenants")
    names = [it.name for it in all_of(*tenants)]
    assert names == ["t0", "t1", "t3", "t4"]
    assert len(all_of(*tenants, show_deleted=True)) == 5
    keys = (admin.keys.ListKeys, admin_pb.ListKeysRequest, "keys")
    assert [it.tenant for it in all_of(*keys)] == ["t0", "t1", "t2", "t3", "t4"]
    assert [it.tenant for it in all_of(*keys, tenant="t3")] == ["t3"]
    events = (admin.audit.ListAuditEvents, admin_pb.ListAuditEventsRequest, "events")
    found = all_of(*events)
    assert [it.event_id for it in found] == [it.id for it in ring.log.latest(99)[0]]
    assert [it.action for it in all_of(*events, tenant="t2")] == [
        *("key.revoked", "tenant.deleted", "key.created", "tenant.created")
    ]
    assert dict(found[-1].changes)["plan"]["to"] == "demo"
    for request, call in (
        (admin_pb.ListTenantsRequest(page_token="x"), admin.tenants.ListTenants),
        (admin_pb.ListKeysRequest(page_token="WyJhIl0="), admin.keys.ListKeys),
        (admin_pb.ListAuditEventsRequest(page_token="x"), admin.audit.ListAuditEvents),
    ):
        assert violations(call, request) == {"page_token": "is not one of ours"}
    negative = admin_pb.ListKeysRequest(page_size=-1)
    assert "page_size" in violations(admin.keys.ListKeys, negative)


def test_import(admin: Admin, ring: Keyring, files: Path):
    """All or nothing; the faults of all documents at once, by their place."""
    create(admin)
    pepper = Pepper.read(files / "pepper")
    key = draw_key()[1]
    request = admin_pb.ImportKeysRequest(source="git", prune=True)
    good = request.documents.add(
        key_id=key.split("_")[1], digest=pepper.digest(key), tenant="acme"
    )
    good.terms.expire_time.FromJsonString("2031-01-31T12:00:00Z")
    good.terms.scopes.append("models:read")
    request.validate_only = True
    assert admin.keys.ImportKeys(request, **ME).created == [good.key_id]
    assert ring.find(key) is None
    request.validate_only = False
    assert admin.keys.ImportKeys(request, **ME).created == [good.key_id]
    found = ring.find(key)
    assert found is not None
    assert (found.scopes, found.source, found.expires_at) == (
        *("models:read", "git", 1_927_627_200.0),
    )
    assert admin.keys.ImportKeys(request, **ME).unchanged == [good.key_id]

    wrong = request.documents.add(key_id=key, digest="x", tenant="acme")
    wrong.terms.expire_time.seconds = 10**15
    wrong.terms.networks.append("10.0.0.1/8")
    faults = violations(admin.keys.ImportKeys, request)
    assert faults.keys() == {
        f"documents[1].{it}"
        for it in ("key_id", "digest", "terms.expire_time", "terms.networks")
    }
    assert "looks like a whole key" in faults["documents[1].key_id"]
    assert key not in str(faults)
    ended = good.key_id
    del request.documents[:]
    with pytest.raises(grpc.RpcError) as refused:  # that would end all of them
        admin.keys.ImportKeys(request, **ME)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    other = draw_key()[1]
    request.documents.add(
        key_id=other.split("_")[1], digest=pepper.digest(other), tenant="acme"
    )
    assert admin.keys.ImportKeys(request, **ME).revoked == [ended]
    request.documents.add(key_id="a" * 12, digest=f"v1:{'0' * 64}", tenant="nobody")
    assert (
        "there is no nobody"
        in violations(admin.keys.ImportKeys, request)["documents[1]"]
    )


def test_strangers(own_admin: Admin, redis_url: str):
    """No token, a wrong one, two, or another scheme: one text, and nothing is done."""
    request = admin_pb.CreateTenantRequest(name="acme", plan="demo")
    answers = {
        refusal(own_admin.tenants.CreateTenant, request, metadata=metadata)
        for metadata in (
            (),
            (("authorization", ""),),
            (("authorization", TOKEN),),
            (("authorization", f"Basic {TOKEN}"),),
            (("authorization", f"Bearer {TOKEN}x"),),
            (("authorization", f"Bearer {TOKEN[:-1]}"),),
            (("authorization", f"bearer {TOKEN}"),),
            (("authorization", f"Bearer {TOKEN}"),) * 2,
            (("authorization-x", f"Bearer {TOKEN}"),),
        )
    }

    assert [status for status, _ in answers] == ["UNAUTHENTICATED"]
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == []
    status, out = own_admin.end()
    assert status == 0
    refused = [json.loads(it) for it in out.splitlines() if "caller.refused" in it]
    assert [it["count"] for it in refused] == [1]  # the rest waits for ten seconds
    assert TOKEN not in out


def test_reader(admin: Admin):
    """It sees all, and changes nothing."""
    create(admin)
    listed = admin.tenants.ListTenants(
        admin_pb.ListTenantsRequest(), **bearer(READER)
    ).tenants
    assert [it.name for it in listed] == ["acme"]
    for call, request in (
        (admin.tenants.CreateTenant, admin_pb.CreateTenantRequest(name="b", plan="d")),
        (admin.tenants.UpdateTenant, admin_pb.UpdateTenantRequest(name="acme")),
        (admin.tenants.SuspendTenant, admin_pb.SuspendTenantRequest(name="acme")),
        (admin.tenants.ResumeTenant, admin_pb.ResumeTenantRequest(name="acme")),
        (admin.tenants.DeleteTenant, admin_pb.DeleteTenantRequest(name="acme")),
        (admin.keys.CreateKey, admin_pb.CreateKeyRequest(tenant="acme")),
        (admin.keys.RotateKey, admin_pb.RotateKeyRequest(key_id="a" * 12)),
        (admin.keys.RevokeKey, admin_pb.RevokeKeyRequest(key_id="a" * 12)),
        (admin.keys.ImportKeys, admin_pb.ImportKeysRequest(source="git")),
    ):
        assert refusal(call, request, **bearer(READER)) == (
            *("PERMISSION_DENIED", "this token may only read"),
        )


def test_refused(admin: Admin, ring: Keyring):
    """Each kind of failure has its status, and fields have their names."""
    create(admin)
    tenants, keys = admin.tenants, admin.keys
    assert refusal(tenants.GetTenant, admin_pb.GetTenantRequest(name="b")) == (
        *("NOT_FOUND", "no tenant b"),
    )
    gold = admin_pb.CreateTenantRequest(name="acme", plan="gold")
    assert refusal(tenants.CreateTenant, gold) == (
        *("ALREADY_EXISTS", "tenant acme exists and is on plan demo, not gold"),
    )
    assert refusal(keys.GetKey, admin_pb.GetKeyRequest(key_id="a" * 12))[0] == (
        "NOT_FOUND"
    )
    faults = violations(
        tenants.CreateTenant,
        admin_pb.CreateTenantRequest(name="Acme", plan="", time_zone="CEST"),
    )
    assert faults.keys() == {"name", "plan", "time_zone"}
    request = admin_pb.CreateKeyRequest(tenant="acme")
    request.terms.scopes.append("chat:wrte")
    request.terms.networks.append("0.0.0.0/0")
    request.terms.expire_time.FromSeconds(1)
    request.terms.labels.extend(map(str, range(17)))
    request.terms.plan = "\x07"
    assert violations(keys.CreateKey, request).keys() == {
        f"terms.{it}" for it in ("scopes", "networks", "expire_time", "labels", "plan")
    }
    request = admin_pb.CreateKeyRequest(tenant="A", request_id="x")
    assert violations(keys.CreateKey, request).keys() == {"tenant", "request_id"}
    whole = draw_key()[1]
    faults = violations(keys.RevokeKey, admin_pb.RevokeKeyRequest(key_id=whole))
    assert faults.keys() == {"key_id"}
    assert whole not in str(faults)
    key_id = keys.CreateKey(admin_pb.CreateKeyRequest(tenant="acme"), **ME).key.key_id
    rotate = admin_pb.RotateKeyRequest(key_id=key_id)
    rotate.grace.FromSeconds(-1)
    assert violations(keys.RotateKey, rotate).keys() == {"grace"}
    rotate = admin_pb.RotateKeyRequest(key_id=key_id)
    rotate.expire_time.FromSeconds(1)
    assert violations(keys.RotateKey, rotate).keys() == {"expire_time"}
    for field, of_source in (
        ("source", admin_pb.ImportKeysRequest(source="BAD")),
        ("prune", admin_pb.ImportKeysRequest(source="x", prune=True)),
    ):
        assert violations(keys.ImportKeys, of_source).keys() == {field}
    long = admin_pb.CreateTenantRequest(name="A" * 5000, plan="demo")
    assert violations(tenants.CreateTenant, long).keys() == {"name"}
    ring.delete_tenant("acme")
    assert refusal(keys.CreateKey, admin_pb.CreateKeyRequest(tenant="acme")) == (
        *("FAILED_PRECONDITION", "tenant acme was deleted"),
    )


def test_refusals_that_would_not_fit_in_headers(admin: Admin):
    """Clients of gRPC see RESOURCE_EXHAUSTED where a status is longer than 8 KiB."""
    create(admin)
    smiles = "\N{GRINNING FACE}" * 600
    odd = admin_pb.CreateKeyRequest(tenant=smiles)
    odd.terms.plan = smiles
    odd.terms.networks.append(smiles)
    odd.terms.scopes.append(smiles)
    assert "tenant" in violations(admin.keys.CreateKey, odd)
    documents = [admin_pb.KeyDocument(key_id="x", digest=f"d{it}") for it in range(500)]
    request = admin_pb.ImportKeysRequest(source="x", documents=documents)
    assert "documents[0].digest" in violations(admin.keys.ImportKeys, request)
    code, text = refusal(admin.keys.ImportKeys, request)
    assert code == "INVALID_ARGUMENT"
    assert text.endswith(" more")
    digests = [f"v1:{it:064x}" for it in range(10_001)]
    documents = [
        admin_pb.KeyDocument(key_id=f"{at:012}", digest=digest, tenant="acme")
        for at, digest in enumerate(digests)
    ]
    request = admin_pb.ImportKeysRequest(source="x", documents=documents)
    assert violations(admin.keys.ImportKeys, request).keys() == {"documents"}
    code, text = refusal(admin.tenants.GetTenant, admin_pb.GetTenantRequest(name="a"))
    assert (code, text) == ("NOT_FOUND", "no tenant a")


def test_audit_of_anything(admin: Admin, redis_url: str):
    """What can't be meant is the caller's fault, and what can't be read hides none."""
    create(admin)
    with redis.Redis.from_url(redis_url) as client:
        client.xadd("th:audit", {"a": "b"})
        client.xadd("th:audit", {"c": "d"}, id=f"{2**64 - 1}-{2**64 - 1}")

    def request(**fields: object) -> admin_pb.ListAuditEventsRequest:
        return admin_pb.ListAuditEventsRequest(**fields)  # type: ignore[arg-type]

    for place in (
        *("0-0", "0-00", f"{2**64}-0", f"0-{2**64}", "9" * 20 + "-1", "1", "-", "a-b"),
        *("1-1-1", "$", "+", "(1-1", "1-1\n"),
    ):
        token = convert.write_token(place)
        faults = violations(admin.audit.ListAuditEvents, request(page_token=token))
        assert faults.keys() == {"page_token"}, place
    for seconds in (2**63 - 1, -(2**63), 253_402_300_801, -62_135_596_801):
        time_ = Timestamp(seconds=seconds)
        faults = violations(admin.audit.ListAuditEvents, request(start_time=time_))
        assert faults.keys() == {"start_time"}, seconds
    for place in ("0-1", "1-0", f"{2**64 - 1}-{2**64 - 1}"):
        token = convert.write_token(place)
        admin.audit.ListAuditEvents(request(page_token=token), **ME)
    time_ = Timestamp(seconds=-62_135_596_800)
    page = admin.audit.ListAuditEvents(request(start_time=time_), **ME)
    assert [it.action for it in page.events] == [
        *("unreadable", "unreadable", "tenant.created"),
    ]
    far = page.events[0]
    assert far.event_time.ToDatetime().year == 9999
    assert refusal(
        admin.tenants.CreateTenant, admin_pb.CreateTenantRequest(name="b", plan="demo")
    )[0] == ("FAILED_PRECONDITION")


def test_tokens_change(own_admin: Admin, files: Path):
    """A token is good from the moment it is in the file to the one it is out."""
    create(own_admin)
    request, new = admin_pb.ListTenantsRequest(), "n" * 40
    listing = own_admin.tenants.ListTenants
    (files / "tokens").write_text(f"ci:{TOKEN}\nci:{new}\n")
    listing(request, **bearer(new))
    listing(request, **bearer(TOKEN))
    (files / "tokens").write_text(f"ci:{new}\n")
    assert refusal(listing, request)[0] == "UNAUTHENTICATED"
    (files / "tokens").write_text(f"ci:{new}\nnonsense {TOKEN}\n")
    assert refusal(listing, request, **bearer(new))[0] == "UNAUTHENTICATED"
    (files / "tokens").unlink()
    assert refusal(listing, request, **bearer(new))[0] == "UNAUTHENTICATED"
    (files / "tokens").touch(mode=0o600)
    (files / "tokens").write_text(f"ci:{TOKEN}\n")
    listing(request, **ME)

    _, out = own_admin.end()
    assert "line 2: write name:token" in out
    assert "No such file" in out
    assert TOKEN not in out


def test_log_lines(own_admin: Admin, ring: Keyring):
    """Every change is a line of the log, whoever made it: once, in order."""
    create(own_admin)
    made = own_admin.keys.CreateKey(admin_pb.CreateKeyRequest(tenant="acme"), **ME)
    ring.suspend_tenant("acme", "late")
    ring.revoke(made.key.key_id)
    wanted = [it.id for it in reversed(ring.log.latest(99)[0])]
    lines: list[str] = []
    recorded: list[dict] = []
    assert own_admin.popen.stdout is not None
    while len(recorded) < len(wanted):
        lines.append(own_admin.popen.stdout.readline())
        line = json.loads(lines[-1])
        if line["event"] == "audit.recorded":
            recorded.append(line)

    assert [it["entry"] for it in recorded] == wanted
    assert [(it["who"], it["action"]) for it in recorded] == [
        ("api:ci", "tenant.created"),
        ("api:ci", "key.created"),
        ("test", "tenant.suspended"),
        ("test", "key.revoked"),
    ]
    assert {it["key_id"] for it in recorded} == {"", made.key.key_id}
    assert made.secret.rpartition("_")[2] not in "".join(lines)


def test_moves_keys(admin: Admin, ring: Keyring, files: Path, redis_url: str):
    """What authz met under an older pepper is kept under the current one."""
    create(admin)
    pepper, early = Pepper.read(files / "pepper"), Pepper({"v1": OLD.encode()})
    before = Keyring(redis_url, early)
    key, record = before.create_key("acme")
    before.close()
    digest = pepper.digest(key)
    with redis.Redis.from_url(redis_url) as client:
        deadline = time.monotonic() + 30
        while ring.key(record.key_id).pepper == "v1":
            for message in ("nonsense", key_seen(digest, early.digest(key)), "a b c"):
                client.publish(MOVED, message)
            client.publish(MOVED, key_seen(early.digest(key), digest))
            assert time.monotonic() < deadline
            time.sleep(0.02)

    found = ring.find(key)
    assert found is not None
    assert found.pepper == "v2"
    entries, _ = ring.log.latest(99, key_id=record.key_id)
    assert [(it.who, it.action) for it in entries] == [
        ("admin", "key.moved"),
        ("unnamed", "key.created"),
    ]


@pytest.mark.usefixtures("process")
def test_its_redis_is_watched(metrics: MetricReceiver, redis_server: RedisServer):
    """Nobody else watches that of the keys, where the limits have one of their own."""
    servers: set[str] = set()
    deadline = time.monotonic() + 30
    while not servers:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        servers = {
            point.attributes[0].value.string_value
            for sent in metrics.sent
            for scope in sent.scope_metrics
            for metric in scope.metrics
            if metric.name == "tollhouse.redis.memory.used"
            for point in metric.gauge.data_points
        }

    assert {str(redis_server.socket_path)} == servers


def test_no_redis(files: Path):
    """A Redis that goes is UNAVAILABLE without its words, and back when it is."""
    folder = files / "r"
    folder.mkdir()
    listing = admin_pb.ListTenantsRequest()
    with running_redis(folder) as server:
        url = server.url
        settings = environment(files, url, files / "tokens", files / "pepper")
        running = running_admin(settings)
        admin = running.__enter__()
        create(admin)
    assert refusal(admin.tenants.ListTenants, listing) == (
        *("UNAVAILABLE", "the store does not answer"),
    )
    with running_redis(folder):
        admin.tenants.ListTenants(listing, **ME)
    running.__exit__(None, None, None)


def test_without_a_pepper(files: Path, redis_url: str):
    """All but making keys."""
    settings = environment(files, redis_url, files / "tokens", files / "pepper")
    del settings["TOLLHOUSE_PEPPER_FILE"]
    with running_admin(settings) as admin:
        create(admin)
        request = admin_pb.CreateKeyRequest(tenant="acme")
        assert refusal(admin.keys.CreateKey, request)[0] == "FAILED_PRECONDITION"


def test_no_reflection(admin: Admin):
    """What it offers is told by the proto only."""
    ask = admin.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=bytes,
        response_deserializer=bytes,
    )
    with pytest.raises(grpc.RpcError) as refused:
        next(ask(iter([b""]), timeout=30))

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("TOLLHOUSE_ADMIN_TOKENS_FILE", "/nowhere", "No such file"),
        ("TOLLHOUSE_PEPPER_FILE", "/nowhere", "No such file"),
        ("TOLLHOUSE_REDIS_URL", "http://x", "a Redis URL starts with"),
        ("TOLLHOUSE_LISTEN", "127.0.0.1:0", "mTLS only"),
        ("TOLLHOUSE_ADMIN_TOKENS_FILE", None, "is not set"),
    ],
)
def test_does_not_start(files: Path, setting: str, value: str | None, reason: str):
    """What is wrong is said, with the setting or file."""
    settings = environment(files, "unix:///nowhere", files / "tokens", files / "pepper")
    settings |= {setting: value or ""}
    if value is None:
        del settings[setting]
    done = subprocess.run(
        [sys.executable, "-m", "tollhouse.admin"],
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert reason in done.stderr
