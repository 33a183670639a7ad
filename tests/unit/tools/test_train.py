"""tools/train.py: all but the training, which takes TensorFlow and has tests that are slow."""

import argparse
import shutil
import tomllib
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from agent.inference.bundle import load_bundle
from agent.inference.golden import GoldenSet
from agent.manifest import DenoiseStep, EqualizeStep, GammaStep, InputSpec, Manifest, SeriesInput
from tests.sim.bundles import OWN, ROOT
from tests.unit.tools.drawn import make_set
from tools.augment import Augment, Labelled, batches
from tools.build_zoo import REQUIREMENTS, VENV
from tools.dataset import main as dataset
from tools.networks import WEIGHTS
from tools.optimize import main as optimize
from tools.picture_set import load_set
from tools.train import draft, main
from tools.train_manifest import checked
from tools.train_options import make_parser
from tools.train_plan import gather, make_plan, measured
from tools.training import TrainError, inputs, targets


def options(*arguments: str):
    return make_parser(None).parse_args(["--name", "parts", *arguments])


def manifest_of(given: argparse.Namespace) -> Manifest:
    return checked(draft(given, measured(make_plan(given)), "features:0"))


def test_the_network_gets_what_the_agent_would_give_it(tmp_path: Path) -> None:
    pictures = load_set(make_set(tmp_path / "drawn"))
    bundle, entries = load_bundle(OWN / "digits" / "2026.11.1"), pictures.of("test")
    given = inputs(pictures, entries, bundle.manifest.input)
    assert (given.shape, given.dtype) == ((10, 28, 28, 1), np.float32)
    for one, entry in zip(given, entries, strict=True):
        bundle.run(pictures.picture(entry), 0.0)
        np.testing.assert_array_equal(np.rint(one * 255), bundle.interpreter.input_view()[0])


def test_pictures_of_other_sizes_get_a_clean_border_each(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(10, 20), (20, 10)]):
        path = tmp_path / "parts" / f"class {number}" / "a.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((height, width), 255, np.uint8))
    assert dataset(["folder", str(tmp_path / "parts"), "--out", str(tmp_path / "set")]) == 0
    pictures = load_set(tmp_path / "set")
    spec = InputSpec(width_px=4, height_px=4, color="gray", std=(255.0,))
    wide, tall = inputs(pictures, pictures.entries, spec)[..., 0]
    assert wide.tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]
    assert tall.tolist() == wide.T.tolist()
    assert targets(pictures.entries, pictures.labels).tolist() == [0, 1]


def test_network_and_options_say_what_the_input_is(tmp_path: Path) -> None:
    data = ["--data", str(make_set(tmp_path / "drawn"))]
    steps = ["--step", "denoise, size_px: 5", "--step", "equalize", "--step", "gamma, gamma: 1.5"]
    assert manifest_of(options(*data, "--size-px", "64", "--color", "rgb", *steps)).input == InputSpec(
        width_px=64,
        height_px=64,
        color="rgb",
        mean=(0.0,),
        std=(255.0,),
        steps=(DenoiseStep(size_px=5), EqualizeStep(), GammaStep(gamma=1.5)),
    )
    assert manifest_of(options(*data)).input == InputSpec(width_px=28, height_px=28, color="gray", std=(255.0,))
    own = manifest_of(options(*data, "--network", "cnn-rgb"))
    assert own.input == InputSpec(width_px=32, height_px=32, color="rgb", std=(255.0,))
    assert own.embedding == "features:0"


