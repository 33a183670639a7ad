"""What a model says of the data it was measured on, into its manifest: devices find drift by it.

Which class it is surest of, how sure, and how far its embedding lies from where embeddings lie; each as shares of bins,
see agent/manifest/reference.py. Taken on split `validation`, which took no part in training: of pictures that it knows
by heart a model is surer than it will ever be again.

    python3 tools/reference.py models/parts --data .cache/data/parts
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.errors import AgentError
from agent.evaluation.common import Follow, quietly, thin
from agent.evaluation.picture_set import SPLITS, PictureSet, load_set
from agent.feedback.drift import distance
from agent.feedback.summary import Summary, summarize
from agent.inference.bundle import Bundle, load_bundle
from agent.inference.locate import find_bundle
from agent.manifest import Embeddings, Histogram, Reference, load_manifest
from agent.runtime.files import write_atomic

MIN_CONFIDENCE = 0.5
BINS = 10
MAX_SAMPLES = 5000
_STEPS = 1e5  # edges have five decimals
_OLD = re.compile(r"^reference:.*\n(?:[ \t]+.*\n)*", re.MULTILINE)


def measure(bundle: Bundle, data: PictureSet, split: str, follow: Follow = quietly) -> Reference:
    """Run a bundle on up to MAX_SAMPLES of a split.

    Raises:
        DataSetError, ModelError: a sample, or what the model says of it, can't be used.
    """
    summaries: list[Summary] = []
    embeddings: list[NDArray[np.float32]] = []
    for entry in follow(thin(data.of(split), MAX_SAMPLES), "samples"):
        evidence = bundle.run(data.sample(entry), MIN_CONFIDENCE, evidence=True).evidence
        assert evidence is not None  # noqa: S101 - asked for
        summaries.append(summarize(evidence.found, MIN_CONFIDENCE))
        if evidence.embedding:
            embeddings.append(np.frombuffer(evidence.embedding, "<f4"))
    counts = Counter(summary.label for summary in summaries)
    return Reference(
        samples=len(summaries),
        classes={label: round(count / len(summaries), 5) for label, count in sorted(counts.items())},
        confidence=histogram([summary.confidence for summary in summaries]),
        embedding=_spread(np.stack(embeddings)) if embeddings else None,
    )


def _spread(embeddings: NDArray[np.float32]) -> Embeddings:
    """Of features that never vary any change would look endless: their deviation counts as a hundredth of the usual."""
    deviations = embeddings.std(axis=0, dtype=np.float64)
    least = 0.01 * float(deviations.mean()) or 1.0
    mean = tuple(float(f"{value:.4g}") for value in embeddings.mean(axis=0, dtype=np.float64))
    std = tuple(float(f"{max(value, least):.4g}") for value in deviations)
    return Embeddings(mean=mean, std=std, distance=histogram([distance(one, mean, std) for one in embeddings]))


def histogram(values: Sequence[float]) -> Histogram:
    """Bins with about as many values each; fewer where many values are the same.

    What lies below or above all of many that are the same has a bin of its own, without a share: a model that is always
    as sure as it can be shows drift only there.
    """
    quantiles = np.floor(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]) * _STEPS)
    top = np.floor(max(values) * _STEPS)
    edges = np.unique(np.append(quantiles, top + 1) if quantiles[-1] == top else quantiles) / _STEPS
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return Histogram(tuple(edges.tolist()), tuple((counts / len(values)).round(5).tolist()))


def write_reference(folder: Path, data: PictureSet, split: str = "validation", follow: Follow = quietly) -> Reference:
    """Measure a bundle and put its reference into the manifest, in place of the one there; other lines stay.

    Raises:
        DataSetError, ModelError: the data or the bundle can't be used, or the manifest would not be one; nothing is
            written.
        OSError: the manifest can't be written.
    """
    reference = measure(load_bundle(folder), data, split, follow)
    path = folder / "manifest.yaml"
    before = _OLD.sub("", path.read_text(encoding="utf-8").rstrip() + "\n")
    fields = {name: value for name, value in msgspec.to_builtins(reference).items() if value is not None}
    lines = [f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    text = "\n".join([before.rstrip(), "reference:", *lines, ""])
    with tempfile.TemporaryDirectory(prefix="reference-") as scratch:
        trial = Path(scratch) / "manifest.yaml"
        trial.write_text(text, encoding="utf-8")
        load_manifest(trial)
    write_atomic(path, text.encode(), mode=0o644)
    return reference


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle's folder, or that of a model: its current version")
    parser.add_argument("--data", type=Path, required=True, help="a data set that tools/dataset.py made")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="of it (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        folder = options.bundle
        if not (folder / "manifest.yaml").is_file():
            folder = find_bundle(folder.parent, folder.name)
        reference = write_reference(folder, load_set(options.data), options.split)
    except (AgentError, OSError) as exc:
        print(f"reference: {exc}", file=sys.stderr)
        return exc.exit_code if isinstance(exc, AgentError) else 1
    features = f"{len(reference.embedding.mean)} features" if reference.embedding else "no embedding in the manifest"
    print(f"{folder / 'manifest.yaml'}: {reference.samples} samples, {len(reference.classes)} classes, {features}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
