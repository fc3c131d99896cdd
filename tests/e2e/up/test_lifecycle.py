"""A stack is born, bears the death of its parts, dies whole and comes back."""

import json
import os
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import psutil
import pytest
import yaml

from tests.e2e.running_stack import (
    STOP_SECONDS,
    TOLLHOUSE,
    RunningStack,
    is_gone,
    running_stack,
    wait_until,
    write_config,
)


def client_of(stack: RunningStack) -> openai.OpenAI:
    return openai.OpenAI(base_url=stack.base_url, api_key=stack.api_key, max_retries=0)


def chat(stack: RunningStack, model="tiny-chat", **options):
    with client_of(stack) as client:
        return client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Who keeps the toll?"}],
            **options,
        )


def used(stack: RunningStack) -> int:
    rows = json.loads(stack.run("usage", "--json", "--tenant", "demo"))
    return sum(row["output_tokens"] for row in rows)


@pytest.mark.timed
def test_a_life(tmp_path):
    """Parts die and come back; SIGTERM ends all; a restart knows what was; kill -9."""
    with running_stack(tmp_path) as stack:
        key = stack.api_key
        for part in ("triton", "extproc-0", "envoy"):
            before = stack.pids[part]
            stubs = psutil.Process(before).children(recursive=True)
            os.kill(before, signal.SIGKILL)
            stack.wait_until_restarted(part, before)

            assert before != stack.pids[part]
            assert f"{part} was killed by SIGKILL; starting it again in" in stack.said
            assert all(map(is_gone, stubs))
        answer = chat(stack, max_tokens=5)
        wait_until(lambda: used(stack) >= answer.usage.completion_tokens, 30)
        before_restart = used(stack)
        assert before_restart == answer.usage.completion_tokens

        family, run = stack.processes(), (stack.state_dir / "run").resolve()
        began = time.monotonic()
        stack.process.send_signal(signal.SIGTERM)
        status = stack.process.wait(STOP_SECONDS)

        assert status == 0
        assert time.monotonic() - began < STOP_SECONDS
        assert [] == [process for process in family if not is_gone(process)]
        assert not run.exists()
        assert not stack.ready_file.exists()

    with running_stack(tmp_path) as stack:
        assert key == stack.api_key
        assert before_restart == used(stack)
        assert chat(stack, max_tokens=5).usage.completion_tokens > 0

        family = stack.processes()
        stack.process.kill()
        stack.process.wait()
        wait_until(lambda: all(map(is_gone, family)), 30)

        assert [] == [process for process in family if not is_gone(process)]

    # And the ground is fit for the next one, with the port of the last.
    (tmp_path / "state" / "demo-key").write_text("th_lost\n")
    port = stack.base_url.split("/")[2]
    with running_stack(tmp_path, "--listen", port) as stack:
        assert stack.base_url.split("/")[2] == port
        assert key != stack.api_key
        assert chat(stack, max_tokens=5).usage.completion_tokens > 0


@pytest.mark.timed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_start_can_be_given_up(tmp_path, number):
    """Ctrl-C before all is ready stops what has started."""
    output = tmp_path / "up.log"
    state_dir = tmp_path / "state"
    command = [*TOLLHOUSE, "up", "--listen", "127.0.0.1:0", "--state-dir", state_dir]
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    wait_until(lambda: "redis" in output.read_text(), 60)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)

    assert process.wait(STOP_SECONDS) == 0
    assert family
    assert [] == [it for it in family if not is_gone(it)]


class Foreign(BaseHTTPRequestHandler):
    """A server that speaks OpenAI's API and is none of ours."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": self.headers["host"]},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def foreign():
    with ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.timed
def test_a_foreign_backend_is_metered_like_ours(tmp_path, foreign):
    """Same keys, same books, no Triton; it is called by its own name."""
    options = ("--backend", f"http://{foreign}/v1", "--workers", "2")
    with running_stack(tmp_path, *options) as stack:
        assert {
            *("redis", "billing", "authz", "admin", "extproc-0", "extproc-1", "envoy")
        } == set(stack.pids)
        answer = chat(stack)

        assert foreign == answer.choices[0].message.content
        wait_until(lambda: used(stack) >= 3, 30)
        assert used(stack) == 3

        # Asked twice, it does not wait for anything any more.
        family = stack.processes()
        stack.process.send_signal(signal.SIGINT)
        wait_until(lambda: "stopping" in stack.said, 30)
        stack.process.send_signal(signal.SIGINT)

        assert stack.process.wait(STOP_SECONDS) == 0
        assert [] == [process for process in family if not is_gone(process)]


def test_a_foreign_backends_stack_follows_its_file(tmp_path, foreign):
    """Though its parts read a copy; a broken file changes nothing."""
    config = write_config(tmp_path / "tollhouse.yaml")
    before = config.read_text()
    content = yaml.safe_load(before)
    content["models"]["other"] = content["models"]["tiny-chat"]

    def offered(stack: RunningStack) -> set[str]:
        with client_of(stack) as client:
            return {model.id for model in client.models.list()}

    options = ("--backend", f"http://{foreign}/v1")
    with running_stack(tmp_path, *options, config=config) as stack:
        assert offered(stack) == {"tiny-chat"}

        config.write_text(yaml.safe_dump(content))
        wait_until(lambda: offered(stack) == {"tiny-chat", "other"}, 30)
        assert chat(stack, "other").choices[0].message.content == foreign

        config.write_text("models: 1")
        log = stack.state_dir / "logs" / "authz.log"
        wait_until(lambda: "config.refused" in log.read_text(), 30)
        assert "config.refused" in log.read_text()
        assert offered(stack) == {"tiny-chat", "other"}

        config.write_text(before)
        wait_until(lambda: offered(stack) == {"tiny-chat"}, 30)
        assert offered(stack) == {"tiny-chat"}
