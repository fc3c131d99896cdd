"""The end of each certificate that a process was given, as it is on the disk now."""

from pathlib import Path

import pytest
from cryptography import x509
from pydantic_settings import BaseSettings

from tests.certificates import Authority
from tests.measured import Measured
from tollhouse.adapters.certificate_metrics import watch_certificates
from tollhouse.adapters.redis.vitals import Vitals

DAY = 86_400


class Given(BaseSettings):
    """Settings of a process."""

    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    redis_ca_file: Path | None = None
    config: Path | None = None


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


def ends(measured):
    """By certificate, Unix seconds."""
    points = measured.points().get("tollhouse.certificate.ends", [])
    return {attributes["certificate"]: value for attributes, value in points}


def end_of(file):
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    return certificate.not_valid_after_utc.timestamp()


def test_of_what_was_given(authority, tmp_path):
    """Not of keys, of other files and of what is not set."""
    measured, pair = Measured(), authority.issue("x", days=3)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pair.certificate.read_bytes() + authority.file.read_bytes())
    given = Given(
        tls_cert_file=chain,
        tls_key_file=pair.key,
        redis_ca_file=authority.file,
        config=chain,
    )
    watch_certificates(measured.provider, given)

    assert {
        "tls_cert": end_of(pair.certificate),
        "redis_ca": end_of(authority.file),
    } == ends(measured)


def test_of_authorities_the_last(authority, tmp_path):
    """While one is replaced both are trusted."""
    measured, both = Measured(), tmp_path / "both.pem"
    later = authority.issue("x", days=30).certificate
    both.write_bytes(authority.file.read_bytes() + later.read_bytes())
    watch_certificates(measured.provider, Given(redis_ca_file=both))

    assert {"redis_ca": end_of(later)} == ends(measured)


def test_a_file_is_followed(authority, tmp_path):
    """A broken one leaves what was known."""
    measured, file = Measured(), tmp_path / "tls.crt"
    watch_certificates(measured.provider, Given(tls_cert_file=file))
    seen = [ends(measured)]
    old, new = (authority.issue(f"x{it}", days=it).certificate for it in (1, 5))
    for content in (old.read_bytes(), b"no certificate", new.read_bytes()):
        file.write_bytes(content)
        seen.append(ends(measured))

    assert [
        {},
        *(2 * [{"tls_cert": end_of(old)}]),
        {"tls_cert": end_of(new)},
    ] == seen


def test_of_the_servers_of_a_redis_the_first():
    measured = Measured()
    seen = [
        Vitals("a", 0, 0, 0, 0, 0, frozenset(), certificate_ends=end)
        for end in (9.0 * DAY, 7.0 * DAY, None)
    ]
    watch_certificates(measured.provider, Given(), lambda: seen)

    assert {"redis_server": 7 * DAY} == ends(measured)


def test_without_tls_nothing_is_said():
    measured = Measured()
    watch_certificates(measured.provider, Given())

    assert {} == ends(measured)
