"""How soon authz knows what was changed: told of it, and when nobody tells."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from tests.integration.identity.authz_process import Authz, running_authz
from tests.redis_process import RedisServer, running_redis
from tollhouse.adapters.pepper import Pepper
from tollhouse.adapters.redis.changes import CHANGED, MOVED
from tollhouse.adapters.redis.keyring import Keyring
from tollhouse.adapters.redis.records import key_entry

pytestmark = pytest.mark.timed

OLD, NEW = "5a" * 32, "c3" * 32
TOLD_SECONDS, UNTOLD_SECONDS = 2.0, 5.0
"""What is promised, told by Redis' channel and not."""


@pytest.fixture
def pepper(tmp_path: Path) -> Path:
    return write_pepper(tmp_path)


def write_pepper(folder: Path) -> Path:
    path = folder / "pepper"
    path.touch(mode=0o600)
    path.write_text(OLD + "\n")
    return path


@pytest.fixture
def keyring(redis_url: str, pepper: Path) -> Iterator[Keyring]:
    ring = Keyring(redis_url, Pepper.read(pepper))
    ring.create_tenant("acme", "demo")
    with contextlib.closing(ring):
        yield ring


@pytest.fixture(scope="module")
def workers(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[list[Authz]]:
    """Two authz processes that listen for changes."""
    folder = tmp_path_factory.mktemp("w")
    with two_workers(folder, redis_server.url, write_pepper(folder)) as running:
        yield running


@contextlib.contextmanager
def two_workers(folder: Path, redis_url: str, pepper: Path) -> Iterator[list[Authz]]:
    before = _listeners(redis_url)
    with contextlib.ExitStack() as stack:
        running = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            it = running_authz(folder / name, redis_url, pepper)
            running.append(stack.enter_context(it))
        _wait_until(lambda: _listeners(redis_url) >= before + 2, 30)
        yield running


def _listeners(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return int(client.pubsub_numsub(CHANGED)[0][1])


def _wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


class Use(threading.Thread):
    """A key in use on one worker: what it was answered, and when."""

    def __init__(self, authz: Authz, key: str) -> None:
        super().__init__()
        self._authz, self._key = authz, key
        self._stopped = threading.Event()
        self.seen: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self._stopped.is_set():
            asked_at = time.monotonic()
            self.seen.append((asked_at, self._authz.status(self._key)))

    def end(self) -> None:
        self._stopped.set()
        self.join()

    def last(self, status: int) -> float:
        """When it was last answered so."""
        return max(at for at, it in self.seen if it == status)


@contextlib.contextmanager
def in_use(workers: list[Authz], key: str, status: int) -> Iterator[list[Use]]:
    """Use a key on every worker without a pause."""
    uses = [Use(worker, key) for worker in workers]
    for use in uses:
        use.start()
    try:
        _wait_until(
            lambda: all(it.seen and it.seen[-1][1] == status for it in uses), 30
        )
        yield uses
    finally:
        for use in uses:
            use.end()


def _turns(uses: list[Use], status: int, within: float) -> None:
    """Check that all uses are answered so, and none otherwise after the time."""
    changed_at = time.monotonic()
    _wait_until(lambda: all(it.seen[-1][1] == status for it in uses), within)
    time.sleep(0.2)
    for use in uses:
        others = {it for _, it in use.seen} - {status}
        assert max(map(use.last, others)) - changed_at <= within


def test_revoked_under_load(workers, keyring: Keyring):
    """The last accepted use on any worker is within two seconds of the command."""
    key, record = keyring.create_key("acme")
    with in_use(workers, key, 200) as uses:
        keyring.revoke(record.key_id)
        _turns(uses, 401, TOLD_SECONDS)


def test_suspended_under_load(workers, keyring: Keyring):
    """A tenant's suspension, and its end, reach every worker as soon."""
    key, _ = keyring.create_key("acme")
    with in_use(workers, key, 200) as uses:
        keyring.suspend_tenant("acme")
        _turns(uses, 403, TOLD_SECONDS)
        keyring.resume_tenant("acme")
        _turns(uses, 200, TOLD_SECONDS)


def test_created_after_a_try(workers, redis_url: str, keyring: Keyring):
    """A key that was refused as unknown a moment ago passes as soon as it is made."""
    key, record = keyring.create_key("acme")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        kept = key_entry(client.get(f"th:keyid:{record.key_id}"))
        client.rename(kept, "aside")
        with in_use(workers, key, 401) as uses:
            pipe = client.pipeline()
            pipe.rename("aside", kept)
            pipe.publish(CHANGED, f"key {record.key_id}")
            pipe.execute()
            _turns(uses, 200, TOLD_SECONDS)


@pytest.mark.parametrize("message", ["plan " + "x" * 10_000, b"\xff\xfe", b""])
def test_other_words(workers, redis_url: str, keyring: Keyring, message):
    """A message of a later release, that we can't read, may be about anything."""
    key, record = keyring.create_key("acme")
    with (
        redis.Redis.from_url(redis_url, decode_responses=True) as client,
        in_use(workers, key, 200) as uses,
    ):
        digest = client.get(f"th:keyid:{record.key_id}")
        pipe = client.pipeline()
        pipe.hset(key_entry(digest), "revoked_at", "1")
        pipe.publish(CHANGED, message)
        pipe.execute()
        _turns(uses, 401, TOLD_SECONDS)


@pytest.fixture
def deaf() -> Iterator[RedisServer]:
    """A Redis whose channels can be closed."""
    with running_redis() as server:
        yield server


def test_channel_cut(deaf: RedisServer, pepper: Path, tmp_path: Path):
    """With the channel cut, the last accepted use is within five seconds."""
    ring = Keyring(deaf.url, Pepper.read(pepper))
    ring.create_tenant("acme", "demo")
    key, record = ring.create_key("acme")
    (tmp_path / "a").mkdir()
    with (
        contextlib.closing(ring),
        running_authz(tmp_path / "a", deaf.url, pepper) as authz,
        redis.Redis.from_url(deaf.url) as client,
    ):
        _wait_until(lambda: _listeners(deaf.url) == 1, 30)
        # Whoever listens now is cut off, and nobody may listen again.
        client.execute_command("ACL", "SETUSER", "default", "resetchannels")
        client.client_kill_filter(_type="pubsub")
        with in_use([authz], key, 200) as uses:
            # Its transaction publishes, which is not allowed either: done by hand.
            client.hset(
                key_entry(client.get(f"th:keyid:{record.key_id}").decode()),
                "revoked_at",
                "1",
            )
            _turns(uses, 401, UNTOLD_SECONDS)
        _, said = authz.end()

    assert '"event":"subscription.lost"' in said


def test_channel_dead(deaf: RedisServer, pepper: Path, tmp_path: Path):
    """A channel that died without a word is noticed, and what was missed looked up."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Swallower(listener, deaf.socket_path) as swallower,
    ):
        port = listener.getsockname()[1]
        ring = Keyring(deaf.url, Pepper.read(pepper))
        ring.create_tenant("acme", "demo")
        key, record = ring.create_key("acme")
        (tmp_path / "a").mkdir()
        url = f"redis://127.0.0.1:{port}/0"
        with (
            contextlib.closing(ring),
            running_authz(tmp_path / "a", url, pepper) as authz,
        ):
            _wait_until(lambda: _listeners(deaf.url) == 1, 30)
            with in_use([authz], key, 200) as uses:
                swallower.is_silent_for_subscribers = True
                ring.revoke(record.key_id)
                _turns(uses, 401, UNTOLD_SECONDS)


class Swallower:
    """Passes bytes on to a socket, and on demand swallows what a channel says."""

    def __init__(self, listener: socket.socket, target: Path) -> None:
        self._listener, self._target = listener, target
        self.is_silent_for_subscribers = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._target))
                subscribes = threading.Event()
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._pass_on,
                        args=(source, sink, subscribes, source is near),
                        daemon=True,
                    ).start()

    def _pass_on(
        self,
        source: socket.socket,
        sink: socket.socket,
        subscribes: threading.Event,
        is_question: bool,
    ) -> None:
        with source, sink, contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if is_question and b"SUBSCRIBE" in data:
                    subscribes.set()
                is_muted = self.is_silent_for_subscribers and subscribes.is_set()
                if is_question or not is_muted:
                    sink.sendall(data)


def test_pepper_rotation(
    tmp_path: Path, redis_url: str, pepper: Path, keyring: Keyring
):
    """Old and new keys pass all the way, and what is used is announced to be moved."""
    old_key, record = keyring.create_key("acme")
    with (
        two_workers(tmp_path, redis_url, pepper) as workers,
        redis.Redis.from_url(redis_url, decode_responses=True) as client,
    ):
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.subscribe(MOVED)
        with in_use(workers, old_key, 200) as uses:
            pepper.write_text(f"v1:{OLD}\nv2:{NEW}\n")  # looked up by
            after = Pepper({"v2": NEW.encode()})
            early = _copy(client, old_key, record.key_id, after)
            _wait_until(lambda: all(it.status(early) == 200 for it in workers), 30)
            pepper.write_text(f"v2:{NEW}\nv1:{OLD}\n")  # made with
            before = keyring.find(old_key)
            message = _next_message(heard)
        heard.close()

        assert before is not None
        assert {status for use in uses for _, status in use.seen} == {200}
        expected = Pepper({"v1": OLD.encode()}).digest(old_key)
        assert message == f"{expected} {after.digest(old_key)}"


def _copy(client: Any, key: str, key_id: str, pepper: Pepper) -> str:
    """Keep another key like this one under another pepper's digest."""
    other = key[:-1] + ("A" if key[-1] != "A" else "B")
    kept = key_entry(client.get(f"th:keyid:{key_id}"))
    client.copy(kept, key_entry(pepper.digest(other)))
    return other


def _next_message(heard: "redis.client.PubSub") -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if message := heard.get_message(timeout=0.2):
            return str(message["data"])
    raise AssertionError("nothing was said")


def test_networks(workers, keyring: Keyring):
    """A bound key passes from its networks, and opens nothing from elsewhere."""
    key, _ = keyring.create_key("acme", networks=("203.0.113.0/24", "2001:db8::/32"))
    worker = workers[0]

    assert worker.status(key, address="203.0.113.9") == 200
    assert worker.status(key, address="::ffff:203.0.113.9") == 200
    assert worker.status(key, address="2001:db8::1") == 200
    assert worker.status(key, address="127.0.0.1") == 403
    assert worker.status(key, "/v1/models", "GET", address="203.0.114.9") == 403
