"""Requests no SDK writes, through the whole stack: never a failure of ours."""

import json
import socket
from urllib.parse import urlsplit

import httpx
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived

PATH = "/v1/chat/completions"
CHAT = {
    "model": "tiny-chat",
    "max_tokens": 2,
    "messages": [{"role": "user", "content": "hi"}],
}


def test_http2_trailers_are_not_the_gateways_failure(stack):
    """The body in front of them is judged as any other."""
    edge = urlsplit(stack.base_url)
    connection = H2Connection(H2Configuration())
    connection.initiate_connection()
    connection.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", PATH),
            ("authorization", f"Bearer {stack.api_key}"),
        ],
    )
    connection.send_data(1, json.dumps(CHAT).encode())
    connection.send_headers(1, [("x-checksum", "1")], end_stream=True)
    status = None
    with socket.create_connection((edge.hostname, edge.port), timeout=30) as wire:
        while status is None:
            wire.sendall(connection.data_to_send())
            for event in connection.receive_data(wire.recv(65_536)):
                if isinstance(event, ResponseReceived):
                    status = dict(event.headers)[b":status"]

    assert status == b"200"


def test_deep_json_is_refused(stack):
    """Nesting that no part of ours can follow is the client's mistake."""
    deep = '{"a":' * 600 + "1" + "}" * 600
    calls = f'{{"role":"assistant","tool_calls":[{deep}]}}'

    answer = httpx.post(
        stack.base_url.removesuffix("/v1") + PATH,
        content=f'{{"model":"tiny-chat","messages":[{calls}]}}',
        headers={"authorization": f"Bearer {stack.api_key}"},
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
