"""Files that people write, and those of a bundle."""

import io
import itertools
import shutil

import yaml

from agent.config import load_config
from agent.errors import ConfigError, ModelError
from agent.inference.golden import GoldenSet
from agent.inference.metadata import read_metadata
from agent.manifest import Golden, complete_decoder, load_labels, load_manifest
from agent.runtime import yamlfile
from agent.wire.archive import ArchiveError, extract_archive, write_archive
from tests.fuzz.bench import Target, check_line, scratch, written
from tests.sim.bundles import OWN, ROOT


def config(data: bytes) -> None:
    load_config(written("config.yaml", data))


def manifest(data: bytes) -> None:
    complete_decoder(load_manifest(written("manifest.yaml", data)))


def labels(data: bytes) -> None:
    load_labels(written("labels.txt", data))


def golden(data: bytes) -> None:
    folder = scratch() / "golden"
    folder.mkdir(exist_ok=True)
    (folder / "expected.json").write_bytes(data)
    GoldenSet(scratch(), Golden())


def archive(data: bytes) -> None:
    into = scratch() / "into"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    names = extract_archive(io.BytesIO(data), into)
    again = io.BytesIO()
    write_archive(into, again)
    assert again.getvalue() == data, names


def _files(*patterns: str, most_bytes: int = 1 << 16) -> list[bytes]:
    paths = itertools.chain.from_iterable(ROOT.glob(pattern) for pattern in patterns)
    return [path.read_bytes()[:most_bytes] for path in sorted(paths) if path.is_file()]


def _configs() -> list[bytes]:
    """Without their comments: what is short is tried more often."""
    return [yaml.safe_dump(yamlfile._Loader(text).get_single_data()).encode() for text in _files("config*.yaml")]


def _archives() -> list[bytes]:
    folder = scratch() / "bundle"
    if not folder.is_dir():
        (folder / "golden").mkdir(parents=True)
        (folder / "manifest.yaml").write_bytes(b"name: door\n")
        (folder / "model.tflite").write_bytes(b"m" * 600)
        (folder / "golden" / "x.png").write_bytes(b"x")
    out = io.BytesIO()
    write_archive(folder, out)
    return [out.getvalue()]


def model_metadata(data: bytes) -> None:
    found = read_metadata(data)
    check_line(found.problem or "none")
    assert len(found.labels) <= 10_000


TARGETS = {
    "config": Target(config, (ConfigError,), _configs),
    "manifest": Target(manifest, (ModelError,), lambda: _files("models/*/*/manifest.yaml", "tests/models/*/*/*.yaml")),
    "labels": Target(labels, (ModelError,), lambda: _files("models/*/*/labels.txt")),
    "golden": Target(golden, (ModelError,), lambda: _files("models/*/*/golden/expected.json")),
    "archive": Target(archive, (ArchiveError,), _archives),
    "model-metadata": Target(model_metadata, (), lambda: [(OWN / "digits/2026.11.1/model.tflite").read_bytes()]),
}
