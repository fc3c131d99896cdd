"""The real services on TCP, with mTLS between all of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.certificates import Authority
from tests.e2e.edge.conftest import find_port
from tests.e2e.running_stack import ROOT, TOLLHOUSE, wait_until
from tests.e2e.tls.envoy import PROOF
from tests.redis_process import running_redis

EDGE, RELAY, OPERATOR = "envoy.test", "extproc.test", "operator.test"
_START_SECONDS = 60.0


@dataclass
class Fleet:
    """authz, extproc and billing; each has a certificate in its name, `authz.test`."""

    folder: Path
    authority: Authority
    redis_url: str
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def ledger(self) -> Path:
        """Where extproc reads what its Envoy wrote."""
        return self.folder / "ledger.jsonl"

    def log(self, service: str) -> str:
        """What a service logged so far."""
        return (self.folder / f"{service}.log").read_text()

    def tollhouse(self, *command: str) -> str:
        """Run a command against the fleet; return its output."""
        done = subprocess.run(
            [*TOLLHOUSE, *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make_key(self, tenant: str) -> str:
        """Make a tenant with a key."""
        redis = ("--redis-url", self.redis_url)
        self.tollhouse("tenants", "create", tenant, "--plan", "demo", *redis)
        pepper = ("--pepper-file", str(self.folder / "pepper"))
        made = self.tollhouse("keys", "create", "--tenant", tenant, *redis, *pepper)
        return made.strip()

    def usage(self) -> list[dict[str, object]]:
        """What the aggregator has, asked over mTLS by an operator."""
        pair = self.authority.issue(OPERATOR)
        target = f"localhost:{self.ports['billing']}"
        rows: list[dict[str, object]] = json.loads(
            self.tollhouse(
                *("usage", "--json", "--target", target),
                *("--ca-file", str(self.authority.file)),
                *("--cert-file", str(pair.certificate), "--key-file", str(pair.key)),
            )
        )
        return rows

    @contextmanager
    def _serving(
        self, service: str, clients: Sequence[str], settings: dict[str, str]
    ) -> Iterator[None]:
        names = [f"{service}.test", "localhost"]
        pair = self.authority.issue(*names, into=service)
        port = self.ports[service] = find_port()
        own = {
            "LISTEN": f"127.0.0.1:{port}",
            "TLS_CERT_FILE": str(pair.certificate),
            "TLS_KEY_FILE": str(pair.key),
            "TLS_CLIENT_CA_FILE": str(self.authority.file),
            "TLS_CLIENT_NAMES": ",".join(clients),
            **settings,
        }
        environment = {f"TOLLHOUSE_{name}": value for name, value in own.items()}
        log = self.folder / f"{service}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"tollhouse.{service}"],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(
                lambda: (
                    "server.started" in log.read_text() or process.poll() is not None
                ),
                _START_SECONDS,
            )
            assert "server.started" in log.read_text(), log.read_text()
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def running_fleet(folder: Path) -> Iterator[Fleet]:
    """Start all until the block ends."""
    for name, content in (("pepper", "p" * 64), ("proof", PROOF)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        fleet = Fleet(folder, Authority(folder / "pki"), redis.url)
        config = {"CONFIG": str(ROOT / "tollhouse.yaml")}
        stack.enter_context(
            fleet._serving(
                "billing",
                [RELAY, OPERATOR],
                config
                | {
                    "BILLING_REDIS_URL": redis.url,
                    "BILLING_LEDGER": str(folder / "billing"),
                },
            )
        )
        stack.enter_context(
            fleet._serving(
                "authz",
                [EDGE],
                {"REDIS_URL": redis.url, "PEPPER_FILE": str(folder / "pepper")},
            )
        )
        # Without files of its own for it, extproc is known to billing by its own name.
        stack.enter_context(
            fleet._serving(
                "extproc",
                [EDGE],
                config
                | {
                    "REDIS_URL": redis.url,
                    "ADMISSION_PROOF_FILE": str(folder / "proof"),
                    "LEDGER": str(fleet.ledger),
                    "BILLING_TARGET": f"localhost:{fleet.ports['billing']}",
                    "BILLING_CA_FILE": str(fleet.authority.file),
                },
            )
        )
        yield fleet
