"""Is a part ready? Small questions over a socket, asked by `tollhouse up`.

They speak just enough of each protocol to hear "yes". A gRPC client library would bring
threads into a process that forks (see `children`), hence the few lines of HTTP/2.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded, StreamReset

from tollhouse.adapters.address import Address
from tollhouse.adapters.http_client import http_request

_ANSWER_SECONDS = 2.0
_EMPTY_GRPC_MESSAGE = bytes(5)
_SERVING = bytes((0, 0, 0, 0, 2, 8, 1))
"""A framed grpc.health.v1.HealthCheckResponse with status = SERVING."""


async def redis_answers(address: Address, credentials: Sequence[str] = ()) -> bool:
    """Tell whether Redis has loaded its data and serves who has these credentials."""
    commands = [b"PING\r\n"]
    if credentials:
        # What we drew has no white space or quotes: the inline form will do.
        commands.insert(0, f"AUTH {' '.join(credentials)}\r\n".encode())
    async with asyncio.timeout(_ANSWER_SECONDS):
        reader, writer = await address.connect()
        try:
            writer.write(b"".join(commands))
            answers = [await reader.readuntil(b"\r\n") for _ in commands]
        except asyncio.IncompleteReadError as error:
            raise ConnectionError(f"{address} closed the connection") from error
        finally:
            writer.close()
    return answers[-1].startswith(b"+PONG")


async def http_answers(address: Address, path: str) -> bool:
    """Tell whether a GET answers 200."""
    return (await http_request(address, path))[0] == HTTPStatus.OK


async def grpc_serves(address: Address) -> bool:
    """Tell whether a gRPC server's health service says SERVING for the whole server."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        reader, writer = await address.connect()
        try:
            return await _health_check(reader, writer) == _SERVING
        finally:
            writer.close()


async def _health_check(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    """Call grpc.health.v1.Health/Check; return the body of the answer."""
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    connection.send_headers(
        stream,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ],
    )
    connection.send_data(stream, _EMPTY_GRPC_MESSAGE, end_stream=True)
    body = b""
    while True:
        writer.write(connection.data_to_send())
        received = await reader.read(65536)
        if not received:
            return body
        for event in connection.receive_data(received):
            match event:
                case DataReceived():
                    body += event.data
                case StreamEnded() | StreamReset():
                    return body
