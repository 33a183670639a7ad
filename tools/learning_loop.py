"""The whole loop, end to end, with a real broker and a real device: a model meets pictures that it does not know.

    python3 tools/learning_loop.py            (`make loop`: ten minutes on two cores; TensorFlow: 2 GB on first use)

A device runs a model of MNIST's digits. After a while the digits that it sees are turned: confidences and embeddings
drift, and it says so. It keeps frames; they are fetched, labelled, and learned from; the new model is compared with the
old one on both kinds of digits, signed, pushed, tried on the device beside the old one, and takes its place.

Three things stand in for the world: the camera is a folder of pictures, the operator's labels are MNIST's own, and the
broker is a mosquitto of this run. All else is what users run: `edge-agent run`, tools/feedback.py, tools/push_model.py.
The device sees pictures of split `validation`; the figures are of split `test`, all 10,000, as they are and turned.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from agent.cli.evaluate import follow  # noqa: E402
from agent.errors import AgentError  # noqa: E402
from agent.evaluation.evaluate import Labelled, evaluate  # noqa: E402
from agent.values import Image  # noqa: E402
from tools import feedback, train, trust  # noqa: E402
from tools.build_zoo import ZooError  # noqa: E402
from tools.evaluate import EvaluateError  # noqa: E402
from tools.feedback_inbox import Inbox  # noqa: E402
from tools.picture_set import Entry, PictureSet, digest, load_set, write_index  # noqa: E402
from tools.train_options import make_parser as train_parser  # noqa: E402
from tools.training import TrainError  # noqa: E402

DEVICE, PIPELINE, MODEL = "cam-1", "digits", "digits"
FPS = 40
USUAL = 700
"""Pictures as the model knows them, before the others come."""
WINDOW_FRAMES = 300
MIN_GAIN, MAX_LOSS = 0.10, 0.003
"""What the loop is to reach, in shares of accuracy."""


class LoopError(Exception):
    """What did not happen; one line."""


def turned(picture: Image, degrees: float) -> Image:
    """A picture turned around its middle."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height)), np.uint8)


def turned_set(data: PictureSet, degrees: float, folder: Path) -> PictureSet:
    """Split `test` with every picture turned."""
    (folder / "pictures").mkdir(parents=True)
    entries = []
    for number, entry in enumerate(follow(data.of("test"), "pictures")):
        path = f"pictures/{number:05}.png"
        cv2.imwrite(str(folder / path), turned(data.picture(entry), degrees))
        entries.append(Entry(path, entry.label, f"{number:05}", "test", digest((folder / path).read_bytes())))
    write_index(folder, entries)
    return load_set(folder)


def film(data: PictureSet, degrees: float, count: int, folder: Path) -> list[str]:
    """What the device will see, in order: usual pictures, then turned ones; gives what they show."""
    folder.mkdir(parents=True)
    entries = data.of("validation")
    chosen = np.random.default_rng(1).permutation(len(entries))[: USUAL + count]
    for number, place in enumerate(chosen):
        picture = data.picture(entries[place])
        cv2.imwrite(str(folder / f"{number:05}.png"), picture if number < USUAL else turned(picture, degrees))
    return [entries[place].label for place in chosen]


