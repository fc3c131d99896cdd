"""What a key is to allow, as it is asked for: checked whole, all faults at once.

Also the documents that bring keys in from files: they hold a digest, never a key.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from tollhouse.core import identity
from tollhouse.core.catalog import MODEL_NAME

LONGEST_LABEL: Final = 64
MOST_LABELS: Final = 16
LONGEST_REASON: Final = 256
MOST_SCOPES: Final = 64
"""Of scopes and of networks: authz remembers all of them for each key in use."""
LATEST: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""No later one can be shown."""

_PLAN = re.compile(MODEL_NAME)  # plans and models are named alike
_DIGEST = re.compile(r"(v[1-9][0-9]{0,5}):[0-9a-f]{64}")
# A whole key, or its secret part alone, wherever it stands.
_SECRET = re.compile(
    r"th_[A-Za-z0-9]{6,}_[A-Za-z0-9]{16,}"
    rf"|(?<![A-Za-z0-9])[A-Za-z0-9]{{{identity.SECRET_LENGTH}}}(?![A-Za-z0-9])"
)

# Aliases of YAML make small files deep and wide.
_DEEPEST = 2
_WHOLE_KEY: Final = (
    "looks like a whole key: whoever read this file has it. Revoke that key, and give "
    "the digest of a new one"
)

Fault = tuple[str, str]
"""A field, and what is wrong with it."""


class TermsError(ValueError):
    """What was asked for can't be meant; `faults` has all of it, field by field."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(text for _, text in faults))
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What a key is to allow. `plan` None: the tenant's. `expires_at`: Unix seconds."""

    scopes: str = identity.DEFAULT_SCOPES
    plan: str | None = None
    expires_at: float | None = None
    networks: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDocument:
    """A key that was made elsewhere: all of it but the key."""

    key_id: str
    digest: str
    tenant: str
    terms: KeyTerms


def check_terms(
    *,
    scopes: Iterable[str] = (identity.DEFAULT_SCOPES,),
    plan: str | None = None,
    expires_at: float | None = None,
    networks: Iterable[str] = (),
    labels: Iterable[str] = (),
    now: float | None = None,
) -> KeyTerms:
    """Make terms of what was asked for; with `now` the expiry must be later.

    Raises TermsError.
    """
    faults: list[Fault] = []
    checks: dict[str, Callable[[], Any]] = {
        "scopes": lambda: _few(identity.check_scopes(scopes)),
        "plan": lambda: _check_plan(plan),
        "expires_at": lambda: _check_expiry(expires_at, now),
        "networks": lambda: _few(identity.check_networks(networks)),
        "labels": lambda: check_labels(labels),
    }
    fields = {name: _checked(faults, name, run) for name, run in checks.items()}
    if faults:
        raise TermsError(faults)
    return KeyTerms(**fields)


def check_plan(plan: str) -> str:
    """Return the name of a plan. Raises ValueError for what no plan is called."""
    if not _PLAN.fullmatch(plan):
        raise ValueError(f"plan {plan!r} is no name of a plan")
    return plan


def check_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels, each once. Raises ValueError."""
    found = tuple(dict.fromkeys(labels))
    if len(found) > MOST_LABELS:
        raise ValueError(f"{len(found)} labels: a key may have {MOST_LABELS}")
    for label in found:
        if not 1 <= len(label) <= LONGEST_LABEL or not label.isprintable():
            raise ValueError(f"label: 1 to {LONGEST_LABEL} printable characters")
        if _SECRET.search(label):
            raise ValueError("label: it looks like a key, and labels are no secret")
    return found


def check_reason(reason: str) -> str:
    """Return why a tenant is suspended. Raises ValueError."""
    if len(reason) > LONGEST_REASON or not (reason.isprintable() or not reason):
        raise ValueError(f"reason: up to {LONGEST_REASON} printable characters")
    if _SECRET.search(reason):  # it stays in the audit log for good
        raise ValueError("reason: a part of it looks like a whole key; name its id")
    return reason


def check_digest(digest: str) -> str:
    """Return a digest as it is stored. Raises ValueError, which does not show it."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(
            "a digest is v1:<64 of 0-9a-f>, as `tollhouse keys digest` prints it"
        )
    return digest


def version_of(digest: str) -> str:
    """The version of the pepper that a digest was made with."""
    return digest.partition(":")[0]


