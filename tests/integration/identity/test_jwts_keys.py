"""Where keys come from: fetched rarely, kept while the issuer is away."""

import asyncio
import gzip
import ssl

import pytest
from structlog.testing import capture_logs

from tests.certificates import Authority
from tests.integration.identity.provider import (
    Hands,
    Provider,
    key_file,
    keys_of,
    serving,
    token_of,
    until,
    verifying,
)
from tollhouse.adapters import jwks
from tollhouse.adapters.key_set import MOST_BYTES
from tollhouse.core.issuer import KeysAt
from tollhouse.core.problems import Unavailable

OLD, NEW = Provider(which="old"), Provider(which="new")


# --- rotation -------------------------------------------------------------------------


async def test_a_new_key_is_fetched_when_a_token_names_it():
    """Who comes first after a rotation waits for the keys and passes."""
    async with (
        serving(keys_of(OLD, "old")) as server,
        verifying(OLD.issuer(KeysAt(uri=server.uri))) as tokens,
    ):
        assert await tokens.identify(token_of(OLD, "old"))
        server.content = keys_of(NEW, "new")
        found = await asyncio.gather(
            *(tokens.identify(token_of(NEW, "new")) for _ in range(20))
        )
        assert None not in found
        assert len(server.requests) == 2
        # And what is no longer published is no longer good.
        assert await tokens.identify(token_of(OLD, "old")) is None


async def test_names_made_up_cause_one_fetch_in_half_a_minute():
    """Whoever can send tokens must not be able to make us ask."""
    hands = Hands()
    async with serving(keys_of(OLD, "old")) as server:
        issuer = OLD.issuer(KeysAt(uri=server.uri))
        async with verifying(issuer, hands=hands) as tokens:
            assert await tokens.identify(token_of(OLD, "old"))
            for at in range(200):
                assert await tokens.identify(token_of(NEW, f"made-up-{at}")) is None
            assert len(server.requests) == 2
            hands.steady += jwks.ASK_SECONDS - 1
            assert await tokens.identify(token_of(NEW, "again")) is None
            assert len(server.requests) == 2
            hands.steady += 1
            assert await tokens.identify(token_of(NEW, "again")) is None
            assert await tokens.identify(token_of(NEW, "again")) is None
            assert len(server.requests) == 3


async def test_keys_are_fetched_anew_from_time_to_time():
    """A key that is withdrawn is forgotten, though no token made us look."""
    hands = Hands()
    async with serving(keys_of(OLD, "k")) as server:
        issuer = OLD.issuer(KeysAt(uri=server.uri))
        async with verifying(issuer, hands=hands) as tokens:
            assert await tokens.identify(token_of(OLD, "k"))
            server.content = keys_of(NEW, "k")
            assert await tokens.identify(token_of(NEW, "k")) is None
            assert len(server.requests) == 1
            hands.steady += jwks.REFRESH_SECONDS * 1.1

            async def is_new():
                return await tokens.identify(token_of(NEW, "k")) is not None

            await until(is_new, expected=True)
            assert await tokens.identify(token_of(OLD, "k")) is None


async def test_a_file_is_followed(tmp_path):
    """Broken, replaced and gone: within a second, with no token's help."""
    place = key_file(tmp_path, keys_of(OLD, "k"))
    path, replacement, hands = tmp_path / "jwks.json", tmp_path / "new", Hands()
    async with verifying(OLD.issuer(place), hands=hands) as tokens:
        assert await tokens.identify(token_of(OLD, "k"))

        async def is_new():
            hands.steady += 2
            return await tokens.identify(token_of(NEW, "k")) is not None

        path.write_bytes(b"{")
        assert not await is_new()
        assert await tokens.identify(token_of(OLD, "k"))
        replacement.write_bytes(keys_of(NEW, "k"))
        replacement.rename(path)
        await until(is_new, expected=True)
        path.unlink()
        assert await is_new()


# --- an issuer that is away -----------------------------------------------------------


async def test_without_keys_nothing_can_be_told():
    """An outage must not look like a bad token, and ends without a restart."""
    hands = Hands()
    async with serving(keys_of(OLD, "k")) as server:
        server.status = "503 Service Unavailable"
        issuer = OLD.issuer(KeysAt(uri=server.uri))
        with capture_logs() as logs:
            async with verifying(issuer, hands=hands) as tokens:
                for _ in range(20):
                    with pytest.raises(Unavailable):
                        await tokens.identify(token_of(OLD, "k"))
                assert len(server.requests) == 1
                # What is nobody's can be told all the same.
                assert await tokens.identify(OLD.token(iss="https://x")) is None
                server.status = "200 OK"
                hands.steady += jwks.RETRY_SECONDS * 1.1
                assert await tokens.identify(token_of(OLD, "k"))
    told = [it for it in logs if it["event"].startswith("jwks.")]
    assert [(it["event"], it["log_level"]) for it in told] == [
        ("jwks.failed", "error"),
        ("jwks.loaded", "info"),
    ]


