"""From labelled samples to a better model, or to none. TensorFlow's part is taken by a head on the old model."""

import argparse
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from agent.errors import DataSetError
from agent.feedback.learner import learn as learn_head
from agent.inference.bundle import load_bundle
from agent.manifest import load_manifest
from tests.sim.digit_sets import digits, turned
from tests.sim.digit_sets import make_set as make_digits
from tests.sim.embedded import embedded_digits
from tests.unit.tools.kept import png, told
from tools import feedback, feedback_learn
from tools.feedback_inbox import Inbox, Refused
from tools.feedback_learn import MIN_FAIR_TEST, Verdict, compare, judge, make_set, next_version
from tools.picture_set import PictureSet, load_set

LABELS = [str(number) for number in range(10)]
ANGLES = tuple(float(angle) for angle in range(40, 76, 5))


def fill(inbox: Inbox, angles: tuple[float, ...], start: int = 1, **fields: object) -> None:
    """Each digit turned by each angle, with its label."""
    samples = [(label, turned(picture, by)) for label, picture in digits() for by in angles]
    for number, (label, picture) in enumerate(samples, start):
        inbox.take(told(number, **{"label": label, **fields}), png(picture), "cam-1")


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "door")


class TestMakeSet:
    def test_a_sample_stays_in_its_split_when_others_come(self, inbox: Inbox) -> None:
        fill(inbox, ANGLES[:5])
        first = {entry.source: entry.split for entry in make_set(inbox, LABELS, None).entries}
        fill(inbox, (20.0,), start=1000)
        again = {entry.source: entry.split for entry in make_set(inbox, LABELS, None).entries}
        assert {source: again[source] for source in first} == first
        assert set(first.values()) == {"train", "validation", "test"}
        made = load_set(inbox.folder / "data")
        assert all(made.sample(entry).shape == (28, 28, 3) for entry in made.entries[:5])

    def test_the_same_pixels_count_once(self, inbox: Inbox) -> None:
        fill(inbox, ANGLES[:5])
        fill(inbox, ANGLES[:5], start=1000)
        assert len(make_set(inbox, LABELS, None).entries) == 100

    def test_judged_by_what_was_kept_during_drift_if_there_is_enough(self, inbox: Inbox) -> None:
        """What was kept because it was hard says nothing of frames in general."""
        fill(inbox, ANGLES[:5], reasons=["unsure", "drift"])
        fill(inbox, (20.0, 25.0), start=1000)
        held_out = {entry.source for entry in make_set(inbox, LABELS, None).entries if entry.split != "train"}
        assert held_out
        assert all("drift" in inbox.find(name).info.reasons for name in held_out)

    def test_a_class_that_the_model_has_not_is_told(self, inbox: Inbox) -> None:
        fill(inbox, ANGLES[:5])
        inbox.label(next(inbox.all()), "cow")
        with pytest.raises(DataSetError, match=r"the model has no class 'cow'; it has 0, 1, 2.*For a new class"):
            make_set(inbox, LABELS, None)

    def test_too_few_labels_judge_nothing(self, inbox: Inbox) -> None:
        fill(inbox, (40.0,))
        with pytest.raises(DataSetError, match="20 samples have a label; label about 100"):
            make_set(inbox, LABELS, None)
        assert not (inbox.folder / "data").exists()


@pytest.mark.parametrize(
    ("there", "model", "expected"),
    [
        ([], "1", "1-f1"), (["1-f1"], "1", "1-f2"), (["1-f1"], "1-f1", "1-f2"), ([], "2.1-float", "2.1-float-f1"),
        ([], "1-fx", "1-fx-f1"), ([], "-f7", "-f7-f1"),
    ],
)  # fmt: skip
def test_the_next_version(tmp_path: Path, there: list[str], model: str, expected: str) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    assert next_version(tmp_path / model) == expected


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Verdict(0.99, 0.99, 0.92, 0.94, 50), None),
        (Verdict(0.990, 0.987, 0.80, 0.95, 50), None),
        (Verdict(0.99, 0.99, 0.92, 0.935, 50), "on new data it gains +0.0150, at least 0.02 is asked for"),
        (Verdict(0.99, 0.99, 0.92, 0.50, 50), "on new data it gains -0.4200"),
        (Verdict(0.99, 0.98, 0.80, 0.99, 50), "on old data it loses 0.0100, allowed are 0.003; a smaller --weight"),
    ],
)
def test_better_on_both_by_the_margins_or_refused(verdict: Verdict, told: str | None) -> None:
    if told is None:
        judge(verdict, 0.02, 0.003)
    else:
        with pytest.raises(Refused) as caught:
            judge(verdict, 0.02, 0.003)
        assert str(caught.value).startswith("refused, nothing is pushed: ")
        assert told in str(caught.value)


# --- the command `learn`