def parse_moment(text: str) -> float:
    """Unix seconds of an ISO 8601 date or time, UTC unless it says otherwise.

    Raises ValueError.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def read_document(fields: Mapping[str, Any]) -> KeyDocument:
    """Make a document of what a file says. Raises TermsError with all faults.

    Their texts never show what looks like a key.
    """
    faults = list(_secrets_in(fields))
    faults += [
        (str(name), f"unknown field; known: {', '.join(_FIELDS)}")
        for name in fields
        if name not in _FIELDS and not _holds_secret(name)
    ]
    read = _Reader(fields, faults)
    key_id = read.text("key_id", _check_new_id)
    digest = read.text("digest", check_digest)
    tenant = read.text("tenant", identity.check_tenant)
    scopes = read.texts("scopes") if "scopes" in fields else [identity.DEFAULT_SCOPES]
    plan = read.text("plan", check_plan) if fields.get("plan") else None
    expires_at = read.moment("expires_at")
    networks, labels = read.texts("networks"), read.texts("labels")
    known = {field for field, _ in faults}
    try:
        terms = check_terms(
            scopes=scopes,
            plan=plan or None,
            expires_at=expires_at,
            networks=networks,
            labels=labels,
        )
    except TermsError as error:
        faults += [fault for fault in error.faults if fault[0] not in known]
        raise TermsError(faults) from error
    if faults:
        raise TermsError(faults)
    return KeyDocument(key_id=key_id, digest=digest, tenant=tenant, terms=terms)


_FIELDS: Final = (
    *("key_id", "digest", "tenant"),
    *("scopes", "plan", "expires_at", "networks", "labels"),
)


class _Reader:
    """Takes fields out of a document and notes what is wrong with each."""

    def __init__(self, fields: Mapping[str, Any], faults: list[Fault]) -> None:
        self._fields = fields
        self._faults = faults
        self._hidden = {field for field, _ in faults}

    def text(self, name: str, check: Callable[[str], str]) -> str:
        value = self._fields.get(name)
        if name in self._hidden:
            return ""
        if not isinstance(value, str):
            missing = value is None
            self._faults.append((name, "is not given" if missing else "must be text"))
            return ""
        return _checked(self._faults, name, lambda: check(value)) or ""

    def texts(self, name: str) -> list[str]:
        value = self._fields.get(name)
        if value is None or name in self._hidden:
            return []
        found = [value] if isinstance(value, str) else value
        if isinstance(found, list) and all(isinstance(it, str) for it in found):
            return found
        self._faults.append((name, "must be a list of texts"))
        return []

    def moment(self, name: str) -> float | None:
        value = self._fields.get(name)
        if value is None or name in self._hidden:
            return None
        # YAML knows dates by itself.
        text = value.isoformat() if isinstance(value, date) else value
        try:
            return parse_moment(text)
        except (ValueError, TypeError):
            self._faults.append((name, "write a date, as 2030-01-31 or with a time"))
            return None


def _check_new_id(key_id: str) -> str:
    identity.check_key_id(key_id)
    if key_id.startswith(identity.SUBJECT_PREFIX):
        raise ValueError(
            f"ids that begin with {identity.SUBJECT_PREFIX} are those of tokens' "
            "subjects: take another key"
        )
    return key_id


def _few(joined: str) -> str:
    if (count := len(joined.split())) > MOST_SCOPES:
        raise ValueError(f"{count} of them: a key may have {MOST_SCOPES}")
    return joined


def _check_plan(plan: str | None) -> str | None:
    return None if plan is None else check_plan(plan)


def _check_expiry(expires_at: float | None, now: float | None) -> float | None:
    if expires_at is None:
        return None
    if not 0 <= expires_at <= LATEST:
        raise ValueError("the expiry: the latest is 9999-12-31")
    if now is not None and expires_at <= now:
        raise ValueError("the expiry is not in the future")
    return expires_at


def _checked(faults: list[Fault], field: str, check: Callable[[], Any]) -> Any:
    """What a check returns, or None with its fault noted."""
    try:
        return check()
    except ValueError as error:
        faults.append((field, str(error)))
        return None


def _secrets_in(fields: Mapping[str, Any]) -> Iterator[Fault]:
    for name, value in fields.items():
        if _holds_secret(name):
            yield "a field's name", _WHOLE_KEY
        elif _holds_secret(value):
            yield str(name), _WHOLE_KEY


def _holds_secret(value: Any, depth: int = 0) -> bool:
    if isinstance(value, str):
        return _SECRET.search(value) is not None
    if depth == _DEEPEST:  # no field is so deep: refused as it is
        return False
    if isinstance(value, list):
        return any(_holds_secret(it, depth + 1) for it in value)
    if isinstance(value, Mapping):
        return any(
            _holds_secret(it, depth + 1) for pair in value.items() for it in pair
        )
    return False
