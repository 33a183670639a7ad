"""The command line of tools/train.py."""

import argparse
from pathlib import Path

import msgspec
import yaml

from agent.manifest import Step
from tools.networks import NETWORKS

ROOT = Path(__file__).resolve().parent.parent
OPTIMIZERS = ("adam", "sgd")


def whole(text: str) -> int:
    """A whole number from 0 on, for argparse. Raises ValueError."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def from_1(text: str) -> int:
    """A whole number from 1 on, for argparse. Raises ValueError."""
    if (number := whole(text)) == 0:
        raise ValueError(text)
    return number


def rate(text: str) -> float:
    """A number over 0 and up to 1, for argparse. Raises ValueError."""
    if not 0.0 < (number := float(text)) <= 1.0:
        raise ValueError(text)
    return number


def share(text: str) -> float:
    """A number from 0 to 1, for argparse. Raises ValueError."""
    if not 0.0 <= (number := float(text)) <= 1.0:
        raise ValueError(text)
    return number


def degrees(text: str) -> float:
    """From 0 to 180, for argparse. Raises ValueError."""
    if not 0.0 <= (number := float(text)) <= 180.0:
        raise ValueError(text)
    return number


def weight(text: str) -> float:
    """A number over 0 and up to 1,000, for argparse. Raises ValueError."""
    if not 0.0 < (number := float(text)) <= 1000.0:
        raise ValueError(text)
    return number


def step(text: str) -> Step:
    """A step in the words of a manifest, `denoise`, `gamma, gamma: 1.5`, for argparse.

    Raises:
        argparse.ArgumentTypeError: there is no such step, or not with these values.
    """
    try:
        made: Step = msgspec.convert(yaml.safe_load(f"{{op: {text}}}"), Step)
    except (yaml.YAMLError, msgspec.ValidationError) as exc:
        raise argparse.ArgumentTypeError(f"{text}: {str(exc).splitlines()[0]}") from exc
    return made


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 there is a bundle, 1 something failed, 2 wrong arguments",
    )
    add = parser.add_argument
    add(
        "--data", type=Path, nargs="+", required=True, metavar="DIR",
        help="data sets, as tools/dataset.py makes them; figures and golden samples are of the first",
    )  # fmt: skip
    add("--weights", type=weight, nargs="+", metavar="W", help="how much a sample of each data set counts (default: 1)")
    add("--name", required=True, help="of the model")
    add("--version", default="1", help="(default: %(default)s)")
    add("--out", type=Path, default=ROOT / "models", metavar="DIR", help="models folder (default: %(default)s)")
    add("--force", action="store_true", help="write over a version that is there")
    _add_network(parser.add_argument_group("network"))
    _add_training(parser.add_argument_group("training"))
    add_augmentation(parser.add_argument_group("augmentation: samples are changed anew in each epoch"))
    return parser


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    kinds = "; ".join(f"{name}: {network.says}" for name, network in NETWORKS.items())
    add("--network", choices=sorted(NETWORKS), help=f"{kinds} (default: cnn)")
    add(
        "--from", dest="start", type=Path, metavar="PATH",
        help="go on from a model that this tool has made: its bundle or .keras file; input and classes are its",
    )  # fmt: skip
    add("--size-px", type=from_1, help="width and height of the input (default: the network's own)")
    add("--color", choices=("gray", "rgb"), help="of the input (default: the network's own)")
    add(
        "--step", type=step, action="append", default=[], metavar="OP[, KEY: VALUE]",
        help="what is done to a frame before it is resized, on the device too: denoise, equalize, "
        "'gamma, gamma: 1.5' and what else a manifest has, in its words; in the order given",
    )  # fmt: skip


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="(default: %(default)s)")
    add(
        "--learning-rate", type=rate, metavar="RATE",
        help="at the start (default: adam 0.0015, sgd 0.05; with --from a tenth of that)",
    )  # fmt: skip
    add("--epochs", type=from_1, default=7, help="at most (default: %(default)s)")
    add("--patience", type=from_1, default=3, help="epochs without getting better (default: %(default)s)")
    add("--batch", type=from_1, default=128, help="samples of a step (default: %(default)s)")
    add("--fine-tune", action="store_true", help="transfer: then let the backbone's last block learn too, slowly")
    add("--seed", type=whole, default=1, help="same seed, same machine, same model (default: %(default)s)")
    add("--tensorboard", type=Path, metavar="DIR", help="write curves for `tensorboard --logdir DIR`")


def add_augmentation(group: argparse._ArgumentGroup) -> None:
    """How samples are changed; `tools.training.augment_flags` hands it on."""
    add = group.add_argument
    add("--shift-px", type=whole, default=0, help="moved by up to so much (default: %(default)s)")
    add("--rotate-deg", type=degrees, default=0.0, help="turned by up to so much (default: %(default)s)")
    add("--flip", action="store_true", help="every second one mirrored, left and right")
    add("--brightness", type=share, default=0.0, help="lighter or darker by up to this share of white (default: 0)")
    add(
        "--noise", type=share, default=0.0,
        help="standard deviation, as a share of white; of windows, in standard deviations of a channel (default: 0)",
    )  # fmt: skip
