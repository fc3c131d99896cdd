"""TLS as Envoy is told about it: towards clients, towards backends."""

import dataclasses
import ipaddress
import json
from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import (
    ConfigSource,
    DataSource,
    PathConfigSource,
    TransportSocket,
    WatchedDirectory,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any as PbAny

from tollhouse.cli.edge_certificate import EdgeCertificate
from tollhouse.cli.envoy_types import to_json_message

_SECRET = "edge"  # noqa: S105 - a name
# TLS 1.3 has its own, all good; of 1.2 those with forward secrecy and authentication.
_CIPHERS_OF_1_2 = (
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards a backend: the name it must prove, and who vouches for it."""

    server_name: str
    trusted_ca: Path


def secret_text(certificate: EdgeCertificate) -> str:
    """Return the file from which Envoy learns of the certificate's files (SDS).

    It takes them anew whenever something is renamed into their folder, as Kubernetes
    does with a changed secret; with a folder each, when the files themselves are.
    """
    folder = certificate.chain.parent
    watched = WatchedDirectory(path=str(folder))
    pair = TlsCertificate(
        certificate_chain=DataSource(filename=str(certificate.chain)),
        private_key=DataSource(filename=str(certificate.key)),
        watched_directory=watched if certificate.key.parent == folder else None,
    )
    secret = PbAny.pack(Secret(name=_SECRET, tls_certificate=pair))
    return json.dumps(to_json_message(DiscoveryResponse(resources=[secret])), indent=1)


def downstream_socket(secret_file: Path) -> TransportSocket:
    """Return TLS for clients, its certificate from a file of `secret_text`."""
    source = ConfigSource(path_config_source=PathConfigSource(path=str(secret_file)))
    context = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            alpn_protocols=["h2", "http/1.1"],
            tls_params=TlsParameters(
                tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
                cipher_suites=list(_CIPHERS_OF_1_2),
            ),
            tls_certificate_sds_secret_configs=[
                SdsSecretConfig(name=_SECRET, sds_config=source)
            ],
        )
    )
    return _socket(context)


def upstream_socket(tls: Tls) -> TransportSocket:
    """Return TLS towards a backend whose certificate is verified, name included."""
    # Without a validation context Envoy would accept any certificate.
    trusted = CertificateValidationContext(
        trusted_ca=DataSource(filename=str(tls.trusted_ca)),
    )
    context = UpstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(
                tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
                tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            ),
            validation_context=trusted,
        )
    )
    if _is_address(tls.server_name):  # no name to ask for (RFC 6066 §3)
        trusted.match_typed_subject_alt_names = [
            SubjectAltNameMatcher(
                san_type=SubjectAltNameMatcherSanType.IP_ADDRESS,
                matcher=StringMatcher(exact=tls.server_name),
            )
        ]
    else:
        context.sni = tls.server_name
        context.auto_sni_san_validation = True
    return _socket(context)


def _socket(context: DownstreamTlsContext | UpstreamTlsContext) -> TransportSocket:
    return TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=PbAny.pack(context)
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