@pytest.mark.parametrize("text", ["sharpen", "denoise, size_px: 4", "gamma", "denoise, size_px", "}"])
def test_steps_that_no_manifest_has(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        options("--data", "parts", "--step", text)
    assert end.value.code == 2
    assert f"argument --step: {text}: " in capsys.readouterr().err


def test_the_steps_are_done_before_the_network_learns(tmp_path: Path) -> None:
    given = options("--data", str(make_set(tmp_path / "drawn")), "--step", "gamma, gamma: 2")
    plan = make_plan(given)
    plain = plan._replace(spec=msgspec.structs.replace(plan.spec, steps=()))
    brightened, as_it_was = gather(plan, "test")["test"], gather(plain, "test")["test"]
    np.testing.assert_allclose(brightened.mean(), np.sqrt(as_it_was).mean(), atol=0.02)
    assert brightened.mean() > as_it_was.mean()


# --- several data sets, and models that go on


def test_data_sets_are_learned_together_each_with_its_weight(tmp_path: Path) -> None:
    first, second = (make_set(tmp_path / name) for name in ("old", "new"))
    plan = make_plan(options("--data", str(first), str(second), "--weights", "1", "2.5"))
    got = gather(plan, "validation")
    assert got["validation"].shape == (20, 28, 28, 1)
    assert got["validation_labels"].tolist() == [*range(10)] * 2
    assert got["validation_weights"].tolist() == [1.0] * 10 + [2.5] * 10


def earlier_model(home: Path) -> Path:
    """The digits model as tools/train.py would have left it; nothing looks into the .keras file before TensorFlow."""
    shutil.copytree(OWN / "digits" / "2026.11.1", home / "digits" / "1")
    (home / "digits" / "current").write_text("1\n")
    (home / "digits" / "1.keras").touch()
    return home / "digits"


def test_a_model_that_goes_on_keeps_its_input_and_its_classes(tmp_path: Path) -> None:
    home, drawn = earlier_model(tmp_path), make_set(tmp_path / "drawn")
    index = drawn / "index.csv"
    index.write_text("\n".join(line for line in index.read_text().splitlines() if ",3,pen" not in line) + "\n")
    for path in (home, home / "1", home / "1.keras"):
        plan = make_plan(options("--data", str(drawn), "--from", str(path)))
        assert plan.start == home / "1.keras"
        assert plan.labels == tuple("0123456789")
        assert plan.spec == load_bundle(home / "1").manifest.input
    assert 4 in gather(plan, "test")["test_labels"]


def test_what_a_model_can_not_go_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, drawn = earlier_model(tmp_path), make_set(tmp_path / "drawn")
    strange = make_set(tmp_path / "strange")
    (strange / "index.csv").write_text((strange / "index.csv").read_text().replace(",3,pen", ",three,pen"))
    shutil.copytree(home / "1", home / "2")
    for arguments, message in (
        (["--from", str(home / "1"), "--size-px", "32"], "--size-px: not with --from"),
        (["--from", str(home / "2")], "2.keras is not there: give --from the version whose .keras"),
        (["--from", str(tmp_path / "nowhere.keras")], "nowhere"),
        (["--from", str(OWN / "swing" / "2026.11.1")], "expected a model of this tool"),
        (["--from", str(home / "1"), "--weights", "1", "2"], "--weights: expected 1, one for each data set, got 2"),
    ):
        assert main(["--data", str(drawn), "--name", "d", "--out", str(tmp_path / "models"), *arguments]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(TrainError, match="the model has no class 'three'; it has 0, 1"):
        gather(make_plan(options("--data", str(strange), "--from", str(home / "1"))), "validation")


# --- windows


def waves(home: Path) -> Path:
    """Fast and slow ones of two sensors, in recordings of eight people: 100 rows at 10 Hz each."""
    chance = np.random.default_rng(1)
    for label, step in (("slow", 0.2), ("fast", 0.8)):
        for person in range(8):
            turns = np.arange(100)[:, None] * step + chance.uniform(0, 6) + np.array([[0.0, 1.0]])
            rows = 3 + 2 * np.sin(turns) + chance.normal(0, 0.2, turns.shape)
            path = home / label / f"person-{person}" / "a.csv"
            path.parent.mkdir(parents=True)
            path.write_text("\n".join(["a,b", *(f"{a:.3f},{b:.3f}" for a, b in rows), ""]))
    arguments = ["series", str(home), "--rate-hz", "10", "--samples", "20", "--stride", "5", "--out", f"{home}-set"]
    split = ["--test-sources", "person-6", "--validation-sources", "person-7"]
    assert dataset([*arguments, *split]) == 0
    return Path(f"{home}-set")


def test_windows_are_normalised_by_what_is_learned(tmp_path: Path) -> None:
    given = options("--data", str(waves(tmp_path / "waves")), "--network", "gru")
    spec = manifest_of(given).input
    assert isinstance(spec, SeriesInput)
    assert (spec.channels, spec.samples, spec.stride) == (("a", "b"), 20, 5)
    np.testing.assert_allclose(spec.mean, 3, atol=0.2)
    np.testing.assert_allclose(spec.std, np.sqrt(2), atol=0.2)
    learned = gather(measured(make_plan(given)), "train")["train"]
    assert learned.shape == (12 * 17, 20, 2)
    np.testing.assert_allclose(learned.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(learned.std((0, 1)), 1, atol=1e-4)


def test_networks_take_pictures_or_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    windows, drawn = waves(tmp_path / "waves"), make_set(tmp_path / "drawn")
    capsys.readouterr()
    for arguments, message in (
        ([str(windows), "--network", "cnn"], "it has windows, which network cnn does not take: choose one of conv1d, "),
        ([str(drawn), "--network", "gru"], "it has pictures, which network gru does not take: choose one of cnn, "),
        ([str(windows), "--network", "gru", "--step", "denoise"], "--step: only for pictures, "),
        ([str(drawn), str(windows)], "its samples are of another kind than those of"),
    ):
        assert main(["--name", "d", "--out", str(tmp_path / "models"), "--data", *arguments]) == 1
        assert message in capsys.readouterr().err


# --- augmentation


def test_batches_have_every_picture_once_an_epoch_moved_a_little() -> None:
    pictures = np.zeros((10, 5, 5, 1), np.float32)
    pictures[:, 2, 2] = np.arange(1, 11)[:, None]
    every = Labelled(pictures, np.arange(1, 11), np.linspace(0.1, 1, 10, dtype=np.float32))
    made = batches(every, Augment(shift_px=1), 4, seed=1)
    epochs = [[next(made) for _ in range(3)] for _ in range(2)]
    orders = [[int(label) for _, labels, _ in epoch for label in labels] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1, 11))
    assert orders[0] != orders[1]
    places = set()
    for moved, labels, weights in (batch for epoch in epochs for batch in epoch):
        np.testing.assert_allclose(weights, labels / 10)
        assert moved.shape[1:] == (5, 5, 1)
        assert moved.max((1, 2, 3)).tolist() == labels.tolist()
        places |= {divmod(int(one.argmax()), 5) for one in moved}
    assert len(places) > 4
    assert all(abs(row - 2) <= 1 and abs(column - 2) <= 1 for row, column in places)
    again = batches(every, Augment(shift_px=1), 4, seed=1)
    np.testing.assert_array_equal(next(again)[0], epochs[0][0][0])


def corner(count: int = 200) -> np.ndarray:
    """Pictures of 9 x 9, gray, with a white spot at the top, right of the middle."""
    pictures = np.full((count, 9, 9, 1), 0.5, np.float32)
    pictures[:, 0:2, 5:7] = 1.0
    return pictures


def test_what_augmentation_does_to_pictures() -> None:
    chance = np.random.default_rng(1)
    np.testing.assert_array_equal(Augment()(corner(), chance), corner())
    flipped = Augment(flip=True)(corner(), chance)
    mirrored = (flipped[:, 0, 2:4, 0] == 1).all(1)
    assert 60 < mirrored.sum() < 140
    np.testing.assert_array_equal(flipped[mirrored], corner()[:, :, ::-1][mirrored])
    turned = Augment(rotate_deg=90)(corner(), chance)
    assert len({divmod(int(one.argmax()), 9) for one in turned}) > 5
    np.testing.assert_allclose(turned.sum((1, 2, 3)), corner().sum((1, 2, 3)), rtol=0.05)
    lighter = Augment(brightness=0.2, low=0, high=1)(corner(), chance)
    change = lighter[:, 8, 8, 0] - 0.5
    assert -0.2 <= change.min() < -0.15
    assert 0.15 < change.max() <= 0.2
    assert lighter.max() == 1.0
    noisy = Augment(noise=0.1, low=0, high=1)(corner(), chance)
    assert noisy[:, 5:].std() == pytest.approx(0.1, rel=0.05)
    assert noisy.max() <= 1.0
    assert {one.dtype for one in (flipped, turned, lighter, noisy)} == {np.dtype(np.float32)}


def test_windows_get_noise_and_nothing_else() -> None:
    windows = np.zeros((50, 20, 2), np.float32)
    made = Augment(shift_px=3, rotate_deg=90, flip=True, brightness=0.5, noise=0.1)(windows, np.random.default_rng(1))
    assert made.std() == pytest.approx(0.1, rel=0.1)
    assert abs(made.mean()) < 0.01


def test_the_extra_has_the_versions_of_the_environment_and_the_device_installs_none() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {one.partition(";")[0] for one in project["optional-dependencies"]["train"]}
    assert extra >= {one for one in REQUIREMENTS if one.startswith(("tensorflow", "keras"))}
    assert [one for one in project["dependencies"] if one.startswith(("tensorflow", "keras"))] == []


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = make_set(tmp_path / "drawn")
    for arguments, message in (
        (["--name", "d", "--data", str(tmp_path)], "index.csv: no such file"),
        (["--name", "No Name", "--data", str(drawn)], "train: name: expected"),
        (["--name", "d", "--data", str(drawn)], "no picture is in split train"),
        (["--name", "d", "--data", str(drawn), "--version", "../1"], "train: version: expected"),
        (["--name", "digits", "--version", "2026.11.1", "--data", str(drawn), "--out", str(OWN)], "is there already"),
    ):
        assert main(["--out", str(tmp_path / "models"), *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("train: ")
        assert error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "models").exists()


def stripes(home: Path) -> Path:
    """Two classes: stripes across and down, with noise."""
    chance = np.random.default_rng(1)
    for label in ("across", "down"):
        (home / label).mkdir(parents=True)
        for number in range(120):
            picture = np.zeros((16, 16))
            picture[int(chance.integers(0, 4)) :: 4] = 200
            picture = np.clip(picture + chance.normal(20, 10, (16, 16)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(home / label / f"{number}.png"), picture if label == "across" else picture.T)
    return home


needs_tensorflow = pytest.mark.skipif(
    not (VENV / "ready.txt").is_file(), reason="TensorFlow is not there: python3 tools/build_zoo.py --only-venv"
)


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_folder_of_pictures_becomes_a_smaller_model(
    tmp_path: Path, optimizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, models = tmp_path / "set", tmp_path / "models"
    assert dataset(["folder", str(stripes(tmp_path / "stripes")), "--out", str(data)]) == 0
    arguments = ["--data", str(data), "--name", "stripes", "--network", "mlp", "--size-px", "16", "--batch", "16"]
    assert main([*arguments, "--optimizer", optimizer, "--out", str(models)]) == 0
    assert optimize([str(models / "stripes" / "1"), "--data", str(data)]) == 0
    bundle = load_bundle(models / "stripes" / (models / "stripes" / "current").read_text().strip())
    assert bundle.manifest.metrics["f1"] == 1.0
    golden = GoldenSet(models / "stripes" / bundle.info.version, bundle.manifest.golden)
    assert len(golden.samples) == 4
    assert "class that loses most" in capsys.readouterr().out


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("network", ["gru", "rnn", "conv1d"])
def test_recordings_become_a_model_that_goes_on_with_more(tmp_path: Path, network: str) -> None:
    data, models = waves(tmp_path / "waves"), tmp_path / "models"
    arguments = ["--data", str(data), "--name", "waves", "--out", str(models), "--batch", "16"]
    assert main([*arguments, "--network", network, "--epochs", "12", "--noise", "0.05"]) == 0
    first = load_bundle(models / "waves" / "1")
    assert first.manifest.metrics["f1"] > 0.9
    assert first.manifest.embedding in {info.name for info in first.interpreter.outputs}
    assert first.manifest.reference is not None
    more = ["--data", str(data), str(data), "--weights", "1", "5", "--version", "2", "--epochs", "2"]
    assert main([*arguments, *more, "--from", str(models / "waves" / "1")]) == 0
    second = load_bundle(models / "waves" / "2")
    assert second.manifest.input == first.manifest.input
    assert second.manifest.metrics["f1"] >= first.manifest.metrics["f1"]
    assert second.info.sha256 != first.info.sha256


@needs_tensorflow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="its weights are not there: python3 tools/fetch_models.py zoo")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_imagenet_taught_helps_with_something_else(tmp_path: Path) -> None:
    data, models = tmp_path / "set", tmp_path / "models"
    assert dataset(["folder", str(stripes(tmp_path / "stripes")), "--out", str(data)]) == 0
    arguments = ["--data", str(data), "--name", "stripes", "--network", "transfer", "--size-px", "64", "--batch", "16"]
    assert main([*arguments, "--epochs", "4", "--fine-tune", "--out", str(models)]) == 0
    bundle = load_bundle(models / "stripes" / "1")
    assert bundle.manifest.metrics["f1"] > 0.95
    assert bundle.manifest.input == InputSpec(width_px=64, height_px=64, mean=(127.0,), std=(128.0,))
