"""Makes the digits bundles (models/digits, tests/models/digits_float) and the drawn digits beside this file.

    python3 tools/build_zoo.py --only-venv
    python3 tools/fetch_models.py digits
    .venv-zoo/bin/python tests/golden/make_digits.py train draw

`train` takes about five minutes on two cores. MNIST's pixels are only read: no licence comes with them, so the pictures
for the tests are drawn instead. Seeds are fixed; another processor or TensorFlow may round differently.
"""

import argparse
import gzip
import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / ".cache" / "zoo" / "mnist.pkl.gz"
DIGITS = Path(__file__).resolve().parent / "digits"
VERSION = "2026.11.1"
EPOCHS = 8
BATCH = 128
CALIBRATION_DIGITS = 500

Pixels = NDArray[np.uint8]

MANIFEST = """\
# {comment}
# Made by tests/golden/make_digits.py: Conv32-Pool-Conv64-Pool-Conv64-Dense64-Dense10, trained on MNIST.
name: {name}
version: "{version}"
task: classify
input: {{width_px: 28, height_px: 28, color: gray, resize: letterbox, mean: [0], std: [255]}}   # white on black
decoder: {{type: classify, top_k: 3}}
labels: labels.txt
metrics: {{accuracy: {accuracy:.4f}, macro_f1: {macro_f1:.4f}, dataset: "MNIST, the 10,000 test digits"}}
"""


class _ArraysOnly(pickle.Unpickler):
    """A pickle may run anything; this one may make numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in {
            ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
        }:  # fmt: skip
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_mnist() -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """Training pictures (60,000 x 28 x 28), their labels, test pictures (10,000 x 28 x 28), their labels."""
    parts = _ArraysOnly(io.BytesIO(gzip.decompress(MNIST.read_bytes())), encoding="latin1").load()
    pixels = [np.round(part[0] * 256).astype(np.uint8).reshape(-1, 28, 28) for part in parts]  # stored as k / 256
    labels = [part[1].astype(np.uint8) for part in parts]
    return np.concatenate(pixels[:2]), np.concatenate(labels[:2]), pixels[2], labels[2]


def train(pixels: Pixels, labels: Pixels) -> Any:
    """The Keras model, with a fixed batch of 1: tflite-runtime hands no other to XNNPACK."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    # Shifted, turned and scaled a little: real cameras do not centre their digits.
    disturb = keras.Sequential(
        [
            layers.RandomTranslation(0.08, 0.08, fill_mode="constant", seed=1),
            layers.RandomRotation(0.03, fill_mode="constant", seed=2),
            layers.RandomZoom(0.12, fill_mode="constant", seed=3),
        ]
    )
    inputs = keras.Input((28, 28, 1))
    model = keras.Model(inputs, network(disturb(inputs)))
    steps = EPOCHS * (len(pixels) // BATCH + 1)
    rate = keras.optimizers.schedules.CosineDecay(1.5e-3, steps, alpha=0.02)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(_scaled(pixels), labels.astype(np.int64), batch_size=BATCH, epochs=EPOCHS, verbose=2)
    fixed = keras.Input(batch_shape=(1, 28, 28, 1))
    return keras.Model(fixed, network(fixed))


def convert(model: Any, calibration: Pixels | None) -> bytes:
    """TFLite: weights and activations as int8 with uint8 input and output, or without calibration float16 weights."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibration is None:
        converter.target_spec.supported_types = [tf.float16]
    else:
        converter.representative_dataset = lambda: ([_scaled(picture)[None]] for picture in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return bytes(converter.convert())


def measure(model: bytes, pixels: Pixels, labels: Pixels) -> tuple[float, float]:
    """Accuracy and macro F1 on the runtime that the agent uses."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    guesses = np.empty(len(labels), np.intp)
    for place, picture in enumerate(pixels):
        value = picture[..., None] if given["dtype"] == np.uint8 else _scaled(picture)
        interpreter.set_tensor(given["index"], value[None])
        interpreter.invoke()
        guesses[place] = interpreter.get_tensor(made["index"])[0].argmax()
    table = np.zeros((10, 10), np.int64)
    np.add.at(table, (labels, guesses), 1)
    f1 = 2 * table.diagonal() / (table.sum(0) + table.sum(1))
    return float(table.trace() / table.sum()), float(f1.mean())


def _scaled(pixels: Pixels) -> NDArray[np.float32]:
    return (pixels.astype(np.float32) / np.float32(255))[..., None]


def write_bundle(home: Path, version: str, comment: str, model: bytes, scores: tuple[float, float]) -> None:
    """A bundle with `current` beside it."""
    folder = home / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(model)
    (folder / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    text = MANIFEST.format(comment=comment, name=home.name, version=version, accuracy=scores[0], macro_f1=scores[1])
    (folder / "manifest.yaml").write_text(text)
    (home / "current").write_text(f"{version}\n")
    print(f"{home.name} {version}: {len(model)} bytes, accuracy {scores[0]:.4f}, macro F1 {scores[1]:.4f}")


def _arc(x: float, y: float, across: float, down: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points of an ellipse around (x, y), angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 24))
    return [(x + across * np.cos(angle), y + down * np.sin(angle)) for angle in angles]


STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [_arc(0.5, 0.5, 0.27, 0.4, -90, 270)],
    1: [[(0.42, 0.25), (0.52, 0.1), (0.52, 0.9)]],
    2: [[*_arc(0.5, 0.3, 0.26, 0.2, -170, 40), (0.25, 0.88), (0.8, 0.86)]],
    3: [[*_arc(0.47, 0.29, 0.24, 0.19, -150, 85), *_arc(0.47, 0.69, 0.28, 0.21, -80, 150)]],
    4: [[(0.3, 0.12), (0.24, 0.52), (0.78, 0.5)], [(0.68, 0.12), (0.62, 0.92)]],
    5: [[(0.76, 0.1), (0.32, 0.12), (0.3, 0.45), *_arc(0.46, 0.65, 0.26, 0.23, -110, 140)]],
    6: [[(0.62, 0.1), (0.4, 0.35), (0.3, 0.65), *_arc(0.5, 0.7, 0.21, 0.19, 190, -170)]],
    7: [[(0.22, 0.14), (0.78, 0.13), (0.6, 0.5), (0.45, 0.92)]],
    8: [_arc(0.5, 0.3, 0.19, 0.19, -90, 270), _arc(0.5, 0.7, 0.24, 0.21, -90, 270)],
    9: [[*_arc(0.47, 0.32, 0.22, 0.21, 0, -350), (0.69, 0.32), (0.66, 0.6), (0.58, 0.92)]],
}
"""Lines of the pen, in a unit square, y down."""


