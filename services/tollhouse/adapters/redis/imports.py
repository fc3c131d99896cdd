"""Keys that were made elsewhere and are kept in files: digests come in, keys never."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from tollhouse.adapters.pepper import is_older
from tollhouse.adapters.redis.blocking import translated
from tollhouse.adapters.redis.records import (
    ACTIVE,
    DELETED,
    ApiKey,
    key_entry,
    key_id_entry,
    source_entry,
    tenant_entry,
    to_key,
    to_tenant,
)
from tollhouse.adapters.redis.ring import AT_ONCE, Change, Look, Ring
from tollhouse.core.key_terms import KeyDocument, TermsError, version_of

MOST_DOCUMENTS: Final = 10_000

_SOURCE = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}")

Fault = tuple[int, str]
"""Number of a document, from 0, and what is wrong with it."""


class NotImportedError(ValueError):
    """Nothing was imported; `faults` has all reasons, by document."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(text for _, text in faults))
        self.faults = faults


@dataclass(slots=True)
class Imported:
    """Key ids by what an import did, or would do.

    `ended`: in the file and over, which an import never undoes. `pruned`: revoked
    because the file has them no more.
    """

    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)

    def add(self, other: "Imported") -> None:
        """Take in what another part of the import did."""
        self.created += other.created
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.ended += other.ended
        self.pruned += other.pruned


class Imports(Ring):
    """Takes the keys of a file over. Every method raises Unavailable without Redis."""

    def import_keys(
        self,
        documents: Sequence[KeyDocument],
        *,
        source: str,
        prune: bool = False,
        dry_run: bool = False,
    ) -> Imported:
        """Make the keys of a source what its documents say; again changes nothing.

        With `prune`, keys that came from the source and are no longer there are
        revoked. Raises NotImportedError with all faults: then nothing is written.
        What others change while it writes can stop it half way, with the same error;
        import again then. TermsError for a source that is none.
        """
        check_source(source)
        if prune and not documents:
            # A pipe that failed before us is an empty file, too.
            what = (
                "no keys to import: with prune that would end every key of the source"
            )
            raise TermsError([("prune", what)])
        if len(documents) > MOST_DOCUMENTS:
            what = f"{len(documents)} keys: at most {MOST_DOCUMENTS} at once"
            raise TermsError([("documents", what)])
        pepper = self._current_pepper()
        versions = () if pepper is None else pepper.versions
        step = _Step(source, versions, self._clock())
        with translated():
            faults = [
                *_repeated(documents),
                *step.faults(_Stored(Look(self._redis), documents), documents),
            ]
            if faults:
                raise NotImportedError(sorted(faults))
            earlier = set[str]()
            if prune:
                earlier = self._redis.smembers(source_entry(source))
            gone = sorted(earlier - {it.key_id for it in documents})
            if dry_run:
                return step.would(Look(self._redis), documents, gone)
        done = Imported()
        for start in range(0, len(documents), AT_ONCE):
            some = documents[start : start + AT_ONCE]
            done.add(self._change(partial(step.write, documents=some, start=start)))
        for start in range(0, len(gone), AT_ONCE):
            ids = gone[start : start + AT_ONCE]
            done.add(self._change(partial(step.end, key_ids=ids)))
        return done


class _Stored:
    """What is there of the tenants and keys that documents name."""

    def __init__(
        self,
        look: Look,
        documents: Sequence[KeyDocument],
        key_ids: Sequence[str] = (),
    ) -> None:
        names = sorted({it.tenant for it in documents})
        found = look.many_fields([*map(tenant_entry, names)])
        self.tenants = {
            name: to_tenant(name, fields)
            for name, fields in zip(names, found, strict=True)
            if fields
        }
        ids = sorted({it.key_id for it in documents} | set(key_ids))
        stored = look.texts([*map(key_id_entry, ids)])
        digests = sorted({it.digest for it in documents} | {it for it in stored if it})
        found = look.many_fields([*map(key_entry, digests)])
        self.by_digest = {
            digest: to_key(digest, fields)
            for digest, fields in zip(digests, found, strict=True)
            if fields
        }
        self.by_id = {
            key_id: (digest, self.by_digest[digest])
            for key_id, digest in zip(ids, stored, strict=True)
            if digest in self.by_digest
        }


