"""The state directory of `tollhouse up`: what outlives it, who holds it, its secrets.

<state-dir>/lock              held by the running `up` (flock) and its watchdog
<state-dir>/pepper            keys' digests are worth nothing without it; made once
<state-dir>/admin-tokens      who may call the admin API; made once, yours to edit
<state-dir>/redis-users/      a password for each user of our Redis; made once
<state-dir>/demo-key          the demo key, readable by its owner only
<state-dir>/redis/            Redis' append-only file
<state-dir>/ledger/           Envoy's ledger
<state-dir>/billing/          what the billing ledger charged: a file per day
<state-dir>/logs/             one log for each part, and Envoy's of all requests
                              (access.log); the last run's is *.log.1
<state-dir>/truth.jsonl       what the local engine says it did
<state-dir>/run -> /tmp/…     sockets, rendered configuration; gone after a stop
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tollhouse.cli.redis_users import USERS, RedisUsers
from tollhouse.cli.unusable import UnusableError

# sun_path holds 108 bytes with the closing NUL: a socket's path must be short, but a
# state directory may lie anywhere.
RUN_PARENT = Path("/tmp")  # noqa: S108 - the folder in it is ours and 0700
REQUESTS = "access"
"""Name of the log that has every request; Envoy writes it beside its own."""
_LOCK_PATIENCE_SECONDS = 2.0
_PEPPER_BYTES = 32
_PASSWORD_BYTES = 32


class StateError(UnusableError):
    """The state directory can't be used; the text is one line with the remedy."""


class StateDirectory:
    """Paths of one state directory. `open` makes it; `hold` locks it."""

    def __init__(self, path: Path) -> None:
        """Take a path as it is; nothing is read or made."""
        self.path = path.resolve()
        digest = hashlib.blake2b(os.fsencode(self.path), digest_size=5).hexdigest()
        self.run = RUN_PARENT / f"tollhouse-{os.getuid()}-{digest}"
        self.redis = self.path / "redis"
        self.redis_users = RedisUsers(self.path / "redis-users")
        self.ledger = self.path / "ledger"
        self.billing = self.path / "billing"
        self.logs = self.path / "logs"
        self.pepper = self.path / "pepper"
        self.admin_tokens = self.path / "admin-tokens"
        self.demo_key = self.path / "demo-key"
        self.truth_log = self.path / "truth.jsonl"
        self.proof = self.run / "proof"

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """Make the directory and lock it; the lock's descriptor, for the watchdog.

        Raises StateError when another `up` has it, or it can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(
                f"can't use the state directory {self.path}: {error.strerror};"
                " choose another with --state-dir"
            ) from error
        try:
            self._lock(descriptor)
            try:
                self._prepare()
                yield descriptor
            finally:
                self._clear_run()
        finally:
            os.close(descriptor)

    def rotate_logs(self, names: list[str]) -> None:
        """Begin a new log for each part; the last run's becomes *.log.1."""
        for name in (*names, REQUESTS):
            log = self.logs / f"{name}.log"
            with contextlib.suppress(FileNotFoundError):
                log.rename(log.with_suffix(".log.1"))

    def bound_logs(self, largest_bytes: int = 64 * 1024 * 1024) -> None:
        """Begin logs that grew too large anew; the parts go on writing to them."""
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > largest_bytes:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)  # they append, so they follow

    def _clear_run(self) -> None:
        """Remove the run directory and the link to it."""
        shutil.rmtree(self.run, ignore_errors=True)
        (self.path / "run").unlink(missing_ok=True)

    def _lock(self, descriptor: int) -> None:
        # After `kill -9` of an `up` its watchdog holds the lock until all is gone:
        # that takes milliseconds, and is worth waiting for.
        patience = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > patience:
                    holder = (
                        os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    )
                    raise StateError(
                        f"another `tollhouse up` (pid {holder or 'unknown'}) uses"
                        f" {self.path}; stop it, or choose another with --state-dir"
                    ) from None
                time.sleep(0.05)
            else:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return

    def _prepare(self) -> None:
        users = self.redis_users
        for folder in (self.redis, users.folder, self.ledger, self.logs):
            folder.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(self.run, ignore_errors=True)
        try:
            self.run.mkdir(mode=0o700)
        except OSError as error:
            raise StateError(
                f"can't make the run directory {self.run}: {error.strerror};"
                " remove it if it is yours"
            ) from error
        link = self.path / "run"
        link.unlink(missing_ok=True)
        link.symlink_to(self.run)
        write_secret(self.proof, secrets.token_hex(32))
        if not self.pepper.exists():
            write_secret(self.pepper, secrets.token_hex(_PEPPER_BYTES))
        if not self.admin_tokens.exists():
            write_secret(self.admin_tokens, f"local:{secrets.token_hex(32)}")
        for path in map(users.password_file, USERS):
            if not path.exists():
                write_secret(path, secrets.token_hex(_PASSWORD_BYTES))


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    write_whole(path, text + "\n", mode=0o600)


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file so that a reader sees the old or the new one, never half."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
