"""Have devices send the samples that they keep, and store what comes."""

import argparse
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from agent.wire.samples import PROPERTY
from agent.wire.topics import Topics
from tools.feedback_inbox import Inbox, SampleError
from tools.operator_link import OperatorError, OperatorLink, connect

ANSWER_S = 15.0
"""For a command. A device that is away gets it when it comes back, if the broker keeps it that long."""
QUIET_S = 30.0
"""So long after the last sample no more are waited for, although the device has said that more are on their way."""


class Fetch:
    """Asks one device after the other, as often as it has more to send than goes at once."""

    def __init__(
        self, link: OperatorLink, prefix: str, inbox: Inbox, say: Callable[[str], object], quiet_s: float = QUIET_S
    ) -> None:
        self._link, self._prefix, self._inbox, self._say = link, prefix, inbox, say
        self._quiet_s = quiet_s
        self._name = secrets.token_hex(4)
        self._asked = ""
        self._replies: list[dict[str, Any]] = []
        self._came_s = time.monotonic()
        self.counts: Counter[str] = Counter()
        """`new`, `known`, `refused`."""

    def listen(self) -> None:
        """Hear samples and answers of all devices. Raises OperatorError."""
        branch = f"{self._prefix}/devices/+"
        self._link.subscribe([f"{branch}/samples/+", f"{branch}/replies/{self._name}"], self._take)

    def ask(self, device: str, pipeline: str | None, max_bytes: int | None = None) -> None:
        """Until the device has nothing more, or sends nothing. Raises OperatorError: it does not answer, or refuses."""
        while True:
            before = self.counts.total()
            answer = self.command(device, "samples", {"pipeline": pipeline, "max_bytes": max_bytes})
            sent = answer.get("sent")
            self._wait_for(before + sent if isinstance(sent, int) else None)
            if not (answer.get("waiting") or answer.get("started")) or self.counts.total() == before:
                return

    def command(self, device: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Its answer. Raises OperatorError: there is none, or it is a refusal."""
        branch = Topics(self._prefix, device).branch
        self._asked = device
        self._replies.clear()
        payload = msgspec.json.encode({key: value for key, value in body.items() if value is not None})
        self._link.command(f"{branch}/commands/{name}", payload, f"{branch}/replies/{self._name}")
        until_s = time.monotonic() + ANSWER_S
        while not self._replies:
            if time.monotonic() > until_s:
                raise OperatorError(f"{device}: no answer within {ANSWER_S:g} s; is it there? see {branch}/status")
            self._link.wait(0.2)
        reply = self._replies[0]
        if not reply.get("ok"):
            raise OperatorError(f"{device}: {ascii(reply.get('error', 'no reason given'))[1:-1]}")
        data = reply.get("data")
        return data if isinstance(data, dict) else {}

    def _wait_for(self, total: int | None) -> None:
        """Until so many samples came, or none for so long. Raises OperatorError."""
        self._came_s = time.monotonic()
        while time.monotonic() < self._came_s + self._quiet_s and (total is None or self.counts.total() < total):
            self._link.wait(0.2)

    def _take(self, topic: str, payload: bytes) -> None:
        device, kind = topic.split("/")[-3:-1]
        if kind == "replies":
            if device != self._asked:  # another must not answer in its place
                return
            try:
                reply = msgspec.json.decode(payload, type=dict[str, Any])
            except (ValueError, RecursionError):  # MsgspecError and UnicodeError are ValueErrors
                return
            self._replies.append(reply)
            return
        self._came_s = time.monotonic()
        try:
            _, is_new = self._inbox.take(self._link.user_properties.get(PROPERTY, ""), payload, device)
            self.counts["new" if is_new else "known"] += 1
        except SampleError as exc:
            self.counts["refused"] += 1
            self._say(f"{ascii(topic)[1:-1]}: not taken: {exc}")


def collect(options: argparse.Namespace, say: Callable[[str], object]) -> int:
    """The command `collect`. Raises OperatorError, OSError."""
    inbox = Inbox(options.folder)
    with connect(options, say) as link:
        fetch = Fetch(link, options.prefix, inbox, say)
        fetch.listen()
        try:
            for device in options.device:
                fetch.ask(device, options.pipeline)
                say(f"{device}: {fetch.counts['new']} new samples so far")
            if not options.device:
                say(f"waiting for what devices send by themselves, {options.seconds:g} s; Ctrl-C ends it")
                until_s = time.monotonic() + options.seconds
                while time.monotonic() < until_s:
                    link.wait(1.0)
        except KeyboardInterrupt:
            say("interrupted")
    unlabelled = sum(sample.info.truth is None for sample in inbox.all())
    counts = fetch.counts
    say(
        f"{counts['new']} new, {counts['known']} known, {counts['refused']} refused; "
        f"{unlabelled} without a label in {inbox.samples_dir}"
    )
    return 0