def with_head(old: Path, pictures: list[PictureSet], out: Path) -> Path:
    """In place of training: the old model, with a head that was learnt of split `train` of these."""
    bundle = load_bundle(old)
    embeddings, logs, truths = [], [], []
    for data in pictures:
        for entry in data.of("train"):
            evidence = bundle.run(data.sample(entry), 0.5, evidence=True).evidence
            embeddings.append(np.frombuffer(evidence.embedding, "<f4"))
            logs.append(np.frombuffer(evidence.log_confidences, "<f4"))
            truths.append(LABELS.index(entry.label))
    lesson = learn_head(np.stack(embeddings), np.stack(logs), np.array(truths))
    shutil.copytree(old, out)
    file = io.BytesIO()
    np.save(file, lesson.head)
    (out / "head.npy").write_bytes(file.getvalue())
    text = (out / "manifest.yaml").read_text().replace('version: "1"', f'version: "{out.name}"')
    (out / "manifest.yaml").write_text(f"{text}head: head.npy\n")
    out.with_name(f"{out.name}.keras").write_bytes(b"the network")
    return out


@pytest.fixture
def bench(tmp_path: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of a run; what `--push` is given is written to `pushed`."""
    embedded_digits(tmp_path / "models")
    make_digits(tmp_path / "old", (-6.0, 0.0, 6.0), (-1, 1))
    fill(inbox, ANGLES, reasons=["drift"])
    (tmp_path / "pushed").mkdir()

    def push(arguments: list[str]) -> int:
        (tmp_path / "pushed" / "arguments").write_text(json.dumps(arguments))
        return 0

    def retrain(options: argparse.Namespace, old: Path, new_set: PictureSet, version: str, out: Path) -> Path:
        (out / "digits").mkdir()
        return with_head(old, [load_set(options.data), new_set], out / "digits" / version)

    monkeypatch.setattr(feedback_learn.push_model, "main", push)
    monkeypatch.setattr(feedback_learn, "retrain", retrain)
    return ["learn", str(inbox.folder), "--model", str(tmp_path / "models" / "digits"), "--data", str(tmp_path / "old")]


@pytest.mark.runtime
def test_what_is_better_becomes_current_and_is_pushed(bench: list[str], tmp_path: Path, capsys: object) -> None:
    report = tmp_path / "report.json"
    assert feedback.main([*bench, "--report", str(report), "--push", "--key", "k.pem", "--device", "cam-1"]) == 0
    home = tmp_path / "models" / "digits"
    assert (home / "current").read_text() == "1-f1\n"
    assert (home / "1-f1.keras").read_bytes() == b"the network"
    figures = Verdict(**json.loads(report.read_text()))
    assert figures.gain > 0.1
    assert figures.loss <= 0.003
    assert figures.new_samples >= MIN_FAIR_TEST
    assert json.loads((tmp_path / "pushed" / "arguments").read_text()) == [
        str(home / "1-f1"), "--key", "k.pem", "--device", "cam-1",
    ]  # fmt: skip


@pytest.mark.runtime
def test_what_is_no_better_is_refused_with_exit_code_3(
    bench: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with figures that are better, if not by the margin."""
    assert feedback.main([*bench, "--min-gain", "0.9", "--push", "--key", "k.pem"]) == 3
    captured = capsys.readouterr()
    assert "feedback: refused, nothing is pushed: on new data it gains +0." in captured.err
    assert "accuracy" in captured.out, "the table comes in any case"
    home = tmp_path / "models" / "digits"
    assert (home / "current").read_text() == "1\n"
    assert not (home / "1-f1").exists()
    assert not (tmp_path / "pushed" / "arguments").exists()


def test_a_version_that_is_there_is_told_before_the_work(
    bench: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert feedback.main([*bench, "--version", "1"]) == 1
    assert "1 is there already; choose another --version" in capsys.readouterr().err
    assert not (tmp_path / "door" / "data").exists()


@pytest.mark.runtime
def test_figures_are_of_both_models_on_both_data_sets(inbox: Inbox, tmp_path: Path) -> None:
    old = embedded_digits(tmp_path / "models")
    old_set = make_digits(tmp_path / "old", (0.0, 6.0), (0,))
    fill(inbox, ANGLES)
    new_set = make_set(inbox, LABELS, None)
    bundle, test = load_bundle(old), new_set.of("test")
    right = [(bundle.run(new_set.sample(one), 0.0).found.classes or [])[0].label == one.label for one in test]
    verdict = compare(old, old, old_set.folder, new_set)
    assert verdict.old_on_new == pytest.approx(sum(right) / len(test), abs=1e-4)
    assert (verdict.gain, verdict.loss, verdict.new_samples) == (0.0, 0.0, len(test))
    assert verdict.old_on_old > verdict.old_on_new + 0.2


@pytest.mark.runtime
def test_new_pictures_become_the_reference_for_drift_when_there_are_enough(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, said = embedded_digits(tmp_path / "models"), []
    fill(inbox, ANGLES[:5])
    new_set = make_set(inbox, LABELS, None)
    feedback_learn.set_reference(bundle, new_set, said.append)
    assert "stays that of the old data" in said[0]
    assert load_manifest(bundle / "manifest.yaml").reference is None
    monkeypatch.setattr(feedback_learn, "MIN_REFERENCE", 30)
    feedback_learn.set_reference(bundle, new_set, said.append)
    assert load_manifest(bundle / "manifest.yaml").reference.samples == len(
        [entry for entry in new_set.entries if entry.split != "train"]
    )
