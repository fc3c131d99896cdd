"""The three services of the admin API, over the keyring the command line uses."""

import time
from functools import partial

import grpc

from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.new_keys import DEFAULT_GRACE_SECONDS
from tollhouse.admin import convert
from tollhouse.admin.calls import Calls
from tollhouse.admin.refusal import Context
from tollhouse.core.identity import check_key_id, check_tenant
from tollhouse.core.key_terms import check_plan, check_reason
from tollhouse.core.periods import check_zone
from tollhouse.pb.tollhouse.admin.v1 import admin_pb2 as admin_pb
from tollhouse.pb.tollhouse.admin.v1 import admin_pb2_grpc as admin_grpc

SERVICES = (
    "tollhouse.admin.v1.TenantService",
    "tollhouse.admin.v1.KeyService",
    "tollhouse.admin.v1.AuditService",
)
# What one page of the audit log may cost where few entries match.
_MOST_READ = 20_000


def add_to(server: grpc.aio.Server, calls: Calls) -> None:
    """Register all services with a server."""
    admin_grpc.add_TenantServiceServicer_to_server(Tenants(calls), server)
    admin_grpc.add_KeyServiceServicer_to_server(Keys(calls), server)
    admin_grpc.add_AuditServiceServicer_to_server(Audit(calls), server)


