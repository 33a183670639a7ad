"""A real mosquitto on a free port of the loopback, and a client that writes down what it hears."""

import getpass
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.sim import free_port, require_program, wait_until

MEND = "apt-get install --no-install-recommends mosquitto"


class Broker:
    """Start it with `with` or `start()`; it stays on its port over `restart()`.

    Args:
        folder: for its configuration, log and store; made if it is not there.
        conf: more lines of mosquitto.conf, for its one listener.
        acl: content of an access list; default: everybody may do everything.
        users: name to password; default: no login.
        tls: folder with ca.crt, server.crt and server.key (see `make_certificates`).
        client_certificates: with `tls`: whether clients have to show one.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        conf: str = "",
        *,
        acl: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: Path | None = None,
        client_certificates: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.acl_file = folder / "acl"
        self._conf, self._users, self._tls = conf, users, tls
        self._client_certificates = client_certificates
        self._process: subprocess.Popen[bytes] | None = None
        self._listeners: list[Listener] = []
        if acl is not None:
            self.write_acl(acl)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            listener.close()
        self.kill()

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and come back when it listens."""
        program = require_program("mosquitto", MEND)
        for _ in range(5):  # another process may have taken the port
            self._write_conf()
            with (self.folder / "output").open("ab") as output:
                self._process = subprocess.Popen(
                    [program, "-c", str(self.folder / "mosquitto.conf")], stdout=output, stderr=output
                )
            wait_until(lambda: self._listens() or not self.running, what="mosquitto listens")
            if self.running:
                return
            if "Address already in use" not in self.log:
                break
            self.port = free_port()
        raise RuntimeError(f"mosquitto does not start: {(self.folder / 'output').read_text()}{self.log}")

    def stop(self) -> None:
        """In order: it stores its sessions."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """At once, as by a power cut."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It accepts connections (the kernel does) and says nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        """Read the access list and the passwords again."""
        lines = self.log.count("Reloading config")
        self._signal(signal.SIGHUP)
        wait_until(lambda: self.log.count("Reloading config") > lines, what="mosquitto reads its files again")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it logged so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def write_acl(self, acl: str) -> None:
        """Replace the access list; `reload` makes a running broker read it."""
        self.acl_file.write_text(acl)
        self.acl_file.chmod(0o600)

    # --- clients --------------------------------------------------------------------------------------------------

    def listen(self, *topic_filters: str, username: str | None = None, password: str | None = None) -> "Listener":
        """A client that is subscribed already, with a session that outlives connections; closed with the broker."""
        name = f"listener-{len(self._listeners)}"
        listener = Listener(self.host, self.port, topic_filters, client_id=name, username=username, password=password)
        self._listeners.append(listener)
        return listener

    # --- inside ---------------------------------------------------------------------------------------------------

    def _write_conf(self) -> None:
        lines = [
            f"user {getpass.getuser()}",  # as root it would become `mosquitto`, which may not read the folder
            f"log_dest file {self.folder / 'log'}",
            "log_type all",
            "persistence true",
            f"persistence_location {self.folder}/",
            f"listener {self.port} {self.host}",
            "set_tcp_nodelay true",
            "max_queued_messages 100000",  # over it, mosquitto acknowledges and drops
            f"allow_anonymous {'true' if self._users is None else 'false'}",
        ]
        if self._users is not None:
            lines.append(f"password_file {self._write_users(self._users)}")
        if self.acl_file.exists():
            lines.append(f"acl_file {self.acl_file}")
        if self._tls is not None:
            files = {"cafile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
            lines += [f"{option} {self._tls / name}" for option, name in files.items()]
            lines.append(f"require_certificate {'true' if self._client_certificates else 'false'}")
        (self.folder / "mosquitto.conf").write_text("\n".join([*lines, self._conf, ""]))

    def _write_users(self, users: Mapping[str, str]) -> Path:
        path = self.folder / "passwords"
        path.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
        path.chmod(0o600)
        subprocess.run([require_program("mosquitto_passwd", MEND), "-U", str(path)], check=True, capture_output=True)
        return path

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None


class Listener:
    """Subscribes with QoS 1 and keeps what comes, in order. It finds its way back to a broker that was away."""

    def __init__(
        self,
        host: str,
        port: int,
        topic_filters: tuple[str, ...],
        *,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._changed = threading.Condition()
        self._subscribed = False
        self._filters = [(topic_filter, 1) for topic_filter in topic_filters]
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, reconnect_on_failure=True
        )
        client.username_pw_set(username, password)
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda c, *_: c.subscribe(self._filters) if self._filters else self._note(None)
        client.on_subscribe = lambda *_: self._note(None)
        client.on_message = lambda _c, _u, message: self._note(message)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client.connect(host, port, clean_start=False, properties=properties)
        client.loop_start()
        self.client = client
        self.wait_for(lambda _: self._subscribed, what="the listener is subscribed")

    def _note(self, message: paho.MQTTMessage | None) -> None:
        with self._changed:
            if message is None:
                self._subscribed = True
            else:
                self.messages.append(message)
            self._changed.notify_all()

    def wait_for(
        self, condition: Callable[[list[paho.MQTTMessage]], object], timeout_s: float = 20.0, what: str = "messages"
    ) -> list[paho.MQTTMessage]:
        """Come back with all messages so far, when they fulfil the condition."""
        with self._changed:
            held = self._changed.wait_for(lambda: condition(self.messages), timeout_s)
            assert held, f"waited {timeout_s:g} s for {what}; got {len(self.messages)} messages"
            return list(self.messages)

    def payloads(self, topic: str | None = None) -> list[bytes]:
        """What came so far, of one topic or of all."""
        with self._changed:
            return [bytes(message.payload) for message in self.messages if topic in (None, message.topic)]

    def publish(self, topic: str, payload: bytes = b"", **options: object) -> None:
        """Send something, and come back when the broker has it."""
        info = self.client.publish(topic, payload, qos=1, **options)  # type: ignore[arg-type]
        info.wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        thread = self.client._thread
        if thread is not None:
            thread.join(5)
        if (sock := self.client.socket()) is not None:
            sock.close()


def make_certificates(folder: Path, name: str = "localhost") -> Path:
    """A test CA (ca.crt), a server certificate for `name`, and a client's (client.crt, CN cam-1); keys beside them."""
    openssl = require_program("openssl", "apt-get install openssl")
    folder.mkdir(parents=True, exist_ok=True)

    def run(*args: str) -> None:
        subprocess.run([openssl, *args], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30", "-subj", "/CN=test CA")
    kind = "IP" if name.replace(".", "").isdigit() else "DNS"
    for who, common_name, extension in (
        ("server", name, f"subjectAltName={kind}:{name}"),
        ("client", "cam-1", "extendedKeyUsage=clientAuth"),
    ):
        run("req", *key, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={common_name}")
        (folder / f"{who}.ext").write_text(extension + "\n")
        signed_by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30")
        run("x509", "-req", "-in", f"{who}.csr", *signed_by, "-out", f"{who}.crt", "-extfile", f"{who}.ext")
    return folder
