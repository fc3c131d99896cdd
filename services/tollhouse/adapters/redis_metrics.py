"""What a Redis says of its health, exported; see docs/telemetry.md.

Asked by who uses it and not by an exporter beside it, so it needs no user, no password
and no way of its own, and a managed Redis is watched like ours.
"""

from collections.abc import Callable, Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from tollhouse.adapters.redis.vitals import Trouble, Vitals

Look = Callable[[], Sequence[Vitals]]


def watch_redis(provider: MeterProvider, look: Look) -> None:
    """Ask at each export what was seen last."""
    meter = provider.get_meter("tollhouse")

    def observed(
        value: Callable[[Vitals], int],
    ) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        return [
            lambda _: [Observation(value(it), {"server": it.server}) for it in look()]
        ]

    meter.create_observable_gauge(
        "tollhouse.redis.memory.used",
        observed(lambda it: it.used_bytes),
        unit="By",
        description="Memory that Redis uses",
    )
    meter.create_observable_gauge(
        "tollhouse.redis.memory.limit",
        observed(lambda it: it.most_bytes),
        unit="By",
        description="Memory from which on Redis takes no writes; 0: no bound",
    )
    meter.create_observable_gauge(
        "tollhouse.redis.replicas",
        observed(lambda it: it.replicas),
        unit="{replica}",
        description="Replicas that follow",
    )
    meter.create_observable_counter(
        "tollhouse.redis.evicted",
        observed(lambda it: it.evicted),
        unit="{key}",
        description="Keys that Redis threw away for want of memory",
    )
    meter.create_observable_counter(
        "tollhouse.redis.rejected",
        observed(lambda it: it.rejected),
        unit="{connection}",
        description="Connections above maxclients",
    )
    meter.create_observable_gauge(
        "tollhouse.redis.trouble",
        [lambda _: _troubles(look())],
        unit="{trouble}",
        description="1 for what is wrong with a Redis that answers, 0 for the rest",
    )


def _troubles(seen: Sequence[Vitals]) -> Iterable[Observation]:
    return [
        Observation(
            int(trouble in it.troubles),
            {"server": it.server, "trouble": trouble.value},
        )
        for it in seen
        for trouble in Trouble
    ]