class Tenants(admin_grpc.TenantServiceServicer):
    """Who is billed."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def CreateTenant(  # noqa: N802
        self, request: admin_pb.CreateTenantRequest, context: Context
    ) -> admin_pb.CreateTenantResponse:
        """Create it, or find it as asked for."""

        def work(ring: Keyring) -> admin_pb.CreateTenantResponse:
            zone = request.time_zone or None
            convert.check(
                name=partial(check_tenant, request.name),
                plan=partial(check_plan, request.plan),
                time_zone=partial(check_zone, zone or "UTC"),
            )
            tenant, is_new = ring.create_tenant(request.name, request.plan, zone)
            return admin_pb.CreateTenantResponse(
                tenant=convert.to_pb_tenant(tenant), created=is_new
            )

        return await self._calls.write(context, work)

    async def GetTenant(  # noqa: N802
        self, request: admin_pb.GetTenantRequest, context: Context
    ) -> admin_pb.GetTenantResponse:
        """Return it."""

        def work(ring: Keyring) -> admin_pb.GetTenantResponse:
            _check_name(request.name)
            tenant = ring.tenant(request.name)
            return admin_pb.GetTenantResponse(tenant=convert.to_pb_tenant(tenant))

        return await self._calls.read(context, work)

    async def ListTenants(  # noqa: N802
        self, request: admin_pb.ListTenantsRequest, context: Context
    ) -> admin_pb.ListTenantsResponse:
        """One page, by name."""

        def work(ring: Keyring) -> admin_pb.ListTenantsResponse:
            size = convert.page_size(request.page_size)
            (after,) = convert.read_token(request.page_token, 1)
            found = ring.tenants(
                after=after, limit=size + 1, deleted=request.show_deleted
            )
            page = found[:size]
            token = convert.write_token(page[-1].name) if len(found) > size else ""
            return admin_pb.ListTenantsResponse(
                tenants=map(convert.to_pb_tenant, page), next_page_token=token
            )

        return await self._calls.read(context, work)

    async def UpdateTenant(  # noqa: N802
        self, request: admin_pb.UpdateTenantRequest, context: Context
    ) -> admin_pb.UpdateTenantResponse:
        """Change what is given."""

        def work(ring: Keyring) -> admin_pb.UpdateTenantResponse:
            plan = request.plan if request.HasField("plan") else None
            zone = request.time_zone if request.HasField("time_zone") else None
            convert.check(
                name=partial(check_tenant, request.name),
                plan=partial(check_plan, "any" if plan is None else plan),
                time_zone=partial(check_zone, "UTC" if zone is None else zone),
            )
            tenant = ring.change_tenant(request.name, plan=plan, time_zone=zone)
            return admin_pb.UpdateTenantResponse(tenant=convert.to_pb_tenant(tenant))

        return await self._calls.write(context, work)

    async def SuspendTenant(  # noqa: N802
        self, request: admin_pb.SuspendTenantRequest, context: Context
    ) -> admin_pb.SuspendTenantResponse:
        """Refuse its requests."""

        def work(ring: Keyring) -> admin_pb.SuspendTenantResponse:
            convert.check(
                name=partial(check_tenant, request.name),
                reason=partial(check_reason, request.reason),
            )
            tenant, _ = ring.suspend_tenant(request.name, request.reason)
            return admin_pb.SuspendTenantResponse(tenant=convert.to_pb_tenant(tenant))

        return await self._calls.write(context, work)

    async def ResumeTenant(  # noqa: N802
        self, request: admin_pb.ResumeTenantRequest, context: Context
    ) -> admin_pb.ResumeTenantResponse:
        """Let its requests in."""

        def work(ring: Keyring) -> admin_pb.ResumeTenantResponse:
            _check_name(request.name)
            tenant, _ = ring.resume_tenant(request.name)
            return admin_pb.ResumeTenantResponse(tenant=convert.to_pb_tenant(tenant))

        return await self._calls.write(context, work)

    async def DeleteTenant(  # noqa: N802
        self, request: admin_pb.DeleteTenantRequest, context: Context
    ) -> admin_pb.DeleteTenantResponse:
        """End it and its keys, for good."""

        def work(ring: Keyring) -> admin_pb.DeleteTenantResponse:
            _check_name(request.name)
            tenant, revoked, _ = ring.delete_tenant(request.name)
            return admin_pb.DeleteTenantResponse(
                tenant=convert.to_pb_tenant(tenant), revoked_keys=revoked
            )

        return await self._calls.write(context, work)


class Keys(admin_grpc.KeyServiceServicer):
    """What tenants call with."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def CreateKey(  # noqa: N802
        self, request: admin_pb.CreateKeyRequest, context: Context
    ) -> admin_pb.CreateKeyResponse:
        """Create one; its text is in this answer only."""

        def work(ring: Keyring) -> admin_pb.CreateKeyResponse:
            now = time.time()
            request_id = request.request_id or None
            convert.check(
                tenant=partial(check_tenant, request.tenant),
                request_id=partial(convert.check_request_id, request_id or _NO_REQUEST),
            )
            terms = convert.from_pb_terms(request.terms, now)
            if request_id is not None:
                request_id = convert.check_request_id(request_id)
            key, record = ring.create_key(
                request.tenant,
                scopes=terms.scopes,
                plan=terms.plan,
                expires_at=terms.expires_at,
                networks=[terms.networks],
                labels=terms.labels,
                request_id=request_id,
            )
            return admin_pb.CreateKeyResponse(
                key=convert.to_pb_key(record, now), secret=key
            )

        return await self._calls.write(context, work)

    async def GetKey(  # noqa: N802
        self, request: admin_pb.GetKeyRequest, context: Context
    ) -> admin_pb.GetKeyResponse:
        """Return it."""

        def work(ring: Keyring) -> admin_pb.GetKeyResponse:
            _check_id(request.key_id)
            key = convert.to_pb_key(ring.key(request.key_id), time.time())
            return admin_pb.GetKeyResponse(key=key)

        return await self._calls.read(context, work)

    async def ListKeys(  # noqa: N802
        self, request: admin_pb.ListKeysRequest, context: Context
    ) -> admin_pb.ListKeysResponse:
        """One page, by tenant and key id."""

        def work(ring: Keyring) -> admin_pb.ListKeysResponse:
            size, now = convert.page_size(request.page_size), time.time()
            tenant, key_id = convert.read_token(request.page_token, 2)
            if request.tenant:
                convert.check(tenant=partial(check_tenant, request.tenant))
            found = ring.keys_page(
                request.tenant or None, after=(tenant, key_id), limit=size + 1
            )
            page, token = found[:size], ""
            if len(found) > size:
                token = convert.write_token(page[-1].tenant, page[-1].key_id)
            return admin_pb.ListKeysResponse(
                keys=[convert.to_pb_key(key, now) for key in page],
                next_page_token=token,
            )

        return await self._calls.read(context, work)

    async def RotateKey(  # noqa: N802
        self, request: admin_pb.RotateKeyRequest, context: Context
    ) -> admin_pb.RotateKeyResponse:
        """Create one in another's place; its text is in this answer only."""

        def work(ring: Keyring) -> admin_pb.RotateKeyResponse:
            _check_id(request.key_id)
            grace, expires_at = DEFAULT_GRACE_SECONDS, None
            if request.HasField("grace"):
                grace = request.grace.seconds + request.grace.nanos / 1e9
            if request.HasField("expire_time"):
                expires_at = convert.from_pb_time(request.expire_time)
            made = ring.rotate(
                request.key_id,
                grace_seconds=grace,
                expires_at=expires_at,
                again=request.again,
            )
            now = time.time()
            return admin_pb.RotateKeyResponse(
                key=convert.to_pb_key(made.new, now),
                secret=made.key,
                old_key=convert.to_pb_key(made.old, now),
            )

        return await self._calls.write(context, work)

    async def RevokeKey(  # noqa: N802
        self, request: admin_pb.RevokeKeyRequest, context: Context
    ) -> admin_pb.RevokeKeyResponse:
        """End it for good."""

        def work(ring: Keyring) -> admin_pb.RevokeKeyResponse:
            _check_id(request.key_id)
            record, _ = ring.revoke(request.key_id)
            return admin_pb.RevokeKeyResponse(
                key=convert.to_pb_key(record, time.time())
            )

        return await self._calls.write(context, work)

    async def ImportKeys(  # noqa: N802
        self, request: admin_pb.ImportKeysRequest, context: Context
    ) -> admin_pb.ImportKeysResponse:
        """Make the keys of a source what the documents say."""

        def work(ring: Keyring) -> admin_pb.ImportKeysResponse:
            done = ring.import_keys(
                convert.from_pb_documents(request.documents),
                source=request.source,
                prune=request.prune,
                dry_run=request.validate_only,
            )
            return admin_pb.ImportKeysResponse(
                created=done.created,
                changed=done.changed,
                unchanged=done.unchanged,
                revoked=done.pruned,
                ended=done.ended,
            )

        return await self._calls.write(context, work)


class Audit(admin_grpc.AuditServiceServicer):
    """Who changed what, and when."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def ListAuditEvents(  # noqa: N802
        self, request: admin_pb.ListAuditEventsRequest, context: Context
    ) -> admin_pb.ListAuditEventsResponse:
        """One page, newest first."""

        def work(ring: Keyring) -> admin_pb.ListAuditEventsResponse:
            since = None
            if request.HasField("start_time"):
                since = convert.from_pb_since(request.start_time)
            entries, end = ring.log.latest(
                convert.page_size(request.page_size),
                tenant=request.tenant or None,
                key_id=request.key_id or None,
                since=since,
                before=convert.read_entry_token(request.page_token),
                most_read=_MOST_READ,
            )
            return admin_pb.ListAuditEventsResponse(
                events=map(convert.to_pb_event, entries),
                next_page_token=convert.write_token(end) if end else "",
            )

        return await self._calls.read(context, work)


_NO_REQUEST = "00000000-0000-0000-0000-000000000000"


def _check_name(name: str) -> None:
    convert.check(name=partial(check_tenant, name))


def _check_id(key_id: str) -> None:
    convert.check(key_id=partial(check_key_id, key_id))
