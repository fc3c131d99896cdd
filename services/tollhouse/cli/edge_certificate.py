"""The certificate clients see: `up --tls-cert FILE --tls-key FILE`."""

import dataclasses
import shlex
import ssl
from collections.abc import Sequence
from pathlib import Path

from tollhouse.cli.unusable import UnusableError

# Not in the ssl module: OpenSSL's X509_V_FLAG_NO_CHECK_TIME.
_WHATEVER_THE_TIME = 0x20_0000


@dataclasses.dataclass(frozen=True, slots=True)
class EdgeCertificate:
    """Files that Envoy reads, and reads again when they are replaced."""

    chain: Path
    key: Path
    names: Sequence[str]
    """What it is for: DNS names, wildcards among them, and addresses."""
    warning: str | None = None

    @classmethod
    def read(cls, chain: Path, key: Path) -> "EdgeCertificate":
        """Check both files. Raises UnusableError with all that is wrong."""
        # Dear to import, and of use here only.
        from tollhouse.adapters.certificates import (  # noqa: PLC0415
            CertificateError,
            Chain,
            Key,
        )

        faults: list[str] = []
        found = None
        try:
            found = Chain.read(chain)
        except CertificateError as error:
            faults.append(f"--tls-cert: {error}")
        try:
            private = Key.read(key)
            if found is not None:
                found.check(private)
        except CertificateError as error:
            faults.append(f"--tls-key: {error}")
        if faults or found is None:
            raise UnusableError("\n".join(faults))
        warning = None
        if found.has_ended():
            warning = (
                f"--tls-cert: {chain} ended on {found.ends_at:%Y-%m-%d %H:%M} UTC, and"
                " clients will refuse it; replace both files, no restart is needed"
            )
        # Absolute, but through links: what they point to changes.
        return cls(chain.absolute(), key.absolute(), found.names, warning)

    def host(self, listening: str) -> str:
        """Return a name it is for: the one we listen on, if possible."""
        if listening in self.names:
            return listening
        names = (name for name in self.names if not name.startswith("*."))
        return next(names, listening)

    @property
    def quoted(self) -> str:
        """Its file, for a shell."""
        return shlex.quote(str(self.chain))

    @property
    def domains(self) -> list[str]:
        """Its names as Envoy's virtual hosts take them."""
        return [f"[{name}]" if ":" in name else name for name in self.names]

    def believed(self) -> ssl.SSLContext:
        """Return a client that believes just what is in the file now, expired or not.

        It asks no authority and no name: it knows the one certificate it wants.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _WHATEVER_THE_TIME
        context.load_verify_locations(cafile=self.chain)
        return context
