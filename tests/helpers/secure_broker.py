"""A real broker with TLS and SASL listeners, whose certificates and users are made on the spot."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kylo_outbox.local import paths
from kylo_outbox.local.kafka import LocalKafka

if TYPE_CHECKING:
    from pathlib import Path

USER = "kylo"
PASSWORD = "right-password"
KEY_PASSWORD = "key-password"
_NAMES = ("PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT")


@dataclass(frozen=True)
class Authority:
    """Somebody who signs certificates: `folder` gets `ca.pem` and what is signed."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new authority of its own."""
        folder.mkdir(parents=True)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {folder.name}")])
        made = cls(folder, ec.generate_private_key(ec.SECP256R1()), name)
        certificate = made._certificate(name, made.key, [(x509.BasicConstraints(ca=True, path_length=None), True)])
        made.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return made

    @property
    def ca(self) -> Path:
        """Its own certificate."""
        return self.folder / "ca.pem"

    def sign(self, who: str, password: str | None = None) -> tuple[Path, Path]:
        """(certificate, key) of somebody at 127.0.0.1; the key is encrypted if a password is given."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._certificate(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]), key, [(address, False)]
        )
        paths_of = self.folder / f"{who}.pem", self.folder / f"{who}.key"
        paths_of[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths_of[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption(),
            )
        )
        return paths_of

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())


class SecureBroker:
    """One broker with four listeners; everybody may do everything until an ACL says no.

    PLAINTEXT is for the tests themselves, SSL asks for client certificates, SASL_SSL takes PLAIN and both SCRAM,
    SASL_PLAINTEXT takes PLAIN alone.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.make(folder / "authority")
        self.stranger = Authority.make(folder / "stranger")
        self._ports = {name: paths.free_port() for name in _NAMES}
        controller = paths.free_port()
        own = [f"{name}://127.0.0.1:{port}" for name, port in self._ports.items()]
        self.server = LocalKafka(
            folder / "kafka",
            self._ports["PLAINTEXT"],
            controller,
            log_file=folder / "kafka.log",
            heap="384m",
            settings={
                "listeners": ",".join([*own, f"CONTROLLER://127.0.0.1:{controller}"]),
                "advertised.listeners": ",".join(own),
                "listener.security.protocol.map": ",".join(
                    ["CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in _NAMES)]
                ),
                **self._tls(),
                **_sasl(),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "allow.everyone.if.no.acl.found": "true",
                "super.users": "User:ANONYMOUS",
            },
        )

    def start(self) -> None:
        """Start it and make the SCRAM users."""
        self.server.start()
        self.set_scram_password(PASSWORD)

    def at(self, listener: str) -> str:
        """The address of a listener."""
        return f"127.0.0.1:{self._ports[listener]}"

    def set_scram_password(self, password: str) -> None:
        """Give the user another SCRAM password; who is connected stays connected."""
        admin = AdminClient({"bootstrap.servers": self.at("PLAINTEXT")})
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            # The broker takes one mechanism of a user a request.
            wanted = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), password.encode())
            for future in admin.alter_user_scram_credentials([wanted]).values():
                future.result(30)

    def forbid_writing(self, topic: str) -> None:
        """Let the user see a topic, but not write to it."""
        admin = AdminClient({"bootstrap.servers": self.at("PLAINTEXT")})

        def rule(operation: AclOperation, permission: AclPermissionType) -> AclBinding:
            user = f"User:{USER}"
            return AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, user, "*", operation, permission)

        rules = [
            rule(AclOperation.DESCRIBE, AclPermissionType.ALLOW),
            rule(AclOperation.WRITE, AclPermissionType.DENY),
        ]
        for future in admin.create_acls(rules).values():
            future.result(30)

    def _tls(self) -> dict[str, str]:
        certificate, key = self.authority.sign("broker")
        both = self.authority.folder / "broker-both.pem"
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": both.as_posix(),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.authority.ca.as_posix(),
            "listener.name.ssl.ssl.client.auth": "required",
        }


def _sasl() -> dict[str, str]:
    plain = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="broker" password="broker" user_{USER}="{PASSWORD}";'
    )
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": plain,
        "listener.name.sasl_ssl.plain.sasl.jaas.config": plain,
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
    }
