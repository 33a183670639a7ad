"""An authority that signs certificates, good ones and bad ones, in milliseconds."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PEM = serialization.Encoding.PEM


class CertificateAuthority:
    """Its certificate is in `ca_file`. Files of one name are replaced: as when a device gets a new certificate."""

    def __init__(self, folder: Path, name: str = "test CA", *, days: float = 3650) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ca_file = folder, folder / "ca.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        certificate = self._build(self._name, self._key.public_key(), -1, days, x509.BasicConstraints(True, None))
        self.ca_file.write_bytes(certificate.public_bytes(_PEM))

    def client(self, name: str, *, first_day: float = -1, days: float = 365, file: str | None = None) -> dict[str, str]:
        """A client's certificate and key, as `cert_file` and `key_file`; valid from and to so many days from now."""
        return self._issue(name, file or name, first_day, days, ExtendedKeyUsageOID.CLIENT_AUTH)

    def server(self, name: str = "localhost", file: str = "server") -> dict[str, str]:
        """A server's certificate and key."""
        try:
            other: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            other = x509.DNSName(name)
        names = x509.SubjectAlternativeName([other])
        return self._issue(name, file, -1, 365, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def _issue(
        self,
        name: str,
        file: str,
        first_day: float,
        days: float,
        usage: x509.ObjectIdentifier,
        *more: x509.ExtensionType,
    ) -> dict[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        limits = (x509.BasicConstraints(False, None), x509.ExtendedKeyUsage([usage]), *more)
        certificate = self._build(_name(name), key.public_key(), first_day, days, *limits)
        cert_file, key_file = self.folder / f"{file}.crt", self.folder / f"{file}.key"
        cert_file.write_bytes(certificate.public_bytes(_PEM))
        form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key_file.write_bytes(key.private_bytes(_PEM, *form))
        return {"cert_file": str(cert_file), "key_file": str(key_file)}

    def _build(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, first_day: float, days: float, *more: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(days=first_day)).not_valid_after(now + timedelta(days=days))
        for extension in more:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
