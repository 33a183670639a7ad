"""A head of the operator's labels: made, used, taken back, and refused where it would do no good."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import cv2
import msgspec
import pytest

from agent.config import Config, Delegate, Feedback
from agent.errors import FeedbackRefused
from agent.feedback.service import FeedbackService
from agent.inference.bundle import load_bundle
from agent.inference.golden import make_golden
from agent.inference.protocol import Answer
from agent.inference.worker import Worker
from agent.runtime.clock import Clock
from agent.runtime.health import Health
from agent.runtime.progress import Progress
from agent.updates.personal import Personalizer
from agent.updates.service import UpdateService, make_update_service
from agent.wire.archive import archive_digest
from agent.wire.messages import Stamp
from agent.wire.topics import Topics
from tests.sim import wait_until
from tests.sim.digit_sets import DIGITS, digits, turned
from tests.sim.embedded import embedded_digits
from tests.unit.feedback.test_samples import note
from tests.unit.updates.support import LivePipeline

pytestmark = pytest.mark.runtime
ANGLES = (40.0, 50.0, 60.0)


class Device:
    """The digits model, updates in their thread, and a pipeline that is looked at."""

    def __init__(self, folder: Path) -> None:
        self.models, self.stop = folder / "models", threading.Event()
        self.home = self.models / "digits"
        pipeline = {
            "name": "door",
            "model": "digits",
            "source": {"type": "synthetic"},
            "infer_timeout_s": 20,
            "feedback": {"keep": "hard", "personalize": True},
        }
        fields = {
            "samples": {"dir": str(folder / "samples")}, "models": {"dir": str(self.models)}, "pipelines": [pipeline],
        }  # fmt: skip
        self.config = msgspec.convert(fields, Config)
        self.feedback = FeedbackService(self.config, Topics("edge", "cam-1"), SimpleNamespace(), Health())
        self.updates = self._updates()
        spec = self.config.pipelines[0]
        self.live = LivePipeline(
            self.updates.make_active(spec), digits()[0][1], **{**pipeline, "source": {"type": "synthetic"}}
        )
        self.updates.attach([self.live], lambda: None)
        self._thread = threading.Thread(target=self.updates.loop, args=[self.stop])
        self.personalizer = Personalizer(self.updates, self.feedback, self.stop)

    def _updates(self) -> UpdateService:
        stamp = Stamp("cam-1", Clock())
        return make_update_service(
            self.config, stamp, Clock(), SimpleNamespace(), lambda _: None, Progress(), self.stop
        )

    def __enter__(self) -> Self:
        self.live.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(20)
        self.live.__exit__()
        assert not self._thread.is_alive()

    def show(self, angles: tuple[float, ...], wrong_by: int = 0) -> None:
        """Keep each digit turned by these angles, with its label."""
        store = self.feedback.store_of("door")
        for number, (label, picture) in enumerate((label, turned(one, by)) for label, one in digits() for by in angles):
            kept = note(number, label=str((int(label) + wrong_by) % 10))
            assert store.put(kept, cv2.imencode(".png", picture)[1].tobytes())

    def personalize(self, **feedback: object) -> dict[str, object]:
        spec = self.config.pipelines[0]
        settings = msgspec.structs.replace(spec.feedback, **feedback)
        return self.personalizer.personalize(msgspec.structs.replace(spec, feedback=settings))

    @property
    def answers(self) -> str:
        """Version that answers frames."""
        return self.live.active.info.version if self.live.active.info else ""

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in self.home.iterdir() if path.is_dir())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return embedded_digits(tmp_path / "models")


@pytest.fixture
def device(tmp_path: Path, bundle: Path) -> Iterator[Device]:
    with Device(tmp_path) as device:
        yield device


def add_golden(bundle: Path) -> None:
    pictures = sorted(DIGITS.glob("*.png"))
    make_golden(bundle, pictures, load_bundle(bundle).run, 0.0)
    with (bundle / "manifest.yaml").open("a") as manifest:
        manifest.write("golden: {dir: golden, min_agreement: 0.9}\n")


def right_of(bundle: Path, angles: tuple[float, ...]) -> float:
    model = load_bundle(bundle)
    answers = [
        (model.run(turned(picture, by), 0.0).found.classes or [])[0].label == label
        for label, picture in digits()
        for by in angles
    ]
    return sum(answers) / len(answers)


class TestPersonalize:
    def test_labels_become_a_version_that_answers_and_can_be_taken_back(self, tmp_path: Path, bundle: Path) -> None:
        add_golden(bundle)
        signed = archive_digest(bundle)
        (bundle / ".release").write_text(f'{{"release":3,"sha256":"{signed}"}}')  # as if a release had brought it
        with Device(tmp_path) as device:
            device.show(ANGLES)
            figures = device.personalize()
            assert (figures["version"], figures["labels"], figures["left_out"]) == ("1+p1", 60, 0)
            assert figures["golden_agreement"] >= 0.9
            assert figures["accuracy"] > figures["accuracy_before"] + 0.1
            wait_until(lambda: device.answers == "1+p1", 20)
            made = device.home / "1+p1"
            assert right_of(made, (45.0, 55.0)) > right_of(bundle, (45.0, 55.0)) + 0.1, "others than those it learnt of"
            assert (made / "model.tflite").read_bytes() == (bundle / "model.tflite").read_bytes()

            update = device.updates.by_model["digits"]
            live = update.store.record.live
            assert update.store.is_revoked(live, [signed]), "who revokes the model revokes what was made of it"
            assert not update.store.is_revoked(live, ["0" * 64])

            device.updates.ask(update.roll_back)
            wait_until(lambda: device.answers == "1", 20)
            again = device.personalize()
            assert again["version"] == "1+p2"
            assert device.folders == ["1", "1+p2"], "what is neither used nor the one before goes"

    def test_a_head_is_learnt_on_top_of_the_one_before(self, device: Device) -> None:
        device.show(ANGLES)
        first = device.personalize()
        device.show((-40.0, -50.0, -60.0))  # under the ids of those before
        second = device.personalize()
        assert second["version"] == "1+p2"
        assert second["accuracy"] > second["accuracy_before"]
        assert right_of(device.home / "1+p2", (-45.0,)) > right_of(device.home / str(first["version"]), (-45.0,))

    def test_blanks_in_the_file_of_labels_do_not_matter_as_they_do_not_for_answers(
        self, device: Device, bundle: Path
    ) -> None:
        labels = bundle / "labels.txt"
        labels.write_text(labels.read_text().replace("\n", " \n"))
        device.show(ANGLES)
        figures = device.personalize()
        assert (figures["labels"], figures["left_out"]) == (60, 0)


class TestRefused:
    """Nothing is made, and what ran goes on."""

    @pytest.fixture(autouse=True)
    def nothing_changes(self, device: Device) -> Iterator[None]:
        yield
        assert device.folders == ["1"]
        assert device.answers == "1"

    def test_where_it_is_not_allowed(self, device: Device) -> None:
        device.show(ANGLES)
        with pytest.raises(FeedbackRefused, match=r"door does not allow it; feedback: \{personalize: true\} does"):
            device.personalize(personalize=Feedback().personalize)

    def test_too_few_labels_that_the_model_knows(self, device: Device) -> None:
        store = device.feedback.store_of("door")
        for number in range(30):
            store.put(note(number, label="cow" if number > 8 else "3"), b"")
        with pytest.raises(FeedbackRefused, match="9 labelled samples are there, at least 10 are needed"):
            device.personalize()

    def test_files_that_can_not_be_read_do_not_count(self, device: Device) -> None:
        store = device.feedback.store_of("door")
        for number in range(12):
            store.put(note(number, label="3"), b"no picture")
        with pytest.raises(FeedbackRefused, match="0 labelled samples can be read, at least 10 are needed"):
            device.personalize()

    @pytest.mark.parametrize("field", ["embedding", "log_confidences"])
    @pytest.mark.parametrize("data", [b"abc", b"\0\0\xc0\x7f" * 10, b"\0" * 12], ids=["torn", "nan", "size"])
    def test_what_a_worker_says_that_makes_no_sense_does_not_count(
        self, device: Device, monkeypatch: pytest.MonkeyPatch, field: str, data: bytes
    ) -> None:
        """A model that has taken over its process says what it likes."""
        device.show(ANGLES)
        real, seen = Worker.run, 0

        def run(*args: Any, **options: Any) -> Answer:
            nonlocal seen
            answer, seen = real(*args, **options), seen + 1
            if seen == 1 or answer.evidence is None:
                return answer
            evidence = msgspec.structs.replace(answer.evidence, **{field: data})
            return msgspec.structs.replace(answer, evidence=evidence)

        monkeypatch.setattr(Worker, "run", run)
        with pytest.raises(FeedbackRefused, match="1 labelled samples can be read, at least 10 are needed"):
            device.personalize()

    def test_what_the_model_knows_already(self, device: Device) -> None:
        device.show((0.0,))
        with pytest.raises(FeedbackRefused, match=r"it would get no better: .* label more"):
            device.personalize()

    def test_a_head_that_does_not_start_is_deleted(self, device: Device) -> None:
        device.show(ANGLES)
        device.live.spec = msgspec.structs.replace(device.live.spec, delegate=Delegate(library="libnone.so"))
        with pytest.raises(FeedbackRefused, match=r"libnone\.so"):
            device.personalize()


def test_labels_that_contradict_the_golden_samples_are_not_believed(tmp_path: Path, bundle: Path) -> None:
    add_golden(bundle)
    with Device(tmp_path) as device:
        device.show((0.0, 5.0, -5.0), wrong_by=1)
        with pytest.raises(FeedbackRefused, match="it would forget: golden samples agree to 0"):
            device.personalize()
        assert (device.folders, device.answers) == (["1"], "1")
