"""The life of tenants and keys, against a plain model, on a real Redis."""

import dataclasses
import json

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.keyring import Keyring, KeyringError
from tollhouse.core.entitlement import AS_PLANNED, Override

OLD = Pepper({"v1": b"1" * 32})
BOTH = Pepper({"v2": b"2" * 32, "v1": b"1" * 32})
NAMES = st.sampled_from(["acme", "beta", "gamma"])
TURNS = st.sampled_from([*("suspend", "resume") * 2, "delete"])
GRACES = st.sampled_from([0.0, 10.0, 1000.0])
LIVES = st.sampled_from([None, 5.0, 500.0])


@dataclasses.dataclass
class Model:
    """What is to be true, said as simply as can be."""

    now: float = 1_000_000.0
    tenants: dict[str, str] = dataclasses.field(default_factory=dict)
    keys: dict[str, dict] = dataclasses.field(default_factory=dict)
    log: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

    def state(self, key_id: str) -> str:
        key = self.keys[key_id]
        if key["revoked"]:
            return "revoked"
        is_over = key["ends"] is not None and self.now >= key["ends"]
        return "expired" if is_over else "active"

    def line(self, key_id: str) -> dict:
        """The latest of those that took a key's place, itself if there is none."""
        key = self.keys[key_id]
        return self.line(key["next"]) if key["next"] else key

    def note(self, action: str, tenant: str, key_id: str = "") -> None:
        self.log.append((action, tenant, key_id))


