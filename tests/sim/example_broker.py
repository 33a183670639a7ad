"""Mosquitto with systemd/mosquitto.example.conf as it stands: only its ports and folders are others."""

import contextlib
import getpass
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from tests.sim import free_port
from tests.sim.broker import Broker
from tests.sim.bundles import ROOT
from tests.sim.certificates import CertificateAuthority


class ExampleBroker(Broker):
    """`port` wants a certificate of `clients`, `password_port` a password of `users`; its own is of `servers`."""

    host = "localhost"

    def __init__(self, folder: Path, users: Mapping[str, str]) -> None:
        super().__init__(folder, users=users)
        self.password_port = free_port()
        self.servers = CertificateAuthority(folder / "servers", "servers")
        self.clients = CertificateAuthority(folder / "clients", "clients")
        """Another one holds from the next start on."""

    @property
    def log(self) -> str:
        """All that it logged so far."""
        path = self.folder / "output"
        return path.read_text(errors="replace") if path.exists() else ""

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            for port in (self.port, self.password_port):
                socket.create_connection((self.host, port), timeout=1).close()
            return True
        return False

    def _write_conf(self) -> None:
        certs = self.folder / "etc" / "certs"
        certs.mkdir(parents=True, exist_ok=True)
        for kind, path in self.servers.server().items():
            shutil.copy(path, certs / f"server.{'crt' if kind == 'cert_file' else 'key'}")
        shutil.copy(self.clients.ca_file, certs / "clients-ca.crt")
        shutil.copy(ROOT / "systemd/mosquitto.example.acl", certs.parent / "mosquitto.acl")
        self._write_users(self._users or {}).rename(certs.parent / "passwords")
        conf = (ROOT / "systemd/mosquitto.example.conf").read_text()
        self.password_port = free_port()
        for shown, ours in (
            ("/etc/mosquitto/", f"{certs.parent}/"),
            ("/var/lib/mosquitto/", f"{self.folder}/"),
            ("listener 8883", f"listener {self.port}"),
            ("listener 8884", f"listener {self.password_port}"),
        ):
            assert shown in conf
            conf = conf.replace(shown, ours)
        # Started by root, it would become the user `mosquitto`, which may not look into the folders of tests.
        (self.folder / "mosquitto.conf").write_text(f"{conf}user {getpass.getuser()}\n")
