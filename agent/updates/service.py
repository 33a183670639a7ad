"""The updates of all models: what comes in from the broker and from operators, and the thread that works on it."""

import contextlib
import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import structlog

from agent import __version__
from agent.config import Config
from agent.config import Pipeline as PipelineSpec
from agent.errors import AgentError, UpdateFailed, UpdateRefused
from agent.inference.active import ActiveModel
from agent.mqtt.inbox import Inbound
from agent.runtime.clock import Clock
from agent.runtime.hardware import hardware_names
from agent.runtime.progress import Progress
from agent.updates.activate import make_active
from agent.updates.receive import ChunkBox, Wires
from agent.updates.report import model_state
from agent.updates.standing import Standing
from agent.updates.store import ModelStore
from agent.updates.trial import Live
from agent.updates.trust import TrustStore
from agent.updates.updater import ModelUpdate, Surroundings
from agent.updates.verify import DeviceFacts, open_trust
from agent.wire.messages import ModelState, Stamp
from agent.wire.topics import TRUST, Topics

T = TypeVar("T")

MAX_PER_MINUTE = 6
"""Messages of one topic that are looked at: a signature costs little, but not nothing."""
_ANSWER_S = 10.0
_OBEY_AGAIN_S = 30.0

_log = structlog.get_logger()


def release_topics(config: Config, topics: Topics) -> list[str]:
    """What to subscribe to for updates: nothing without a trust document."""
    if config.models.trust is None:
        return []
    return [topics.trust(), *(topics.release(model) for model in sorted({spec.model for spec in config.pipelines}))]


def make_update_service(
    config: Config,
    stamp: Stamp,
    clock: Clock,
    wires: Wires,
    tell: Callable[[ModelState], None],
    progress: Progress,
    stop: threading.Event,
) -> "UpdateService":
    """Open the stores, mend what is broken in them, and decide what each model runs; starts nothing."""
    models_dir, topics = Path(config.models.dir), Topics(config.mqtt.prefix, stamp.device)
    around = Surroundings(
        topics=topics,
        wires=wires,
        box=ChunkBox(),
        stop=stop,
        device=DeviceFacts(
            topics.device, config.device.groups, hardware_names(config.device.hardware), agent_version=__version__
        ),
        trust=TrustStore(Path(config.models.trust), models_dir) if config.models.trust else None,
        max_bytes=config.models.max_bytes,
    )
    models = sorted({spec.model for spec in config.pipelines})
    standings = [Standing(ModelStore(models_dir, model), clock, stop) for model in models]
    return UpdateService(standings, around, stamp, tell, progress)


