"""A bundle like another one with a smaller model in it: what tools/optimize.py changes in the manifest."""

import json
import re
import shutil
from pathlib import Path

from tools.embedding import embedding_of
from tools.training import TrainError

WHOLE = "float"
"""What the model is called that the others are compared with."""


def candidate_folder(whole: Path, labels: str, model: Path, scratch: Path) -> Path:
    """A bundle of version `{version}-{name of the model's file}`: manifest and labels; golden samples come later.

    What the manifest says of the old model's answers is left out: metrics and reference. The embedding's tensor has a
    name of its own in each file.

    Args:
        whole: the bundle's folder.
        labels: the name of its file with the labels.
        model: a TFLite file.
        scratch: where the new folder will be.

    Raises:
        TrainError: there is one of this name.
        ModelError: the model does not load.
        OSError
    """
    folder = scratch / f"{whole.name}-{model.stem}"
    if model.stem == WHOLE or folder.exists():
        raise TrainError(f"{model}: another candidate has this name: rename the file")
    text = (whole / "manifest.yaml").read_text(encoding="utf-8")
    for key in ("metrics", "reference", "embedding"):
        text = with_key(text, key, None)
    text = with_key(text, "version", json.dumps(folder.name))
    if embedding := embedding_of(model):
        text = with_key(text, "embedding", json.dumps(embedding))
    if not re.search(r"^golden:", text, re.MULTILINE):
        text = with_key(text, "golden", "{dir: golden, min_agreement: 0.99}")
    folder.mkdir()
    shutil.copyfile(model, folder / "model.tflite")
    shutil.copyfile(whole / labels, folder / labels)
    (folder / "manifest.yaml").write_text(text, encoding="utf-8")
    return folder


def with_key(text: str, key: str, value: str | None) -> str:
    """A manifest whose key at the top has this value, in YAML and on one line; None takes it out. Other lines stay."""
    line = "" if value is None else f"{key}: {value}\n"
    made, found = re.subn(rf"^{key}:.*\n(?:[ \t]+.*\n)*", lambda _: line, f"{text.rstrip()}\n", flags=re.MULTILINE)
    return made if found else f"{made}{line}"
