"""The health of what a process depends on, exported: its Redis and its certificates."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from opentelemetry.metrics import MeterProvider
from pydantic_settings import BaseSettings

from tollhouse.adapters.certificate_metrics import watch_certificates
from tollhouse.adapters.redis.client import Redis
from tollhouse.adapters.redis.vitals import VitalsWatch
from tollhouse.adapters.redis_metrics import watch_redis


def watch_dependencies(
    provider: MeterProvider | None, settings: BaseSettings, redis: Redis
) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
    """Export both; returns what must run meanwhile.

    Without a provider that is nothing: a Redis of which nobody hears is not asked.
    """
    if provider is None:
        return ()
    vitals = VitalsWatch(redis)
    watch_redis(provider, lambda: vitals.latest)
    watch_certificates(provider, settings, lambda: vitals.latest)
    return (vitals.run,)
