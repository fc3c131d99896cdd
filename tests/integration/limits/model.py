"""What Redis must hold after each step: the pure reference, laid out as keys."""

from collections import Counter
from dataclasses import dataclass, field

from tollhouse.adapters.redis import shards
from tollhouse.core import exchange as ex
from tollhouse.core import limits
from tollhouse.core.limits import GRAINS, Granted, Refused, Reservation
from tollhouse.core.usage import Facts, UsageKind, UsageRecord

SERIES = ("input", "output", "cached_input", "reasoning")


def counts(usage):
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.reasoning_tokens,
    )


def owners(facts):
    return f"key:{facts.key_id}", f"model:{facts.tenant}:{facts.served_model}"


@dataclass
class Model:
    """Every key of one shard, as Python values; `now_ms` is its clock."""

    shard: int
    now_ms: int
    lease_ms: int
    exchanges: dict[str, ex.Stored] = field(default_factory=dict)
    buckets: dict[str, tuple[int, int]] = field(default_factory=dict)
    leases: dict[str, dict[str, int]] = field(default_factory=dict)
    records: list[UsageRecord] = field(default_factory=list)

    def reserve(self, reservation: Reservation) -> Granted | Refused | None:
        """None: the exchange is over, nothing may be reserved."""
        facts, id_ = reservation.facts, reservation.exchange_id
        stored = self.exchanges.get(id_)
        if not isinstance(stored, ex.Reserved | None):
            return None
        rules = limits.Limits(reservation.key, reservation.tenant_model)
        state = self._state(facts, rules)
        if stored is None:
            binding = rules.binding(facts.reserved_units, state)
            if binding is not None:
                return rules.refused(state, *binding)
            self._take(facts, rules)
            for owner in owners(facts):
                self._forget_expired(f"concurrent:{owner}")
            self._apply(id_, facts, ex.Reserve(id_, facts))
            self._lease(id_, facts)
        return rules.granted(self._state(facts, rules))

    def beat(self, beat: ex.Beat) -> None:
        self._apply(beat.exchange_id, beat.facts, beat)
        if isinstance(self.exchanges.get(beat.exchange_id), ex.Reserved):
            self._lease(beat.exchange_id, beat.facts)

    def settle(self, settlement: ex.Settlement) -> None:
        self._apply(settlement.exchange_id, settlement.facts, settlement)
        self._drop_lease(settlement.exchange_id, settlement.facts)

    def release(self, id_: str, facts: Facts) -> None:
        """By the ledger, which knows the id alone; the rest is in what is stored."""
        is_told = isinstance(self.exchanges.get(id_), ex.Reserved | ex.Abandoned)
        self._apply(id_, facts, ex.Release(id_, facts.tenant))
        if is_told:
            self._drop_lease(id_, facts)
        else:
            self.leases.get("leases", {}).pop(id_, None)

    def release_known(self, id_: str, facts: Facts) -> None:
        """By the one who reserved, who knows all the keys."""
        self._apply(id_, facts, ex.Release(id_, facts.tenant))
        self._drop_lease(id_, facts)

    def reap(self, id_: str, facts: Facts) -> None:
        stored = self.exchanges.get(id_)
        if isinstance(stored, ex.Reserved):
            if self.leases.get("leases", {}).get(id_, 0) > self.now_ms:
                return
            self._drop_lease(id_, facts)
        else:
            self.leases.get("leases", {}).pop(id_, None)
        self._apply(id_, facts, ex.Reap(id_))

    def lose(self, id_: str) -> None:
        self.exchanges.pop(id_, None)

    def used(self, key: str, rate: int) -> int:
        used, at = self.buckets.get(key, (0, self.now_ms))
        return limits.drain(used, rate, self.now_ms - at)

    def expected(self) -> dict[str, object]:
        """Every key of the shard that has a value, tag cut off."""
        keys: dict[str, object] = {}
        for id_, stored in self.exchanges.items():
            if stored is not None:
                keys[f"exchange:{id_}"] = _text(stored)
        for key, (used, at) in self.buckets.items():
            keys[key] = f"{used} {at}"
        keys |= {key: members for key, members in self.leases.items() if members}
        keys |= self._sums()
        if self.records:
            keys["outbox"] = [_entry(record) for record in self.records]
        return keys

    def _sums(self):
        sums: dict[str, Counter[str]] = {}
        for record in self.records:
            hour = record.ended_ms // 3_600_000
            of_hour = sums.setdefault(
                f"settled:{record.facts.tenant}:{hour}", Counter()
            )
            model = record.facts.served_model
            for name, count in zip(SERIES, counts(record.usage), strict=True):
                if count:
                    of_hour[f"{model}|{name}"] += count
            if record.kind is not UsageKind.ADJUSTMENT:
                of_hour[f"{model}|exchanges"] += 1
        return {key: dict(of_hour) for key, of_hour in sums.items() if of_hour}

    def _state(self, facts, rules):
        used = [
            0 if bucket is None else self.used(key, bucket.rate)
            for key, bucket in zip(_bucket_keys(facts), rules.buckets, strict=True)
        ]
        running = [
            0 if most is None else self._running(f"concurrent:{owner}")
            for owner, most in zip(owners(facts), rules.concurrent, strict=True)
        ]
        return [*used, *running]

    def _running(self, key):
        return sum(ends > self.now_ms for ends in self.leases.get(key, {}).values())

    def _take(self, facts, rules):
        """RESERVE writes the buckets that cost nothing, too."""
        for key, bucket in zip(_bucket_keys(facts), rules.buckets, strict=True):
            if bucket is not None:
                self._write(key, self.used(key, bucket.rate))

    def _apply(self, id_, facts, event):
        outcome = ex.advance(self.exchanges.get(id_), event, self.now_ms)
        self.exchanges[id_] = outcome.stored
        if outcome.record is not None:
            self.records.append(outcome.record)
        for key, rate, amount in zip(
            _bucket_keys(facts),
            facts.debits,
            (outcome.requests, outcome.units) * 2,
            strict=True,
        ):
            if rate and amount:
                used = limits.correct(self.used(key, rate), amount * GRAINS)
                self._write(key, used)

    def _write(self, key, used):
        self.buckets.pop(key, None)
        if used:
            self.buckets[key] = (used, self.now_ms)

    def _lease(self, id_, facts):
        for key in _lease_keys(facts):
            self.leases.setdefault(key, {})[id_] = self.now_ms + self.lease_ms

    def _drop_lease(self, id_, facts):
        for key in _lease_keys(facts):
            self.leases.get(key, {}).pop(id_, None)

    def _forget_expired(self, key):
        kept = self.leases.get(key, {}).items()
        self.leases[key] = {id_: ends for id_, ends in kept if ends > self.now_ms}