class Lifecycle(RuleBasedStateMachine):
    """Does at random what operators do; after each step both must say the same."""

    url = ""
    made = Bundle("made")

    @initialize()
    def begin(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        self.model = Model()
        self.ring = Keyring(self.url, BOTH, who="test", clock=lambda: self.model.now)
        self.early = Keyring(self.url, OLD, who="test", clock=lambda: self.model.now)
        self.secrets: dict[str, str] = {}
        self.create_tenant("acme", "demo")
        self.create_tenant("beta", "demo")

    def teardown(self) -> None:
        if hasattr(self, "ring"):
            self.ring.close()
            self.early.close()

    @rule(name=NAMES, plan=st.sampled_from(["demo", "gold"]))
    def create_tenant(self, name: str, plan: str) -> None:
        state = self.model.tenants.get(name)
        if state is None:
            assert self.ring.create_tenant(name, "demo")[1]
            self.model.tenants[name] = "active"
            self.model.note("tenant.created", name)
        elif state == "deleted" or plan != "demo":
            with pytest.raises(KeyringError):
                self.ring.create_tenant(name, plan)
        else:
            assert not self.ring.create_tenant(name, plan)[1]

    @rule(name=NAMES, word=TURNS)
    def turn(self, name: str, word: str) -> None:
        state = self.model.tenants.get(name)
        work = getattr(self.ring, f"{word}_tenant")
        if state is None or (state == "deleted" and word != "delete"):
            with pytest.raises(KeyringError):
                work(name)
            return
        after = {"suspend": "suspended", "resume": "active", "delete": "deleted"}[word]
        *_, is_new = work(name)
        assert is_new == (state != after)
        if not is_new:
            return
        self.model.tenants[name] = after
        action = {"suspend": "suspended", "resume": "resumed", "delete": "deleted"}
        self.model.note(f"tenant.{action[word]}", name)
        if after == "deleted":
            for key_id in sorted(self.model.keys):
                key = self.model.keys[key_id]
                if key["tenant"] == name and not key["revoked"]:
                    key["revoked"] = True
                    self.model.note("key.revoked", name, key_id)

    @rule(target=made, name=NAMES, life=LIVES, by_old=st.booleans())
    def create_key(self, name: str, life: float | None, by_old: bool) -> str:
        ring = self.early if by_old else self.ring
        ends = None if life is None else self.model.now + life
        if self.model.tenants.get(name) not in ("active", "suspended"):
            with pytest.raises(KeyringError):
                ring.create_key(name, expires_at=ends)
            return ""
        key, record = ring.create_key(name, expires_at=ends, labels=["x"])
        self._made(key, record.key_id, name, ends, "v1" if by_old else "v2")
        return record.key_id

    @rule(target=made, key_id=made, grace=GRACES, life=LIVES, again=st.booleans())
    def rotate(self, key_id: str, grace: float, life: float | None, again: bool) -> str:
        if not key_id:
            return ""
        ends = None if life is None else self.model.now + life
        old = self.model.keys[key_id]
        line_ends = self.model.line(key_id)["ends"]
        is_line_over = line_ends is not None and self.model.now >= line_ends
        if (
            self.model.tenants[old["tenant"]] == "deleted"
            or self.model.state(key_id) != "active"
            or (old["next"] and not again)
            or (ends is None and is_line_over)
        ):
            with pytest.raises(KeyringError):
                self.ring.rotate(
                    key_id, grace_seconds=grace, expires_at=ends, again=again
                )
            return ""
        made = self.ring.rotate(
            key_id, grace_seconds=grace, expires_at=ends, again=again
        )
        if ends is None:
            ends = line_ends
        new_id = made.new.key_id
        self._made(made.key, new_id, old["tenant"], ends, "v2")
        self.model.note("key.rotated", old["tenant"], key_id)
        over = self.model.now + grace
        old["ends"] = over if old["ends"] is None else min(old["ends"], over)
        old["next"] = new_id
        self.model.keys[new_id]["limit"] = old["limit"]
        return new_id

    @rule(key_id=made)
    def revoke(self, key_id: str) -> None:
        if not key_id:
            return
        key = self.model.keys[key_id]
        assert self.ring.revoke(key_id)[1] != key["revoked"]
        if not key["revoked"]:
            key["revoked"] = True
            self.model.note("key.revoked", key["tenant"], key_id)

    @rule(key_id=made, limit=st.sampled_from([None, 1, 2]))
    def override(self, key_id: str, limit: int | None) -> None:
        if not key_id:
            return
        key = self.model.keys[key_id]
        wanted = AS_PLANNED if limit is None else Override(concurrent=limit)
        self.ring.override_key(key_id, lambda _: wanted)
        if key["limit"] != limit:
            key["limit"] = limit
            self.model.note("key.changed", key["tenant"], key_id)

    @rule(key_id=made)
    def move(self, key_id: str) -> None:
        if not key_id:
            return
        secret = self.secrets[key_id]
        moved = self.ring.move(OLD.digest(secret), BOTH.digest(secret))
        key = self.model.keys[key_id]
        assert (moved is not None) == (key["pepper"] == "v1")
        if moved is not None:
            key["pepper"] = "v2"
            self.model.note("key.moved", key["tenant"], key_id)

    @rule(key_id=consumes(made))
    def forget(self, key_id: str) -> None:
        """Leave a key as it is from now on."""

    @rule(seconds=st.sampled_from([1.0, 20.0, 2000.0]))
    def wait(self, seconds: float) -> None:
        self.model.now += seconds

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "ring"):
            return
        tenants = {it.name: it.state for it in self.ring.tenants(deleted=True)}
        assert self.model.tenants == tenants
        keys = self.ring.keys()
        found = {it.key_id: it for it in keys}
        assert set(self.model.keys) == set(found)
        for key_id, key in self.model.keys.items():
            record = found[key_id]
            limit = record.override.concurrent
            assert (
                key["tenant"],
                self.model.state(key_id),
                key["ends"],
                key["next"],
                key["pepper"],
                key["limit"],
            ) == (
                record.tenant,
                record.state(self.model.now),
                record.expires_at,
                record.rotated_to,
                record.pepper,
                limit,
            )
            assert self.ring.find(self.secrets[key_id]) == record
        entries, _ = self.ring.log.latest(100_000)
        entries.reverse()
        assert self.model.log == [(it.action, it.tenant, it.key_id) for it in entries]
        told = json.dumps([dataclasses.asdict(it) for it in entries])
        for secret in self.secrets.values():
            assert secret.rpartition("_")[2] not in told
            for digest in BOTH.digests(secret):
                assert digest.partition(":")[2] not in told

    def _made(
        self, key: str, key_id: str, tenant: str, ends: float | None, pepper: str
    ) -> None:
        self.secrets[key_id] = key
        self.model.keys[key_id] = {
            "tenant": tenant,
            "ends": ends,
            "revoked": False,
            "next": None,
            "pepper": pepper,
            "limit": None,
        }
        self.model.note("key.created", tenant, key_id)


def test_lifecycle(redis_url: str):
    """States follow the model; the log has each effective change once, in order."""
    machine = type("Machine", (Lifecycle,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
