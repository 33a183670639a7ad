"""What tools/train.py and tools/optimize.py run inside the environment with TensorFlow: trains a network that tells
classes apart, and converts it to TFLite.

    python class_network.py train pictures.npz model.keras --network cnn --classes 10 --epochs 6 …
    python class_network.py convert model.keras FOLDER float fp16 dynamic int8 --calibration pictures.npz

`pictures.npz` holds `train` and `validation`, each N x height x width x channels, float32, as the model will get them
on the device, and `train_labels` and `validation_labels`, int64.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAST_RATE = 0.02
"""Share of the learning rate that is left at the end."""

Pictures = NDArray[np.float32]


# --- networks


def _cnn(layers: Any, classes: int) -> list[Any]:
    return [
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(classes, activation="softmax"),
    ]


def _mlp(layers: Any, classes: int) -> list[Any]:
    return [
        layers.Flatten(),
        layers.Dense(500, activation="relu"),
        layers.Dense(classes, activation="softmax"),
    ]


NETWORKS: Mapping[str, Callable[[Any, int], list[Any]]] = {"cnn": _cnn, "mlp": _mlp}
"""Conv32-Pool-Conv64-Pool-Conv64-Dense64-Dense, and Dense500-Dense."""


# --- training


def train(arrays: Mapping[str, NDArray[Any]], options: argparse.Namespace) -> Any:
    """The Keras model of the epoch that did best on the validation pictures."""
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    network = keras.Sequential([keras.Input(arrays["train"].shape[1:])])
    for layer in NETWORKS[options.network](keras.layers, options.classes):
        network.add(layer)
    per_epoch = -(-len(arrays["train"]) // options.batch)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.epochs * per_epoch, alpha=LAST_RATE)
    makers = {
        "adam": lambda: keras.optimizers.Adam(rate),
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    }
    network.compile(makers[options.optimizer](), "sparse_categorical_crossentropy", metrics=["accuracy"])
    print(f"{options.network}: {network.count_params()} parameters, {len(arrays['train'])} pictures", flush=True)
    network.fit(
        batches(arrays["train"], arrays["train_labels"], options),
        steps_per_epoch=per_epoch,
        shuffle=False,  # the batches are
        validation_data=(arrays["validation"], arrays["validation_labels"]),
        epochs=options.epochs,
        verbose=1 if sys.stdout.isatty() else 0,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True),
            keras.callbacks.LambdaCallback(on_epoch_end=_teller(options.epochs)),
        ],
    )
    return network


def batches(
    pictures: Pictures, labels: NDArray[np.int64], options: argparse.Namespace
) -> Iterator[tuple[Pictures, NDArray[np.int64]]]:
    """Without an end, in another order in each epoch, each picture moved by up to `shift_px`; its edge fills in."""
    chance, reach = np.random.default_rng(options.seed), options.shift_px
    count, height, width = pictures.shape[:3]
    wide = np.pad(pictures, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "edge") if reach else pictures
    while True:
        order = chance.permutation(count)
        for start in range(0, count, options.batch):
            chosen = order[start : start + options.batch]
            down, right = chance.integers(0, 2 * reach + 1, (2, len(chosen), 1))
            rows, columns = down + np.arange(height), right + np.arange(width)
            yield wide[chosen[:, None, None], rows[:, :, None], columns[:, None, :]], labels[chosen]


def _teller(epochs: int) -> Callable[[int, dict[str, float]], None]:
    start = time.monotonic()

    def tell(epoch: int, logs: dict[str, float]) -> None:
        kept_back = f"validation loss {logs['val_loss']:.4f}, accuracy {logs['val_accuracy']:.4f}"
        passed_s = time.monotonic() - start
        print(f"epoch {epoch + 1} of {epochs}: loss {logs['loss']:.4f}, {kept_back}, {passed_s:.0f} s", flush=True)

    return tell


# --- conversion


def convert(model: Any, variant: str, calibration: Pictures | None) -> bytes:
    """TFLite for one picture at a time: tflite-runtime hands no other to XNNPACK.

    Args:
        model: the Keras model.
        variant: `float`; `fp16`: weights only; `dynamic`: int8 weights; `int8`: input and output too.
        calibration: pictures that show the range of every activation; needed for `int8`.
    """
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    given = keras.Input(batch_shape=(1, *model.input_shape[1:]))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(given, model(given)))
    if variant != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if variant == "dynamic":  # or it does not load in tflite-runtime 2.14
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001
    if variant == "int8":
        assert calibration is not None  # noqa: S101 - the command line sees to it
        converter.representative_dataset = lambda: ([picture[None]] for picture in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):  # pages about itself
        return bytes(converter.convert())


def convert_all(options: argparse.Namespace) -> None:
    """Write `FOLDER/{variant}.tflite` for each variant."""
    model = importlib.import_module("keras").models.load_model(options.model)
    calibration: Pictures | None = None
    if options.calibration is not None:
        with np.load(options.calibration, allow_pickle=False) as arrays:
            calibration = arrays["train"]
    for variant in options.variant:
        data = convert(model, variant, calibration)
        (options.folder / f"{variant}.tflite").write_bytes(data)
        print(f"{variant}: {len(data)} bytes", flush=True)


# --- command line


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("pictures", type=Path)
    training.add_argument("model", type=Path)
    training.add_argument("--network", choices=sorted(NETWORKS), required=True)
    training.add_argument("--classes", type=int, required=True)
    training.add_argument("--optimizer", choices=("adam", "sgd"), required=True)
    training.add_argument("--learning-rate", type=float, required=True)
    for name in ("--epochs", "--patience", "--batch", "--seed", "--shift-px"):
        training.add_argument(name, type=int, required=True)
    converting = commands.add_parser("convert")
    converting.add_argument("model", type=Path)
    converting.add_argument("folder", type=Path)
    converting.add_argument("variant", nargs="+", choices=("float", "fp16", "dynamic", "int8"))
    converting.add_argument("--calibration", type=Path, help="needed for int8")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.command == "train":
        with np.load(options.pictures, allow_pickle=False) as arrays:
            train(arrays, options).save(options.model)
        return 0
    if "int8" in options.variant and options.calibration is None:
        parser.error("int8 wants --calibration")
    convert_all(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