class Run:
    """One run in a folder of its own."""

    def __init__(self, options: argparse.Namespace, home: Path, say: Callable[[str], object]) -> None:
        self.options, self.home, self.say = options, home, say
        self.models = home / "models"
        self.data = load_set(options.data)
        self.truths: list[str] = []

    # --- steps ----------------------------------------------------------------------------------------------------

    def train(self) -> Path:
        """The model that the device begins with."""
        if self.options.model:
            return Path(self.options.model)
        train.make(
            train_parser(None).parse_args(
                ["--data", str(self.options.data), "--out", str(self.home / "learned"), "--name", MODEL,
                 "--epochs", str(self.options.epochs), "--shift-px", "1"]
            )
        )  # fmt: skip
        return self.home / "learned" / MODEL / "1"

    def config(self, port: int, first: Path) -> dict[str, Any]:
        """The device's; it has the model on its disk, and the trust document."""
        self._tool(trust.main, "init", str(self.home / "keys"), "--fleet", "loop", "--no-passphrase")
        return {
            "device": {"id": DEVICE},
            "mqtt": {"host": "127.0.0.1", "port": port},
            "models": {"dir": str(self.models), "trust": str(self.home / "keys" / "trust.json"), "healthy_after_s": 5},
            "outbox": {"dir": str(self.home / "outbox")},
            "samples": {"dir": str(self.home / "samples")},
            "telemetry": {"interval_s": 2},
            "log": {"format": "json"},
            "pipelines": [
                {
                    "name": PIPELINE,
                    "model": first.parent.name,
                    "source": {"type": "file", "path": str(self.home / "film"), "fps": FPS, "loop": True},
                    "results": {"publish": "all", "max_per_s": 2},
                    "snapshots": {"on": "none"},
                    "feedback": {"keep": "hard", "max_per_min": 60 * FPS, "margin": 0.3, "upload_max_bytes": "2MiB"},
                    "drift": {"window_frames": WINDOW_FRAMES, "every_s": 0},
                }
            ],
        }

    def collect(self, broker: str, folder: Path) -> None:
        """Fetch until there are enough, and label them as MNIST does."""
        inbox = Inbox(folder)
        self._until("enough samples", 300, lambda: self._fetch(broker, folder) >= self.options.samples)
        for sample in inbox.all():
            if sample.info.truth is None and sample.info.frame_index < len(self.truths):  # of the first pass
                inbox.label(sample, self.truths[sample.info.frame_index])

    def _fetch(self, broker: str, folder: Path) -> int:
        self._tool(feedback.main, "collect", str(folder), "--broker", broker, "--device", DEVICE)
        return sum("drift" in sample.info.reasons for sample in Inbox(folder).all())

    def learn(self, broker: str, folder: Path, first: Path) -> None:
        """tools/feedback.py learn, which pushes."""
        self._tool(
            feedback.main, "learn", str(folder), "--model", str(first), "--data", str(self.options.data),
            "--min-gain", str(MIN_GAIN), "--max-loss", str(MAX_LOSS), "--epochs", str(self.options.epochs),
            "--train-option=--shift-px=1", "--push", "--key", str(self.home / "keys" / "release-1.pem"),
            "--broker", broker, "--device", DEVICE, "--wait", "--timeout", "300",
        )  # fmt: skip

    def measure(self, old: Path, new: Path) -> dict[str, float]:
        """Both models, on all test digits as they are and turned."""
        self.say(f"measuring both models on {len(self.data.of('test'))} test digits, as they are and turned")
        shifted = turned_set(self.data, self.options.degrees, self.home / "shifted").folder
        return {
            f"{name}_{kind}": float(evaluate(bundle, Labelled(data), follow=follow)["accuracy"])
            for name, bundle in (("old", old), ("new", new))
            for kind, data in (("usual", self.options.data), ("turned", shifted))
        }

    def _drift_of_the_new_model(self, agent: Any) -> dict[str, float]:
        """Figures of the first full window."""

        def figures() -> dict[str, float] | None:
            drift = agent.status().get("pipelines", {}).get(PIPELINE, {}).get("drift")
            return drift["psi"] if drift else None

        self._until("drift figures of the new model", 120, figures)
        return figures() or {}

    # --- helpers --------------------------------------------------------------------------------------------------

    def _tool(self, main: Callable[[Sequence[str]], int], *arguments: str) -> None:
        self.say(f"$ {main.__module__.replace('.', '/')}.py {' '.join(arguments)}")
        if (code := main(list(arguments))) != 0:
            raise LoopError(f"{main.__module__} ended with {code}")

    def _until(self, what: str, timeout_s: float, condition: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise LoopError(f"{what}: not within {timeout_s:g} s")
            time.sleep(0.5)

    def loop(self) -> dict[str, Any]:
        """All steps; gives the figures."""
        from tests.sim.agent import Agent  # noqa: PLC0415 - they need what the tests need
        from tests.sim.broker import Broker  # noqa: PLC0415

        first = self.train()
        _install(first, self.models)
        count = round(self.options.samples * 3)
        self.truths = film(self.data, self.options.degrees, count, self.home / "film")
        with Broker(self.home / "mosquitto") as broker:
            url = f"mqtt://127.0.0.1:{broker.port}"
            events = broker.listen(f"edge/devices/{DEVICE}/events/{PIPELINE}")
            with Agent(self.home, self.config(broker.port, first)) as agent:
                self.say(f"the device runs; after {USUAL} usual digits come those turned by {self.options.degrees:g}°")

                def drifts() -> list[dict[str, Any]]:
                    told = [json.loads(payload) for payload in events.payloads()]
                    return [one for one in told if one["label"] == "drift"]

                self._until("drift", 180, drifts)
                told = drifts()[0]
                self.say(f"drift: PSI {told['drift']['psi']}, KS {told['drift']['ks']}")
                self.collect(url, self.home / "feedback")
                for picture in sorted((self.home / "film").iterdir())[:USUAL]:
                    picture.unlink()  # from the next pass on there are only turned ones
                self.learn(url, self.home / "feedback", first)
                after = self._drift_of_the_new_model(agent)
        new = first.parent / (first.parent / "current").read_text().strip()
        figures = self.measure(first, new)
        samples = list(Inbox(self.home / "feedback").all())
        return {"psi": told["drift"]["psi"], "psi_after": after, "samples": len(samples), **figures}


def _install(bundle: Path, models: Path) -> None:
    """As `make install` or the operator would: a folder, and `current`."""
    target = models / bundle.parent.name / bundle.name
    shutil.copytree(bundle, target)
    (target.parent / "current").write_text(f"{bundle.name}\n", encoding="utf-8")


@contextlib.contextmanager
def _home(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="loop-") as folder:
        yield Path(folder)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 the goals are reached, 1 something failed or they are not",
    )
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / ".cache" / "data" / "mnist", help="MNIST, as tools/dataset.py makes it")
    add("--model", type=Path, help="begin with this bundle of tools/train.py (default: train one)")
    add("--degrees", type=float, default=40.0, help="how far digits are turned (default: %(default)s)")
    add("--samples", type=int, default=800, help="that are fetched while it drifts (default: %(default)s)")
    add("--epochs", type=int, default=4, help="of each training (default: %(default)s)")
    add("--keep", type=Path, metavar="DIR", help="leave everything there (default: a temporary folder)")
    add("--json", action="store_true", help="print the figures as one JSON document, at the end")
    return parser