async def test_known_keys_outlive_the_issuer():
    """For days; what they don't decide can't be told. It is said how old they are."""
    hands = Hands()
    async with serving(keys_of(OLD, "k")) as server:
        issuer = OLD.issuer(KeysAt(uri=server.uri))
        with capture_logs() as logs:
            async with verifying(issuer, hands=hands) as tokens:
                assert await tokens.identify(token_of(OLD, "k"))
                server.status = "500 Internal Server Error"
                hands.steady += jwks.REFRESH_SECONDS * 1.1

                async def is_failing():
                    return sum(it["event"] == "jwks.failed" for it in logs)

                await until(is_failing, 1)
                assert await tokens.identify(token_of(OLD, "k"))
                assert (
                    await tokens.identify(NEW.token("ES256", header={"kid": "k"}))
                    is None
                )
                with pytest.raises(Unavailable):
                    await tokens.identify(token_of(NEW, "new"))
                hands.steady += 7 * 86400

                async def is_stale():
                    return [it for it in logs if it["event"] == "jwks.stale"] != []

                await until(is_stale, expected=True)
                assert await tokens.identify(token_of(OLD, "k"))
        (stale,) = [it for it in logs if it["event"] == "jwks.stale"]
        assert 7 * 86400 < stale["age_seconds"] < 8 * 86400


async def test_nobody_at_the_address(free_port):
    """A refused connection is no answer either."""
    issuer = OLD.issuer(KeysAt(uri=f"http://127.0.0.1:{free_port()}/jwks"))
    async with verifying(issuer) as tokens:
        with pytest.raises(Unavailable):
            await tokens.identify(token_of(OLD, "k"))


async def _nothing(_):
    await asyncio.Event().wait()


async def _drips(writer):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _ends_early(writer):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")


async def _speaks_no_http(writer):
    writer.write(b"SSH-2.0-x\r\n")


async def _never_ends(writer):
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()


async def _endless_header(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@pytest.mark.timed
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_nothing, "no answer within 3 s"),
        (_drips, "no answer within 3 s"),
        (_ends_early, "no connection: RemoteProtocolError"),
        (_speaks_no_http, "no connection: RemoteProtocolError"),
        (_never_ends, f"it is larger than {MOST_BYTES} bytes"),
        (_endless_header, "no connection: RemoteProtocolError"),
    ],
)
async def test_an_answer_that_is_none(answer, reason):
    """Ends at once or within the time of a fetch; a request waits for a part of it."""
    async with serving() as server:
        server.answer = answer
        issuer = OLD.issuer(KeysAt(uri=server.uri))
        with capture_logs() as logs:
            async with verifying(issuer, patience_seconds=0.1) as tokens:
                async with asyncio.timeout(jwks.TIMEOUT_SECONDS / 2):
                    with pytest.raises(Unavailable):
                        await tokens.identify(token_of(OLD, "k"))

                async def told():
                    return [it["reason"] for it in logs if "jwks" in it["event"]]

                await until(told, [reason])


# --- how they are fetched ---


@pytest.mark.parametrize(
    "status",
    ["301 Moved", "302 Found", "307 Temporary", "201 Created", "404 No", "500 X"],
)
async def test_redirects_are_not_followed(status):
    """Keys come from where the operator said, or not at all."""
    async with serving(keys_of(OLD, "k")) as other, serving() as server:
        server.content = keys_of(OLD, "k")
        server.status, server.headers = status, f"location: {other.uri}\r\n"
        async with verifying(OLD.issuer(KeysAt(uri=server.uri))) as tokens:
            with pytest.raises(Unavailable):
                await tokens.identify(token_of(OLD, "k"))
        assert other.requests == []


async def test_a_compressed_answer_is_none():
    """We asked for none, and never unpack: a small one could be a large one."""
    async with serving(gzip.compress(keys_of(OLD, "k"))) as server:
        server.headers = "content-encoding: gzip\r\n"
        async with verifying(OLD.issuer(KeysAt(uri=server.uri))) as tokens:
            with pytest.raises(Unavailable):
                await tokens.identify(token_of(OLD, "k"))


async def test_the_environment_sends_us_nowhere(monkeypatch, free_port):
    """A proxy that is set for others sees nothing of ours."""
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with (
        serving(keys_of(OLD, "k")) as server,
        verifying(OLD.issuer(KeysAt(uri=server.uri))) as tokens,
    ):
        assert await tokens.identify(token_of(OLD, "k"))


@pytest.mark.parametrize("trusted", ["its own", "another", "none"])
async def test_the_server_of_the_keys_proves_who_it_is(tmp_path, trusted):
    """By the authorities of the entry, else by the usual ones."""
    own, other = Authority(tmp_path / "own"), Authority(tmp_path / "other")
    pair = own.issue("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    ca_file = {"its own": own.file, "another": other.file, "none": None}[trusted]
    async with serving(keys_of(OLD, "k"), tls=context) as server:
        place = KeysAt(uri=server.uri, ca_file=ca_file)
        async with verifying(OLD.issuer(place)) as tokens:
            if trusted == "its own":
                assert await tokens.identify(token_of(OLD, "k"))
            else:
                with pytest.raises(Unavailable):
                    await tokens.identify(token_of(OLD, "k"))
                assert server.requests == []