def _bucket_keys(facts):
    return [
        f"bucket:{owner}:{what}"
        for owner in owners(facts)
        for what in ("requests", "units")
    ]


def _lease_keys(facts):
    return [*(f"concurrent:{owner}" for owner in owners(facts)), "leases"]


def _text(stored):
    """An exchange as exchange.lua keeps it."""
    match stored:
        case ex.Settled():
            return "S"
        case ex.Released():
            return "X"
        case ex.Reserved(facts, charged, None):
            return f"R {charged}\n\n{facts.encode().decode()}"
        case ex.Reserved(facts, charged, ex.Beat() as beat):
            numbers = _numbers(beat, beat.first_ms, beat.at_ms)
            return f"R {charged}\n{numbers}\n{facts.encode().decode()}"
        case ex.Abandoned(charged, record):
            numbers = _numbers(record, record.first_token_ms or 0, record.ended_ms)
            return f"A {charged}\n{numbers}\n{record.facts.encode().decode()}"


def _numbers(it, first_ms, last_ms):
    sources = (it.input_source.value, it.output_source.value)
    numbers = (*counts(it.usage), *sources, it.started_ms, first_ms, last_ms)
    return " ".join(map(str, numbers))


def _entry(record):
    entry = {
        "id": record.record_id,
        "kind": str(record.kind.value),
        "in": str(record.usage.input_tokens),
        "out": str(record.usage.output_tokens),
        "cached": str(record.usage.cached_input_tokens),
        "reasoning": str(record.usage.reasoning_tokens),
        "in_src": str(record.input_source.value),
        "out_src": str(record.output_source.value),
        "started_ms": str(record.started_ms),
        "first_ms": str(record.first_token_ms or 0),
        "ended_ms": str(record.ended_ms),
        "flags": record.flags,
        "facts": record.facts.encode().decode(),
    }
    return entry | ({"corrects": record.corrects} if record.corrects else {})


def dump(redis, shard):
    """Every key of a shard in a real Redis, in the form of `Model.expected`."""
    tag = f"{{s{shard}}}:"
    keys = {}
    for name in redis.scan_iter(match=tag.replace("{", "\\{") + "*", count=1000):
        key = name.decode().removeprefix(tag)
        match redis.type(name):
            case b"string":
                keys[key] = redis.get(name).decode()
            case b"zset":
                members = redis.zrange(name, 0, -1, withscores=True)
                keys[key] = {member.decode(): int(score) for member, score in members}
            case b"hash":
                fields = redis.hgetall(name).items()
                keys[key] = {field.decode(): int(value) for field, value in fields}
            case b"stream":
                keys[key] = [
                    {k.decode(): v.decode() for k, v in entry.items()}
                    for _, entry in redis.xrange(name)
                ]
    return keys


def shard_of(tenant):
    return shards.shard(tenant)
