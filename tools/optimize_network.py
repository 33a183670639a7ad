"""What tools/optimize.py runs inside the environment with TensorFlow: makes smaller models of a Keras model.

    python optimize_network.py samples.npz model.keras FOLDER fp16 int8 channels-int8 --batch 128 …

`samples.npz` holds `train`, `train_labels` and `train_weights`, as for tools/class_network.py. Each candidate is called
after its training (see TRAININGS; without one the model is as it was) and its format (as tools/class_network.py
converts), and becomes `FOLDER/{candidate}.tflite`.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from tools.augment import Labelled, Samples
from tools.class_network import add_augment_flags, augment_of, convert
from tools.optimize_channels import narrow
from tools.optimize_fake_quant import rounded_weights, with_rounded_activations
from tools.optimize_training import Lesson, UnsuitedError, copy_of, fine_tune
from tools.optimize_weights import cluster, sparsen

LADDER = (
    "fp16",
    "dynamic",
    "int8",
    "qat-int8",
    "sparse-float",
    "sparse-int8",
    "clustered-int8",
    "channels-float",
    "channels-dynamic",
    "channels-int8",
)
"""From what costs nothing to what takes minutes. Not among them: int8 weights with int16 activations, for which TFLite
has reference kernels only, 70 times slower than float."""
CALIBRATION_SAMPLES = 500
SPARSE_SHARE, CHANNELS_SHARE = 0.5, 0.5


class Training(NamedTuple):
    """What is done to a model before it is converted."""

    make: Callable[[Any, Lesson], Any]
    """Gives a Keras model, made of a copy that it may change. May raise UnsuitedError."""
    epochs: int
    rate: float
    """Of learning, at the start."""


def _quantization_aware(model: Any, lesson: Lesson) -> Any:
    rounded = with_rounded_activations(model, calibration_of(lesson.every.samples))
    fine_tune(rounded, lesson, see=rounded_weights(rounded))
    model.set_weights(rounded.get_weights())
    return model


def _sparse(model: Any, lesson: Lesson) -> Any:
    fine_tune(model, lesson, settle=sparsen(model, SPARSE_SHARE, lesson.steps))
    return model


def _clustered(model: Any, lesson: Lesson) -> Any:
    fine_tune(model, lesson, settle=cluster(model))
    return model


def _fewer_channels(model: Any, lesson: Lesson) -> Any:
    smaller = narrow(model, CHANNELS_SHARE)
    fine_tune(smaller, lesson, teacher=model)
    return smaller


TRAININGS: Mapping[str, Training] = {
    "qat": Training(_quantization_aware, epochs=1, rate=5e-5),
    "sparse": Training(_sparse, epochs=2, rate=5e-4),
    "clustered": Training(_clustered, epochs=1, rate=2e-4),
    "channels": Training(_fewer_channels, epochs=4, rate=1.5e-3),
}
"""By the first word of a candidate's name: quantisation-aware; half of the weights 0; 16 values in each layer; half of
the channels, taught by the whole network."""


def calibration_of(samples: Samples) -> Samples:
    """Some from all over what is learned: they show the range of every activation."""
    return samples[:: max(1, len(samples) // CALIBRATION_SAMPLES)][:CALIBRATION_SAMPLES]


def make_all(model: Any, names: Sequence[str], lesson: Lesson, folder: Path) -> None:
    """Write `folder/{name}.tflite` for each name; says which can't be made of this model."""
    has_loops = any(hasattr(layer, "cell") for layer in model.layers)
    formats: dict[str, list[str]] = {}
    for name in names:
        training, _, made = name.rpartition("-")
        if made == "int8" and has_loops:  # TFLite's calibration crashes on them
            print(f"{name}: left out: recurrent layers can't be made int8", flush=True)
            continue
        formats.setdefault(training, []).append(made)
    for training, wanted in formats.items():
        start_s, trained = time.monotonic(), model
        if training:
            plan = TRAININGS[training]
            now = lesson._replace(epochs=plan.epochs, rate=plan.rate)
            print(f"{training}: {now.steps} steps of {now.batch} samples", flush=True)
            try:
                trained = plan.make(copy_of(model), now)
            except UnsuitedError as exc:
                print(f"{training}: left out: {exc}", flush=True)
                continue
        for made in wanted:
            name = f"{training}-{made}" if training else made
            (folder / f"{name}.tflite").write_bytes(convert(trained, made, calibration_of(lesson.every.samples)))
        print(f"{training or 'as it is'}: {', '.join(wanted)}, {time.monotonic() - start_s:.0f} s", flush=True)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="+", choices=LADDER)
    for name in ("--batch", "--seed"):
        parser.add_argument(name, type=int, required=True)
    add_augment_flags(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(options.seed)
    with np.load(options.samples, allow_pickle=False) as arrays:
        every = Labelled(arrays["train"], arrays["train_labels"], arrays["train_weights"])
    lesson = Lesson(every, augment_of(options), epochs=0, rate=0.0, batch=options.batch, seed=options.seed)
    make_all(keras.models.load_model(options.model), options.name, lesson, options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
