"""How exchanges, records and flights look in Redis, and all keys of a real one."""

from tollhouse.core import exchange as ex


def counts(usage):
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.reasoning_tokens,
    )


def exchange_text(stored):
    """An exchange as exchange.lua keeps it."""
    match stored:
        case ex.Settled():
            return "S"
        case ex.Released():
            return "X"
        case ex.Reserved(facts, charged, beat, requests):
            numbers = _numbers(beat, beat.first_ms, beat.at_ms) if beat else ""
            more = f" {requests}" if requests > 1 else ""
            head = f"R {charged.units} {charged.money}{more}"
            return f"{head}\n{numbers}\n{facts.encode().decode()}"
        case ex.Abandoned(charged, record):
            numbers = _numbers(record, record.first_token_ms or 0, record.ended_ms)
            head = f"A {charged.units} {charged.money}"
            return f"{head}\n{numbers}\n{record.facts.encode().decode()}"


def _numbers(it, first_ms, last_ms):
    sources = (it.input_source.value, it.output_source.value)
    numbers = (*counts(it.usage), *sources, it.started_ms, first_ms, last_ms)
    return " ".join(map(str, numbers))


def flight_fields(flight):
    """What a model has in flight as fairness.lua keeps it."""
    fields = {
        tenant: f"{stake.units} {stake.counter} {stake.weight}"
        for tenant, stake in flight.stakes.items()
    }
    total = f"{flight.units} {flight.weights} {flight.largest}"
    return fields | {"*": total} if fields else {}


def outbox_entry(record):
    """A record as the outbox keeps it."""
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


def dump(redis):
    """Every key of the limits in a real Redis, in the form of `Model.expected`."""
    keys = {}
    for name in redis.scan_iter(match="{*}:*", count=1000):
        key = name.decode()
        match redis.type(name):
            case b"string":
                keys[key] = redis.get(name).decode()
            case b"zset":
                members = redis.zrange(name, 0, -1, withscores=True)
                keys[key] = {member.decode(): int(score) for member, score in members}
            case b"hash":
                fields = redis.hgetall(name).items()
                keys[key] = {field.decode(): value.decode() for field, value in fields}
            case b"stream":
                keys[key] = [
                    {k.decode(): v.decode() for k, v in entry.items()}
                    for _, entry in redis.xrange(name)
                ]
    return keys
