"""What a process says at start about TLS that can't be: every fault, each once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair, replace
from tollhouse.adapters.grpc_server import serve
from tollhouse.adapters.process import Process, StartError
from tollhouse.adapters.remote import RemoteSettings, is_loopback, open_remote
from tollhouse.adapters.tls import TlsSettings, server_tls

TCP, UNIX = "127.0.0.1:9001", "unix:/run/authz.sock"


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("authz.test")


def settings(pair: Pair, authority: Authority, **changes: object) -> TlsSettings:
    """Good settings, but for the changes."""
    good: dict[str, object] = {
        "tls_cert_file": pair.certificate,
        "tls_key_file": pair.key,
        "tls_client_ca_file": authority.file,
        "tls_client_names": "envoy.test",
    }
    return TlsSettings.model_validate(good | changes)


def faults(listen: str, given: TlsSettings) -> list[str]:
    with pytest.raises(StartError) as raised:
        server_tls(listen, given)
    return str(raised.value).splitlines()


def test_a_process_refuses_plain_tcp(tmp_path):
    """The real authz: status 2, a line for each setting, and nothing served."""
    pepper = tmp_path / "pepper"
    pepper.write_text("p" * 64)
    pepper.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "tollhouse.authz"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TOLLHOUSE_LISTEN": TCP,
            "TOLLHOUSE_REDIS_URL": f"unix://{tmp_path}/nobody.sock",
            "TOLLHOUSE_PEPPER_FILE": str(pepper),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for name, line in zip(
        ("CERT_FILE", "KEY_FILE", "CLIENT_CA_FILE", "CLIENT_NAMES"), lines, strict=True
    ):
        assert line.startswith(f"tollhouse authz: TOLLHOUSE_TLS_{name}: is not set;")
        assert "or TOLLHOUSE_LISTEN to unix:/path" in line


async def test_a_server_refuses_plain_tcp_whoever_calls_it():
    with pytest.raises(StartError, match="over mTLS only"):
        await serve(Process("test"), lambda _: None, TCP)


def test_good_settings(pair, authority):
    assert server_tls(TCP, settings(pair, authority)) is not None
    assert server_tls(UNIX, TlsSettings()) is None


def test_tls_on_a_unix_socket_would_do_nothing(pair, authority):
    (line,) = faults(UNIX, settings(pair, authority))
    assert "TOLLHOUSE_TLS_CLIENT_NAMES: there is no TLS on a Unix socket" in line
    (line,) = faults(UNIX, TlsSettings(tls_cert_file=pair.certificate))
    assert line.startswith("TOLLHOUSE_TLS_CERT_FILE: there is no TLS")


@pytest.mark.parametrize("names", ["", "a.test,,b.test", "*.test", "a b", "-", "a\nb"])
def test_names_that_match_nothing(pair, authority, names):
    lines = faults(TCP, settings(pair, authority, tls_client_names=names))
    assert all("is neither a DNS name nor a URI" in line for line in lines)


def test_every_fault_at_once(pair, authority, tmp_path):
    """A missing file, an open key and a bad name; the key is not shown."""
    pair.key.chmod(0o644)
    given = settings(
        pair,
        authority,
        tls_cert_file=tmp_path / "none.pem",
        tls_client_ca_file=pair.certificate,
        tls_client_names="*",
    )
    names, cert, key, authorities = faults(TCP, given)
    assert names.startswith("TOLLHOUSE_TLS_CLIENT_NAMES: '*'")
    assert cert == (
        f"TOLLHOUSE_TLS_CERT_FILE: can't read {tmp_path}/none.pem:"
        " No such file or directory"
    )
    assert key.startswith(f"TOLLHOUSE_TLS_KEY_FILE: {pair.key}: everybody")
    assert f"chmod o= {pair.key}" in key
    assert authorities.startswith("TOLLHOUSE_TLS_CLIENT_CA_FILE:")
    assert "CA:TRUE" in authorities


def test_what_is_wrong_with_a_pair(pair, authority):
    """Not PEM, another's key, a key with a password."""
    other = authority.issue("other.test")
    (line,) = faults(TCP, settings(other, authority, tls_key_file=pair.key))
    assert "is not the key of the first certificate" in line
    replace(pair.certificate, b"-----BEGIN CERTIFICATE-----\nzzz\n")
    (line,) = faults(TCP, settings(pair, authority))
    assert "holds no certificate in PEM" in line
    encrypted = pair.key.with_name("encrypted")
    run = ["openssl", "pkey", "-in", other.key, "-out", encrypted, "-aes128"]
    subprocess.run([*run, "-passout", "pass:x"], check=True)
    (line,) = faults(TCP, settings(other, authority, tls_key_file=encrypted))
    assert "is encrypted" in line
    replace(pair.key, b"no key", mode=0o600)
    (line,) = faults(TCP, settings(other, authority, tls_key_file=pair.key))
    assert "is no private key in PEM" in line


@pytest.mark.parametrize(
    ("target", "is_own"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("10.0.0.1:1", False),
        ("billing.test:9004", False),
        ("localhost.test:1", False),
        ("dns:///billing.test:1", False),
        ("dns://8.8.8.8/localhost:1", False),
        ("xds:///localhost", False),
        ("https://localhost:1", False),
        ("", False),
    ],
)
def test_what_counts_as_this_machine(target, is_own):
    assert is_loopback(target) is is_own


def remote(target: str, **given: Path | str | None) -> RemoteSettings:
    return RemoteSettings(
        target=("TARGET", target),
        ca_file=("CA", given.get("ca")),  # type: ignore[arg-type]
        cert_file=("CERT", given.get("cert")),  # type: ignore[arg-type]
        key_file=("KEY", given.get("key")),  # type: ignore[arg-type]
        server_name=("NAME", given.get("name")),  # type: ignore[arg-type]
    )


def test_who_calls_another_machine_needs_tls(pair, authority):
    """Plain TCP only on loopback; TLS whole or not at all, and on TCP only."""
    for fine in ("127.0.0.1:9004", UNIX):
        assert open_remote(remote(fine)).target == fine
    files = {"ca": authority.file, "cert": pair.certificate, "key": pair.key}
    assert open_remote(remote("billing.test:9004", **files)).target

    for given, said in (
        (remote("billing.test:9004"), ["TARGET: billing.test:9004 is on another"]),
        (remote(UNIX, **files), ["CA, CERT, KEY: there is no TLS on the Unix socket"]),
        (
            remote("127.0.0.1:9004", ca=authority.file),
            ["CERT: is not set", "KEY: is not set"],
        ),
        (
            remote("billing.test:9004", **(files | {"ca": pair.certificate})),
            [f"CA: {pair.certificate} holds no certificate of an authority"],
        ),
    ):
        with pytest.raises(StartError) as raised:
            open_remote(given)
        lines = str(raised.value).splitlines()
        assert len(lines) == len(said)
        assert all(map(str.startswith, lines, said))