def draw(label: int, place: int) -> Pixels:
    """A digit drawn as MNIST's are: white on black, 20 pixels tall, its centre of mass in the middle of 28 x 28."""
    import cv2

    chance = np.random.default_rng([label, place])
    turn, slant, width_scale = np.radians(chance.uniform(-8, 8)), chance.uniform(-0.1, 0.25), chance.uniform(0.8, 1.1)
    bend = np.array([[width_scale, -slant], [0, 1]]) @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    large, thickness = np.zeros((200, 200), np.uint8), int(chance.integers(11, 17))
    for stroke in STROKES[label]:
        points = (np.array(stroke) - 0.5 + chance.normal(0, 0.006, (len(stroke), 2))) @ bend.T * 130 + 100
        cv2.polylines(large, [points.round().astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    x, y, width, height = cv2.boundingRect(large)
    scale = 20 / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(large[y : y + height, x : x + width], size, interpolation=cv2.INTER_AREA).astype(np.float64)
    small *= 255 / small.max()
    rows, columns = np.indices(small.shape)
    left = round(14 - float((columns * small).sum() / small.sum()) - 0.5)
    top = round(14 - float((rows * small).sum() / small.sum()) - 0.5)
    left, top = min(max(left, 0), 28 - size[0]), min(max(top, 0), 28 - size[1])
    picture = np.zeros((28, 28), np.uint8)
    picture[top : top + size[1], left : left + size[0]] = small.round()
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("train", "draw"))
    what = parser.parse_args().what
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "train" in what:
        pixels, labels, test_pixels, test_labels = load_mnist()
        model = train(pixels, labels)
        whole, part = convert(model, None), convert(model, pixels[:CALIBRATION_DIGITS])
        write_bundle(
            ROOT / "models" / "digits", VERSION, "Handwritten digits, int8 with uint8 input and output.",
            part, measure(part, test_pixels, test_labels),
        )  # fmt: skip
        write_bundle(
            ROOT / "tests" / "models" / "digits_float", "1", "Handwritten digits, float with float16 weights.",
            whole, measure(whole, test_pixels, test_labels),
        )  # fmt: skip
    if "draw" in what:
        import cv2

        DIGITS.mkdir(exist_ok=True)
        for label in range(10):
            for place in range(2):
                cv2.imwrite(str(DIGITS / f"{label}_{place}.png"), draw(label, place))
    return 0


if __name__ == "__main__":
    sys.exit(main())
