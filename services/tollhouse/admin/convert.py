"""Between the admin API's messages and what the keyring takes and gives."""

import base64
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from tollhouse.adapters.redis.audit import AuditEntry
from tollhouse.adapters.redis.records import ApiKey, Tenant
from tollhouse.core.identity import DEFAULT_SCOPES
from tollhouse.core.key_terms import (
    LATEST,
    Fault,
    KeyDocument,
    KeyTerms,
    TermsError,
    check_terms,
    read_document,
)
from tollhouse.pb.tollhouse.admin.v1 import admin_pb2 as admin_pb

PAGE_SIZE: Final = 100
MOST_PAGE_SIZE: Final = 1000

# As Timestamp's own bounds are.
_EARLIEST = datetime.min.replace(tzinfo=UTC).timestamp()
_ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

_TENANT_STATES = {
    "active": admin_pb.TENANT_STATE_ACTIVE,
    "suspended": admin_pb.TENANT_STATE_SUSPENDED,
    "deleted": admin_pb.TENANT_STATE_DELETED,
}
_KEY_STATES = {
    "active": admin_pb.KEY_STATE_ACTIVE,
    "expired": admin_pb.KEY_STATE_EXPIRED,
    "revoked": admin_pb.KEY_STATE_REVOKED,
}
# The API says times as its like do.
_API_NAMES = {"expires_at": "expire_time"}


def api_name(field: str) -> str:
    """What the API calls a field of ours."""
    return _API_NAMES.get(field, field)


def check(**fields: Callable[[], object]) -> None:
    """Run a check for each field. Raises TermsError with all that failed."""
    faults: list[Fault] = []
    for name, run in fields.items():
        try:
            run()
        except ValueError as error:
            faults.append((name, str(error)))
    if faults:
        raise TermsError(faults)


def page_size(size: int) -> int:
    """How many a page has. Raises TermsError."""
    if size < 0:
        raise TermsError([("page_size", "must not be negative")])
    return min(size or PAGE_SIZE, MOST_PAGE_SIZE)


def write_token(*place: str) -> str:
    """Name the place behind a page."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def read_token(token: str, parts: int) -> tuple[str, ...]:
    """Read what `write_token` wrote; as many empty parts for the first page.

    Raises TermsError for anything else.
    """
    if not token:
        return ("",) * parts
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True)
        place = msgspec.json.decode(text, type=tuple[str, ...])
    except (ValueError, msgspec.DecodeError):
        place = ()
    if len(place) != parts:
        raise TermsError([("page_token", "is not one of ours")])
    return place


def read_entry_token(token: str) -> str | None:
    """The audit entry a page ended with, None for the first. Raises TermsError."""
    (id_,) = read_token(token, 1)
    if not id_:
        return None
    parts = [int(it) for it in id_.split("-")] if _ENTRY_ID.fullmatch(id_) else []
    # Redis numbers entries from 0-1 to the last of 64 bits each.
    if not any(parts) or max(parts) >= 2**64:
        raise TermsError([("page_token", "is not one of ours")])
    return id_


def check_request_id(text: str) -> str:
    """Return a request id in its one form. Raises ValueError."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError("request_id: must be a UUID") from None


def from_pb_time(time: Timestamp) -> float:
    """Unix seconds."""
    return time.seconds + time.nanos / 1e9


def from_pb_since(time: Timestamp) -> float:
    """Unix seconds from which to list. Raises TermsError for what is no date."""
    since = from_pb_time(time)
    if not _EARLIEST <= since <= LATEST:
        raise TermsError([("start_time", "must be from the year 1 to 9999")])
    return since


def from_pb_terms(terms: admin_pb.KeyTerms, now: float) -> KeyTerms:
    """Read terms of a key to be made now. Raises TermsError."""
    expires_at = None
    if terms.HasField("expire_time"):
        expires_at = from_pb_time(terms.expire_time)
    try:
        return check_terms(
            scopes=list(terms.scopes) or [DEFAULT_SCOPES],
            plan=terms.plan or None,
            expires_at=expires_at,
            networks=terms.networks,
            labels=terms.labels,
            now=now,
        )
    except TermsError as error:
        raise TermsError(_named(error.faults, "terms.")) from error


def from_pb_documents(
    documents: Iterable[admin_pb.KeyDocument],
) -> list[KeyDocument]:
    """Read documents. Raises TermsError with the faults of all."""
    found, faults = [], []
    for number, document in enumerate(documents):
        try:
            found.append(read_document(_fields(document)))
        except TermsError as error:
            faults += [
                (f"documents[{number}].{_path(field)}", text)
                for field, text in error.faults
            ]
    if faults:
        raise TermsError(faults)
    return found


def to_pb_tenant(tenant: Tenant) -> admin_pb.Tenant:
    """Write a tenant."""
    return admin_pb.Tenant(
        name=tenant.name,
        plan=tenant.plan,
        state=_TENANT_STATES.get(tenant.state, admin_pb.TENANT_STATE_UNSPECIFIED),
        reason=tenant.reason,
        time_zone=tenant.overrides.zone,
        create_time=to_pb_time(tenant.created_at),
    )


def to_pb_key(key: ApiKey, now: float) -> admin_pb.Key:
    """Write a key's record."""
    return admin_pb.Key(
        key_id=key.key_id,
        tenant=key.tenant,
        state=_KEY_STATES[key.state(now)],
        terms=admin_pb.KeyTerms(
            scopes=key.scopes.split(),
            plan=key.plan or "",
            expire_time=to_pb_time(key.expires_at),
            networks=key.networks.split(),
            labels=key.labels,
        ),
        create_time=to_pb_time(key.created_at),
        revoke_time=to_pb_time(key.revoked_at),
        rotated_from=key.rotated_from or "",
        rotated_to=key.rotated_to or "",
        source=key.source or "",
        pepper=key.pepper,
    )


def to_pb_event(entry: AuditEntry) -> admin_pb.AuditEvent:
    """Write an audit entry."""
    return admin_pb.AuditEvent(
        event_id=entry.id,
        event_time=to_pb_time(entry.at),
        who=entry.who,
        action=entry.action,
        tenant=entry.tenant,
        key_id=entry.key_id,
        changes=ParseDict(dict(entry.changes), Struct()),
    )


def to_pb_time(unix: float | None) -> Timestamp | None:
    """Write a time, to the microsecond."""
    if unix is None:
        return None
    micros = round(unix * 1e6)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def _fields(document: admin_pb.KeyDocument) -> Mapping[str, Any]:
    """A document as a file has it; what is empty there is not given."""
    terms = document.terms
    fields: dict[str, Any] = {
        "key_id": document.key_id,
        "digest": document.digest,
        "tenant": document.tenant,
        "scopes": list(terms.scopes),
        "plan": terms.plan,
        "networks": list(terms.networks),
        "labels": list(terms.labels),
    }
    if terms.HasField("expire_time"):
        # What is no time of the calendar is no date in the file either.
        try:
            fields["expires_at"] = terms.expire_time.ToDatetime()
        except ValueError:
            fields["expires_at"] = ""
    return {name: value for name, value in fields.items() if value or value == ""}


def _named(faults: Iterable[Fault], prefix: str) -> list[Fault]:
    return [(prefix + api_name(field), text) for field, text in faults]


def _path(field: str) -> str:
    """Where the API has a field of a document."""
    if field in ("key_id", "digest", "tenant"):
        return field
    return f"terms.{api_name(field)}"