class UpdateService:
    """Body of the updates thread. `take_in`, `ask` and `states` may be called from any thread."""

    def __init__(
        self,
        standings: Iterable[Standing],
        around: Surroundings,
        stamp: Stamp,
        tell: Callable[[ModelState], None],
        progress: Progress,
    ) -> None:
        self._around, self._stamp, self._tell, self._progress = around, stamp, tell, progress
        self._trust_version: int | None = None
        self._obeyed: dict[str, int] = {}  # by model: the trust document of which all is done that it asks for
        self._obey_due_s = 0.0
        self._lock = threading.Lock()
        self._offers: dict[str, bytes] = {}  # by model; the newest wins
        self._last: dict[str, bytes] = {}  # looked at; looked at again when the trust document changes
        self._looked_s: dict[str, deque[float]] = {}
        self._requests: queue.Queue[Callable[[], None]] = queue.Queue(16)
        self._news = threading.Event()
        self.by_model = {standing.model: ModelUpdate(standing, around, self._has_news) for standing in standings}
        for update in self.by_model.values():
            for line in update.begin():
                _log.warning("update.repaired", model=update.model, what=line)
            update.at.tell = functools.partial(self._report, update)
            update.at.on_long_work = self._alive

    def make_active(self, spec: PipelineSpec) -> ActiveModel:
        """For a pipeline: what its model should run now, which may be nothing yet.

        Raises:
            ModelError: there is no bundle, and no release can bring one.
        """
        update = self.by_model[spec.model]
        slot, store = update.at.running, update.store
        folder = store.folder(slot) if slot else store.folder_by_hand() if self._around.trust is None else None
        signed = slot.sha256 if slot and slot.release else None  # what was put there by hand may be changed by hand
        return make_active(spec, folder, signed, self._around.stop)

    def attach(self, lives: Iterable[Live], on_activated: Callable[[], None]) -> None:
        """Tell it the pipelines, before the loop begins, and whom to call when another version answers frames."""
        lives = list(lives)
        for model, update in self.by_model.items():
            update.at.lives = [live for live in lives if live.spec.model == model]
            update.at.on_activated = on_activated

    # --- from any thread -----------------------------------------------------------------------------------------

    def take_in(self, message: Inbound) -> None:
        """A release, a trust document or a chunk. Never raises, never blocks."""
        model = self._around.topics.release_of(message.topic)
        if model is None:
            self._around.box.put(message.topic, message.payload)
        elif message.payload and (model in self.by_model or model == TRUST):  # an empty one only clears the topic
            with self._lock:
                self._offers[model] = message.payload
            self._news.set()

    def ask(self, work: Callable[[], T]) -> T | None:
        """Have something done in the updates thread; None when it is busy: it will be done then.

        Raises:
            UpdateRefused, UpdateFailed: it can't be done.
        """
        answer: Future[T] = Future()

        def do() -> None:
            try:
                answer.set_result(work())
            except AgentError as exc:
                answer.set_exception(exc)

        try:
            self._requests.put_nowait(do)
        except queue.Full:
            raise UpdateFailed("rate", "too many requests wait") from None
        self._news.set()
        try:
            return answer.result(_ANSWER_S)
        except TimeoutError:
            return None

    def states(self) -> list[ModelState]:
        """What there is to say of each model."""
        return [model_state(update, self._stamp, self._trust_version) for update in self.by_model.values()]

    # --- the updates thread --------------------------------------------------------------------------------------

    def loop(self, stop: threading.Event) -> None:
        """Take what came, and do a piece of each model's work, again and again.

        Raises:
            ConfigError: the trust document can't be used.
        """
        self._note_trust()
        for update in self.by_model.values():
            self._report(update)
        while not stop.is_set():
            self._news.clear()
            self._answer_requests()
            wait_s = min([self._look_at_offers(), *map(self._step, self.by_model.values())])
            if wait_s > 0:
                self._news.wait(min(wait_s, 1.0))
        for update in self.by_model.values():
            with contextlib.suppress(UpdateFailed):
                update.close()

    def _step(self, update: ModelUpdate) -> float:
        self._alive()  # a trial may start a worker
        return update.step()

    def _alive(self) -> None:
        self._progress.beat("updates")

    def _has_news(self) -> bool:
        """Whether something came that should not wait for the end of a piece of work."""
        return self._around.stop.is_set() or self._news.is_set()

    def _answer_requests(self) -> None:
        while True:
            try:
                work = self._requests.get_nowait()
            except queue.Empty:
                return
            work()

    def _look_at_offers(self) -> float:
        """Gives the time until one that came too soon after others may be looked at, in seconds."""
        wait_s = 60.0
        with self._lock:
            offers = sorted(self._offers.items(), key=lambda offer: offer[0] != TRUST)  # that comes first
        for model, raw in offers:
            looked_s, now_s = self._looked_s.setdefault(model, deque(maxlen=MAX_PER_MINUTE)), time.monotonic()
            if len(looked_s) == MAX_PER_MINUTE and now_s - looked_s[0] < 60.0:
                wait_s = min(wait_s, 60.0 - (now_s - looked_s[0]))
                self._note(model, "rate")
                continue
            looked_s.append(now_s)
            with self._lock:
                if self._offers.get(model) is raw:
                    del self._offers[model]
            self._look_at(model, raw)
            self._last[model] = raw
        self._obey()
        return wait_s

    def _look_at(self, model: str, raw: bytes) -> None:
        try:
            if model == TRUST:
                trust = self._around.trusted()
                trust.accept(*open_trust(raw, trust.current()))
            else:
                self.by_model[model].take(raw)
            self._note(model, None)
        except UpdateRefused as exc:
            _log.warning("update.refused", model=model, code=exc.reason_code, reason=exc.detail)
            self._note(model, exc.reason_code, again=raw != self._last.get(model))
        except UpdateFailed as exc:
            _log.error("update.failed", model=model, reason=str(exc))
            with self._lock:
                self._offers.setdefault(model, raw)  # to be looked at again
        if self._note_trust():
            self._look_again(model)

    def _note_trust(self) -> bool:
        """Whether the trust document is a newer one than the last time; it is none while a disk can't read it."""
        trust, before = self._around.trust, self._trust_version
        with contextlib.suppress(UpdateFailed):
            self._trust_version = trust.current().document.version if trust else None
        return before != self._trust_version

    def _look_again(self, brought_by: str) -> None:
        """A newer trust document holds: it may allow what was refused, and forbid what was allowed."""
        _log.info("update.trust_changed", version=self._trust_version)
        self._obey_due_s = 0.0
        for model, update in self.by_model.items():
            if model in self._last and model != brought_by:
                with self._lock:
                    self._offers.setdefault(model, self._last[model])
            self._report(update)

    def _obey(self) -> None:
        """End what the trust document forbids, also where the agent ended before that was done, or it failed."""
        version, now_s = self._trust_version, time.monotonic()
        if version is None or now_s < self._obey_due_s:
            return
        for model, update in self.by_model.items():
            if self._obeyed.get(model) != version:
                try:
                    update.obey(self._around.trusted().current())
                    self._obeyed[model] = version
                except (UpdateRefused, UpdateFailed) as exc:
                    _log.error("update.not_obeyed", model=model, reason=str(exc))
                    self._obey_due_s = now_s + _OBEY_AGAIN_S

    def _note(self, model: str, reason_code: str | None, *, again: bool = False) -> None:
        """What became of the newest message; told when it is another than the last time, or `again` in any case."""
        for update in self.by_model.values() if model == TRUST else [self.by_model[model]]:
            if again or update.refused != reason_code:
                update.refused = reason_code
                self._report(update)

    def _report(self, update: ModelUpdate) -> None:
        self._tell(model_state(update, self._stamp, self._trust_version))
