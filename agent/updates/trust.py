"""The device's trust document: the installed file, and the chain of newer ones that came over the broker.

The installed file is believed because it lies there. The chain is followed from it link by link at each start: an
operator who lost the root keys installs a new file, and links that do not follow on it fall away.
"""

from pathlib import Path

import msgspec
import structlog

from agent.errors import ConfigError, UpdateFailed, UpdateRefused
from agent.runtime.files import fsync_dir, write_atomic
from agent.updates.envelope import MAX_LINKS, MAX_TRUST_FILE_BYTES
from agent.updates.verify import Trust, advance, parse_trust_file, thin_chain

CHAIN_NAME = "trust-chain.json"

log = structlog.get_logger()


def _load(path: Path) -> bytes:
    """At most one byte more than is allowed."""
    with path.open("rb") as file:
        return file.read(MAX_TRUST_FILE_BYTES + 1)


class TrustStore:
    """Whom the device believes. Nothing is read before it is asked; one thread only."""

    def __init__(self, installed: Path, state_dir: Path) -> None:
        self._installed, self._chain = installed, state_dir / CHAIN_NAME
        self._trust: Trust | None = None
        self._base = b""
        self._links: list[bytes] = []

    def current(self) -> Trust:
        """The newest trust document.

        Raises:
            ConfigError: the installed file is missing or broken.
            UpdateFailed: `storage`; the chain can't be read, and without it a revoked key might be believed.
        """
        if self._trust is None:
            trust = self._load_installed()
            self._base = trust.envelope
            self._trust = self._follow(trust, self._load_chain())
        return self._trust

    def accept(self, trust: Trust, links: list[bytes]) -> None:
        """Keep links that lead from `current()` to `trust`; only when they are durable, `current()` is `trust`.

        Raises:
            ConfigError: as `current`.
            UpdateRefused: `too_large`; more changes of root keys than a chain can hold.
            UpdateFailed: `storage`; nothing has changed.
        """
        if not links:
            return
        self.current()
        kept = thin_chain([self._base, *self._links, *links])[1:]
        data = b"[" + b",".join(kept) + b"]"
        if len(kept) > MAX_LINKS or len(data) > MAX_TRUST_FILE_BYTES:
            raise UpdateRefused("too_large", f"a chain of {len(kept)} trust documents: install the newest trust file")
        try:
            if not self._chain.parent.is_dir():
                self._chain.parent.mkdir(parents=True)
                fsync_dir(self._chain.parent.parent)
            write_atomic(self._chain, data)
        except OSError as exc:
            raise UpdateFailed("storage", str(exc)) from exc
        self._trust, self._links = trust, kept

    def _load_installed(self) -> Trust:
        where = f"models.trust: {self._installed}"
        try:
            return parse_trust_file(_load(self._installed))
        except OSError as exc:
            mend = "put the trust.json there that tools/trust.py made, or leave models.trust out"
            raise ConfigError(f"{where}: {exc.strerror}: {mend}") from exc
        except UpdateRefused as exc:
            raise ConfigError(f"{where}: {exc}: expected a trust.json that tools/trust.py made") from exc

    def _load_chain(self) -> list[bytes]:
        try:
            return [bytes(link) for link in msgspec.json.decode(_load(self._chain), type=list[msgspec.Raw])]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise UpdateFailed("storage", str(exc)) from exc
        except (msgspec.DecodeError, RecursionError) as exc:
            log.warning("update.trust_chain_damaged", path=str(self._chain), reason=str(exc))
            return []

    def _follow(self, trust: Trust, links: list[bytes]) -> Trust:
        dropped: list[str] = []
        self._links = []
        for link in links[:MAX_LINKS]:
            try:
                trust, accepted = advance(trust, [link])
                self._links += accepted
            except UpdateRefused as exc:
                dropped.append(str(exc))
        if dropped:
            log.warning(
                "update.trust_links_dropped", links=len(dropped), reason=dropped[0], version=trust.document.version
            )
        return trust
