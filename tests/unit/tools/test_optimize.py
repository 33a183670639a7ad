"""tools/optimize.py: what is taken and what is refused. How candidates are made is in test_optimize_network.py."""

import shutil
from pathlib import Path

import cv2
import pytest

from agent.evaluation.measures import confuse
from agent.inference.bundle import load_bundle
from agent.inference.golden import GoldenSet
from agent.inference.locate import find_bundle
from tests.sim.bundles import FOR_TESTS, make_bundle, model_path
from tests.unit.tools.drawn import destroyed, make_set
from tools.budget import Budget, Candidate, Loss, Refused, choose, loss, on_front, over_budget, worst_class
from tools.optimize import main
from tools.optimize_view import candidate_table

LABELS = ("cat", "dog")
WANTED = [0] * 10 + [1] * 90
PERFECT = confuse(WANTED, WANTED, 2)
NO_CATS = confuse([1] * 100, WANTED, 2)
ONE_CAT_LESS = confuse([1, *WANTED[1:]], WANTED, 2)


def candidate(name: str, size_bytes: int, time_ratio: float, confusion=PERFECT) -> Candidate:
    return Candidate(name, Path(name), size_bytes, size_bytes, time_ratio, time_ratio, confusion)


WHOLE = candidate("float", 1000, 1.0)


def test_the_loss_names_the_class_that_loses_most() -> None:
    assert loss(PERFECT, NO_CATS, LABELS) == Loss(pytest.approx(1 - 90 / 190), 1.0, "cat")
    assert loss(NO_CATS, PERFECT, LABELS).f1 < 0


def test_a_destroyed_class_is_refused_however_little_the_mean_falls() -> None:
    """98 classes and one more: the mean falls by one in a hundred."""
    wanted = list(range(100)) * 2
    answers = [42 if label == 17 else label for label in wanted]
    found = loss(confuse(wanted, wanted, 100), confuse(answers, wanted, 100), [f"part {n}" for n in range(100)])
    assert found.f1 < 0.02
    assert over_budget(found, Budget(0.02, 0.05)) == "class part 17 loses 1.0000 of F1, allowed are 0.05"


def test_the_budget_allows_what_it_says() -> None:
    assert over_budget(Loss(0.01, 0.03, "cat"), Budget(0.01, 0.03)) is None
    assert over_budget(Loss(0.0101, 0.03, "cat"), Budget(0.01, 0.03)) == "F1 falls by 0.0101, allowed are 0.01"


def test_the_smallest_and_fastest_within_the_budget_is_taken() -> None:
    tried = [
        candidate("fp16", 500, 1.0), candidate("dynamic", 260, 0.4), candidate("int8", 250, 0.7),
        candidate("broken", 100, 0.1, NO_CATS),
    ]  # fmt: skip
    assert choose(WHOLE, tried, LABELS, Budget(0.003, 0.01)).name == "dynamic"
    assert choose(WHOLE, tried, LABELS, Budget(1, 1)).name == "broken"


def test_when_nothing_is_good_enough_each_is_told_of() -> None:
    tried = [candidate("slow", 900, 2.0), candidate("small", 100, 0.5, ONE_CAT_LESS)]
    with pytest.raises(Refused) as refused:
        choose(WHOLE, tried, LABELS, Budget(0.01, 0.01))
    assert str(refused.value).splitlines() == [
        "slow: gains nothing: size ratio times time ratio is 1.80",
        "small: class cat loses 0.0526 of F1, allowed are 0.01",
    ]


def test_the_front_has_what_no_other_beats() -> None:
    every = [
        WHOLE, candidate("small", 100, 0.9), candidate("fast", 300, 0.5), candidate("neither", 300, 0.9),
        candidate("no faster than the clock tells", 300, 0.499), candidate("smallest", 90, 0.9, ONE_CAT_LESS),
    ]  # fmt: skip
    assert [one.name for one in every if on_front(one, every)] == [
        "small", "fast", "no faster than the clock tells", "smallest",
    ]  # fmt: skip


def test_a_class_that_no_one_has_seen_is_not_the_worst() -> None:
    answers, wanted = [0, 1, 1], [0, 1, 0]
    assert worst_class(confuse(answers, wanted, 3), ("cat", "dog", "yeti")) == ("cat", pytest.approx(2 / 3))


def test_the_table_marks_the_front_and_what_is_over_the_budget() -> None:
    lines = candidate_table([WHOLE, candidate("int8", 250, 0.5, ONE_CAT_LESS)], LABELS, Budget(0.01, 0.01))
    assert lines[1].startswith("* float")
    assert lines[2].startswith("* int8")
    assert "0.25" in lines[2]
    assert lines[2].endswith("cat: 0.9474  cat: 0.0526  over the budget")


def float_digits(tmp_path: Path) -> Path:
    return make_bundle("digits_float", tmp_path) / "digits_float" / "1"


def test_a_candidate_that_loses_a_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = float_digits(tmp_path), make_set(tmp_path / "drawn")
    bad = destroyed(7, tmp_path / "pruned.tflite")
    arguments = [str(folder), "--data", str(data), "--only", "--candidate", str(bad), "--max-f1-drop", "0.2"]
    assert main(arguments) == 3
    said = capsys.readouterr()
    assert "pruned: class 7 loses 1.0000 of F1, allowed are 0.01" in said.err
    assert "over the budget" in said.out
    assert sorted(path.name for path in folder.parent.iterdir()) == ["1", "current"]
    assert (folder.parent / "current").read_text() == "1\n"


def test_a_better_one_becomes_a_version_with_golden_pictures_and_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = float_digits(tmp_path), make_set(tmp_path / "drawn")
    good = Path(shutil.copyfile(model_path("digits"), tmp_path / "int8.tflite"))
    bad = destroyed(7, tmp_path / "pruned.tflite")
    plot = tmp_path / "pareto.png"
    arguments = [str(folder.parent), "--data", str(data), "--only", "--candidate", str(good), str(bad)]
    assert main([*arguments, "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "int8 is version 1-int8" in said
    assert "recommended: threads" in said
    assert cv2.imread(str(plot)) is not None
    made = find_bundle(folder.parent.parent, "digits_float")
    bundle = load_bundle(made)
    assert (made.name, bundle.info.version) == ("1-int8", "1-int8")
    assert bundle.manifest.metrics["f1"] == 1.0
    assert (bundle.manifest.metrics["threads_speedup"] == 1.0) is (bundle.manifest.threads == 1)
    assert bundle.manifest.metrics["dataset"].startswith("drawn, split test, index ")
    golden = GoldenSet(made, bundle.manifest.golden)
    assert [golden.try_one(place, bundle.run)[1] for place in range(len(golden.samples))] == [1.0] * 10
    arguments[0] = str(folder)
    assert main(arguments) == 1
    assert "1-int8 is there already: --force writes over it" in capsys.readouterr().err


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, whole, model = (
        make_set(tmp_path / "drawn"),
        [str(FOR_TESTS / "digits_float" / "1")],
        str(model_path("digits")),
    )
    for arguments, message in (
        ([*whole, "--data", str(data)], "1.keras is not there: tools/train.py keeps it"),
        ([*whole, "--data", str(tmp_path)], "index.csv: no such file"),
        ([*whole, "--data", str(data), "--only", "--candidate", model, model], "another candidate has this name"),
        ([str(FOR_TESTS / "nobody"), "--data", str(data)], "no model 'nobody'"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("optimize: ")
        assert error.count("\n") == 1
        assert message in error
