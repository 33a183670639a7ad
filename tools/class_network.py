"""What tools/train.py and tools/optimize.py run inside the environment with TensorFlow: trains a network that tells
classes apart, and converts it to TFLite.

    python class_network.py train samples.npz model.keras --network cnn --classes 10 --epochs 6 …
    python class_network.py convert model.keras FOLDER float fp16 dynamic int8 --calibration samples.npz

`samples.npz` holds `train` and `validation`, each N x height x width x channels or N x samples x channels, float32, as
the model will get them on the device; `train_labels` and `validation_labels`, int64; `train_weights` and
`validation_weights`, float32: how much each counts.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray

from tools.augment import Augment, Labelled, batches
from tools.networks import NETWORKS, backbone_of, for_device, make_network, thaw

LAST_RATE = 0.02
"""Share of the learning rate that is left at the end."""
THAWED_RATE = 0.02
"""Share of the learning rate at which a backbone's last block learns, once the new last layer has."""

Pictures = NDArray[np.float32]


# --- training


def train(arrays: Mapping[str, NDArray[Any]], options: argparse.Namespace) -> Any:
    """The Keras model of the epoch that did best on the validation samples."""
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    if options.start is not None:
        network = keras.models.load_model(options.start)
    else:
        network = make_network(keras, options.network, arrays["train"].shape[1:], options.classes)
    name = options.network if options.start is None else f"on from {options.start.name}"
    print(f"{name}: {network.count_params()} parameters, {len(arrays['train'])} samples", flush=True)
    backbone = backbone_of(network)
    if options.fine_tune and backbone is None:
        sys.exit("--fine-tune: only for network transfer, of which a part was taught before")
    fit(network, arrays, options, options.learning_rate)
    if options.fine_tune:
        print("now the last block of the backbone learns too", flush=True)
        thaw(backbone)
        fit(network, arrays, options, options.learning_rate * THAWED_RATE)
    return network


def fit(network: Any, arrays: Mapping[str, NDArray[Any]], options: argparse.Namespace, learning_rate: float) -> None:
    """Train what may learn, until the validation samples say that it is enough."""
    keras = importlib.import_module("keras")
    per_epoch = -(-len(arrays["train"]) // options.batch)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, options.epochs * per_epoch, alpha=LAST_RATE)
    makers = {
        "adam": lambda: keras.optimizers.Adam(rate),
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    }
    network.compile(makers[options.optimizer](), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True),
        keras.callbacks.LambdaCallback(on_epoch_end=_teller(options.epochs)),
    ]
    if options.tensorboard is not None:
        callbacks.append(keras.callbacks.TensorBoard(str(options.tensorboard)))
    learned, kept_back = (
        Labelled(arrays[split], arrays[f"{split}_labels"], arrays[f"{split}_weights"])
        for split in ("train", "validation")
    )
    network.fit(
        batches(learned, augment_of(options), options.batch, options.seed),
        steps_per_epoch=per_epoch,
        shuffle=False,  # the batches are
        validation_data=tuple(kept_back),
        epochs=options.epochs,
        verbose=1 if sys.stdout.isatty() else 0,
        callbacks=callbacks,
    )


def augment_of(options: argparse.Namespace) -> Augment:
    """How the command line wants samples changed."""
    names = ("shift_px", "rotate_deg", "flip", "noise", "brightness", "low", "high")
    return Augment(**{name: getattr(options, name) for name in names})


def _teller(epochs: int) -> Callable[[int, dict[str, float]], None]:
    start = time.monotonic()

    def tell(epoch: int, logs: dict[str, float]) -> None:
        kept_back = f"validation loss {logs['val_loss']:.4f}, accuracy {logs['val_accuracy']:.4f}"
        passed_s = time.monotonic() - start
        print(f"epoch {epoch + 1} of {epochs}: loss {logs['loss']:.4f}, {kept_back}, {passed_s:.0f} s", flush=True)

    return tell


# --- conversion


def convert(model: Any, variant: str, calibration: Pictures | None) -> bytes:
    """TFLite for one sample at a time, with the outputs `classes` and `embedding`.

    Args:
        model: the Keras model.
        variant: `float`; `fp16`: weights only; `dynamic`: int8 weights; `int8`: input and outputs too.
        calibration: samples that show the range of every activation; needed for `int8`.
    """
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    converter = tf.lite.TFLiteConverter.from_keras_model(for_device(keras, model))
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


def add_augment_flags(parser: argparse.ArgumentParser) -> None:
    """What `augment_of` wants, in what the network gets."""
    parser.add_argument("--shift-px", type=int, required=True)
    parser.add_argument("--flip", action="store_true")
    for name in ("--rotate-deg", "--noise", "--brightness", "--low", "--high"):
        parser.add_argument(name, type=float, required=True)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("samples", type=Path)
    training.add_argument("model", type=Path)
    training.add_argument("--network", choices=sorted(NETWORKS), required=True)
    training.add_argument("--start", type=Path, help="a .keras model that learns on")
    training.add_argument("--classes", type=int, required=True)
    training.add_argument("--optimizer", choices=("adam", "sgd"), required=True)
    training.add_argument("--fine-tune", action="store_true")
    training.add_argument("--tensorboard", type=Path)
    training.add_argument("--learning-rate", type=float, required=True)
    for name in ("--epochs", "--patience", "--batch", "--seed"):
        training.add_argument(name, type=int, required=True)
    add_augment_flags(training)
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
        with np.load(options.samples, allow_pickle=False) as arrays:
            loaded = dict(arrays)  # once: the file reads an array anew each time it is asked for
        train(loaded, options).save(options.model)
        return 0
    if "int8" in options.variant and options.calibration is None:
        parser.error("int8 wants --calibration")
    convert_all(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
