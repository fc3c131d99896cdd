"""When certificates end, exported; see docs/telemetry.md.

A file is read where it changed since the last export, and not taken from who uses it:
what is on the disk is what the next handshake takes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from pydantic_settings import BaseSettings

from tollhouse.adapters.file_stamp import Stamp, stamp_of
from tollhouse.adapters.redis.vitals import Vitals

_CHAIN, _AUTHORITIES = "_cert_file", "_ca_file"


def watch_certificates(
    provider: MeterProvider | None,
    settings: BaseSettings,
    redis: Callable[[], Sequence[Vitals]] = tuple,
) -> None:
    """Ask at each export for the end of each certificate that `settings` name.

    And for those that the servers of a Redis show.
    """
    if provider is None:
        return
    files = {
        name.removesuffix("_file"): _File(path, of_many=name.endswith(_AUTHORITIES))
        for name, path in settings
        if isinstance(path, Path) and name.endswith((_CHAIN, _AUTHORITIES))
    }

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        ends = {name: file.ends() for name, file in files.items()}
        ends["redis_server"] = min(
            (it.certificate_ends for it in redis() if it.certificate_ends is not None),
            default=None,
        )
        return [
            Observation(at, {"certificate": name})
            for name, at in ends.items()
            if at is not None
        ]

    provider.get_meter("tollhouse").create_observable_gauge(
        "tollhouse.certificate.ends",
        [observe],
        unit="s",
        description="When a certificate ends, Unix time",
    )


class _File:
    """A certificate, with what leads to its authority; or authorities: `of_many`."""

    def __init__(self, path: Path, *, of_many: bool) -> None:
        self._path = path
        self._of_many = of_many
        self._stamp: Stamp = ()
        self._ends: float | None = None

    def ends(self) -> float | None:
        """Unix seconds; of a broken file those of the last good one, None at first.

        Of authorities the last end: until then some of them are trusted.
        """
        stamp = stamp_of(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            self._ends = self._read() or self._ends
        return self._ends

    def _read(self) -> float | None:
        # Dear to import, and most processes have no TLS.
        from tollhouse.adapters.certificates import (  # noqa: PLC0415
            CertificateError,
            ends,
        )

        try:
            at = ends(self._path)
        except CertificateError:  # whoever uses it says so
            return None
        return (max(at) if self._of_many else at[0]).timestamp()
