"""The training that tools/optimize_network.py does: a model that is there already, for a few more epochs.

Keras' own `fit` has no place where weights can be seen otherwise than they are kept, which quantisation-aware training
needs; so the loop is here.
"""

import importlib
import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from tools.augment import Augment, Labelled, batches

LAST_RATE = 0.02
"""Share of the learning rate that is left at the end."""
LEAST_STEPS = 200
"""Of few samples, more epochs are made."""
TEACHER_SHARE = 0.7
"""What the teacher says counts so much, the label the rest (Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network")."""

See = Callable[[Any], Any]
"""Gives a trainable variable's value as the forward pass takes it."""
Settle = Callable[[int], None]
"""Puts the weights in order after the step of this number, counted from 1."""


class UnsuitedError(Exception):
    """One line: why this network can't be made smaller this way."""


class Lesson(NamedTuple):
    """What is learned, and how."""

    every: Labelled
    augment: Augment
    epochs: int
    rate: float
    """Of learning, at the start; it falls along a cosine."""
    batch: int
    seed: int

    @property
    def steps(self) -> int:
        """Batches, of all epochs."""
        return max(LEAST_STEPS, self.epochs * -(-len(self.every.labels) // self.batch))


def copy_of(model: Any) -> Any:
    """A functional Keras model with layers and weights of its own, each layer called once: so `layer.input` and
    `layer.output` are those of the model. In a Sequential they may be those of an earlier stage of its making."""
    keras = importlib.import_module("keras")
    copy = keras.models.clone_model(keras.Model(model.inputs[0], model.outputs[0]))
    copy.set_weights(model.get_weights())
    return copy


def kernels(model: Any) -> list[Any]:
    """The Keras variables that hold weights and are trained: no biases, nothing of a normalisation, nothing frozen."""
    return [one for one in model.trainable_variables if one.name.endswith("kernel")]


def fine_tune(
    model: Any, lesson: Lesson, *, teacher: Any = None, see: See | None = None, settle: Settle | None = None
) -> None:
    """Train `model` where it is: cross-entropy of its classes, Adam.

    Args:
        model: the Keras model; its output are confidences of the classes.
        lesson: what is learned.
        teacher: a Keras model whose answers count more than the labels.
        see: how weights are seen in the forward pass; the gradient goes to those that are kept.
        settle: called after each step.
    """
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    keras.utils.set_random_seed(lesson.seed)
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(lesson.rate, lesson.steps, alpha=LAST_RATE)
    )
    optimizer.build(model.trainable_variables)
    classes = int(model.outputs[0].shape[-1])

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(samples: Any, labels: Any, counts: Any) -> Any:
        wanted = tf.one_hot(labels, classes)
        if teacher is not None:
            wanted = TEACHER_SHARE * teacher(samples, training=False) + (1 - TEACHER_SHARE) * wanted
        with tf.GradientTape() as tape:
            weights = [see(one) if see else one.value for one in model.trainable_variables]
            state = [one.value for one in model.non_trainable_variables]
            answers, state = model.stateless_call(weights, state, samples, training=True)
            loss = tf.reduce_mean(counts * keras.losses.categorical_crossentropy(wanted, answers))
        optimizer.apply(tape.gradient(loss, [one.value for one in model.trainable_variables]))
        for one, value in zip(model.non_trainable_variables, state, strict=True):
            one.assign(value)
        return loss

    bar = keras.utils.Progbar(lesson.steps, verbose=1 if sys.stdout.isatty() else 0)
    given = batches(lesson.every, lesson.augment, lesson.batch, lesson.seed)
    for number, batch in enumerate(itertools.islice(given, lesson.steps), start=1):
        loss = step(*map(tf.constant, batch))
        if settle:
            settle(number)
        bar.update(number, [("loss", loss)])
