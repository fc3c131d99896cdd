"""Our own key towards a backend: never the client's, and nowhere else."""

import httpx

from tests.e2e.backends.conftest import KEY, question
from tests.e2e.running_stack import wait_until

NEXT = "sk-the-next-one"


def test_the_backend_gets_our_key_and_not_the_clients(client, stand_in):
    response = client.ask("chat", question("vllm", "chat"))

    assert response.status_code == 200
    headers = stand_in.received[-1].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert client.key not in str(headers)


def test_a_replaced_key_counts_without_a_restart(stack, client, stand_in, key_file):
    """Renamed into place, as Kubernetes does; the refused one is our trouble: 502."""

    def ask_once() -> httpx.Response:
        return client.ask("chat", question("vllm", "chat"))

    def replace(key: str) -> None:
        draft = key_file.with_name("draft")
        draft.write_text(key)
        draft.chmod(0o600)
        draft.replace(key_file)

    pids = stack.pids
    stand_in.key = NEXT
    try:
        assert ask_once().status_code == 502
        replace(NEXT)
        wait_until(lambda: ask_once().status_code == 200, 30)
        assert ask_once().status_code == 200
        assert stand_in.received[-1].headers["authorization"] == f"Bearer {NEXT}"
    finally:
        stand_in.key = KEY
        replace(KEY)
    wait_until(lambda: ask_once().status_code == 200, 30)
    assert stack.pids == pids


def test_our_key_is_nowhere_else(stack, client, key_file):
    """In no file of the stack, no log, no answer of the admin listener."""
    assert client.ask("chat", question("vllm", "chat")).status_code == 200
    # Sockets and links to folders are left out: `run` is one, so it is named.
    for folder in (stack.state_dir, stack.state_dir / "run"):
        for path in folder.resolve().rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    dump = httpx.get(f"{stack.admin_url}/config_dump")
    assert dump.status_code == 403
    for path in ("/stats", "/stats/prometheus"):
        assert KEY not in httpx.get(f"{stack.admin_url}{path}").text
    assert KEY not in stack.said
    assert (
        str(key_file)
        in (stack.state_dir / "run" / "backend-credential.json").read_text()
    )
