"""A backend in a thread, for tests that wait for processes."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from tests.e2e.edge.backend import Backend


@contextlib.contextmanager
def running_backend(**about: Any) -> Iterator[Backend]:
    """Run one on an event loop of its own until the block ends."""
    loop, backend = asyncio.new_event_loop(), Backend(**about)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(backend.start(), loop).result(10)
        yield backend
    finally:
        asyncio.run_coroutine_threadsafe(_end(backend), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(backend: Backend) -> None:
    await backend.stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