def report(figures: dict[str, Any]) -> bool:
    """Print the figures; gives whether the goals are reached."""
    gain, loss = figures["new_turned"] - figures["old_turned"], figures["old_usual"] - figures["new_usual"]
    print(f"\n{'accuracy, 10,000 test digits':<32}{'old model':>12}{'new model':>12}{'change':>10}")
    print(f"{'turned':<32}{figures['old_turned']:>12.4f}{figures['new_turned']:>12.4f}{gain:>+10.4f}")
    print(f"{'as they are':<32}{figures['old_usual']:>12.4f}{figures['new_usual']:>12.4f}{-loss:>+10.4f}")
    print(f"drift (PSI): {figures['psi']} with the old model, {figures['psi_after']} with the new one")
    ok = gain >= MIN_GAIN and loss <= MAX_LOSS
    goals = f"at least {MIN_GAIN:+.2f} on turned digits, at most {-MAX_LOSS:.3f} on usual ones"
    print(f"learned from {figures['samples']} samples; asked for are {goals}: {'reached' if ok else 'NOT reached'}")
    return bool(ok)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        with _home(options.keep) as home:
            figures = Run(options, home, print).loop()
    except (LoopError, AgentError, TrainError, ZooError, EvaluateError, OSError) as exc:
        print(f"learning_loop: {exc}", file=sys.stderr)
        return 1
    ok = report(figures)
    if options.json:
        print(json.dumps(figures))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