class _Step:
    """What an import makes of documents."""

    def __init__(self, source: str, versions: Sequence[str], now: float) -> None:
        """`versions` of the peppers at hand, that of new digests first, if known."""
        self._source = source
        self._versions = versions
        self._now = now

    def faults(
        self, stored: _Stored, documents: Iterable[KeyDocument], start: int = 0
    ) -> list[Fault]:
        """What forbids the import; documents are numbered from `start`."""
        return [
            (at, text)
            for at, it in enumerate(documents, start)
            for check in (_tenant_fault, self._key_fault, self._pepper_fault)
            if (text := check(stored, it))
        ]

    def would(
        self, look: Look, documents: Sequence[KeyDocument], gone: Sequence[str]
    ) -> Imported:
        """Say what would be done."""
        stored, done = _Stored(look, documents, gone), Imported()
        for it in documents:
            self._take(None, stored, it, done)
        self._end(None, stored, gone, done)
        return done

    def write(
        self, change: Change, documents: Sequence[KeyDocument], start: int
    ) -> Imported:
        """Write some. Raises NotImportedError for what came in between."""
        stored, done = _Stored(change, documents), Imported()
        if faults := self.faults(stored, documents, start):
            raise NotImportedError(faults)
        for it in documents:
            self._take(change, stored, it, done)
        return done

    def end(self, change: Change, key_ids: Sequence[str]) -> Imported:
        """Revoke some that are no longer in the file."""
        done = Imported()
        self._end(change, _Stored(change, (), key_ids), key_ids, done)
        return done

    def _take(
        self, change: Change | None, stored: _Stored, it: KeyDocument, done: Imported
    ) -> None:
        digest, old = stored.by_id.get(it.key_id, (it.digest, None))
        if old is not None and self._is_over(old):
            done.ended.append(it.key_id)
            return
        new = self._wanted(it, old)
        newest = self._versions[0] if self._versions else None
        is_moved = digest != it.digest and version_of(it.digest) == newest
        if old is None:
            action, where = "key.imported", done.created
        else:
            same = new == old and not is_moved
            action, where = "key.changed", done.unchanged if same else done.changed
        where.append(it.key_id)
        if change is None:
            return
        change.put_key(action, digest, old, new)
        if is_moved:
            change.move_key(digest, it.digest, new, version_of(it.digest))

    def _is_over(self, key: ApiKey) -> bool:
        """Whether a key ended, or is to end for its successor: for good."""
        return key.state(self._now) != ACTIVE or key.rotated_to is not None

    def _end(
        self,
        change: Change | None,
        stored: _Stored,
        key_ids: Iterable[str],
        done: Imported,
    ) -> None:
        for key_id in key_ids:
            digest, old = stored.by_id.get(key_id, ("", None))
            if old is None or old.revoked_at is not None:
                continue
            done.pruned.append(key_id)
            if change is not None:
                ended = replace(old, revoked_at=self._now)
                change.put_key("key.revoked", digest, old, ended)

    def _wanted(self, it: KeyDocument, old: ApiKey | None) -> ApiKey:
        terms = it.terms
        if old is None:
            return ApiKey(
                it.key_id,
                it.tenant,
                terms.plan,
                terms.scopes,
                terms.networks,
                terms.labels,
                created_at=self._now,
                expires_at=terms.expires_at,
                revoked_at=None,
                source=self._source,
                pepper=version_of(it.digest),
            )
        return replace(
            old,
            plan=terms.plan,
            scopes=terms.scopes,
            networks=terms.networks,
            labels=terms.labels,
            expires_at=terms.expires_at,
            source=self._source,
        )

    def _key_fault(self, stored: _Stored, it: KeyDocument) -> str:
        owner = stored.by_digest.get(it.digest)
        if owner is not None and owner.key_id != it.key_id:
            return f"digest: key {owner.key_id} has it"
        digest, old = stored.by_id.get(it.key_id, (it.digest, None))
        if old is None:
            return ""
        if old.tenant != it.tenant:
            return f"key_id: it is a key of tenant {old.tenant}"
        if version_of(digest) == version_of(it.digest) and digest != it.digest:
            return "digest: another one is stored; a new key has a new key id"
        if old.source not in (None, self._source):
            return f"key_id: it comes from source {old.source}"
        if old.source is None and digest != it.digest:
            return "key_id: it was not imported, and its digest can't be compared"
        return ""

    def _pepper_fault(self, stored: _Stored, it: KeyDocument) -> str:
        """A digest that authz could not look up; without peppers nobody knows."""
        version = version_of(it.digest)
        if not self._versions or version in self._versions:
            return ""
        digest, old = stored.by_id.get(it.key_id, (it.digest, None))
        if old is not None and old.source == self._source:
            # The file's digest is not needed any more: it was replaced, or never will.
            is_at_hand = version_of(digest) in self._versions
            if self._is_over(old) or (is_at_hand and is_older(it.digest, digest)):
                return ""
        return f"digest: pepper {version} is not in the pepper file"


def _tenant_fault(stored: _Stored, it: KeyDocument) -> str:
    tenant = stored.tenants.get(it.tenant)
    if tenant is None:
        return f"tenant: there is no {it.tenant}"
    _, old = stored.by_id.get(it.key_id, ("", None))
    is_ended = old is not None and old.revoked_at is not None
    if tenant.state == DELETED and not is_ended:
        return f"tenant: {it.tenant} was deleted"
    return ""


def check_source(name: str) -> str:
    """Return the name of a source. Raises TermsError."""
    if not _SOURCE.fullmatch(name):
        what = f"source {name!r}: 1 to 64 of a-z, 0-9, '.', '_', '/' and '-'"
        raise TermsError([("source", what)])
    return name


def _repeated(documents: Iterable[KeyDocument]) -> list[Fault]:
    faults: list[Fault] = []
    ids: set[str] = set()
    digests: set[str] = set()
    for at, it in enumerate(documents):
        if it.key_id in ids:
            faults.append((at, f"key_id: {it.key_id} is given twice"))
        elif it.digest in digests:
            faults.append((at, "digest: it is given twice"))
        ids.add(it.key_id)
        digests.add(it.digest)
    return faults
