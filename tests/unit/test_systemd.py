"""The unit and the installer: checked by systemd's own tools, and run into an empty folder."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import load_config
from tests.sim import require_program

REPOSITORY = Path(__file__).parents[2]
SYSTEMD = REPOSITORY / "systemd"
MAX_EXPOSURE = 1.6
MEND = "apt-get install systemd"

FAKE_PYTHON = f"""#!/bin/sh
# A Python whose venv and pip only leave traces: the real ones take minutes and a network.
case "$1 ${{2:-}}" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip")
    for last; do :; done
    ls "$last" >"$(dirname "$0")/installed"
    echo "#!$(dirname "$0")/python" >"$(dirname "$0")/edge-agent" && chmod +x "$(dirname "$0")/edge-agent" ;;
*) exec {sys.executable} "$@" ;;
esac
"""


def unit_lines() -> list[tuple[str, str]]:
    """Keys and values of the unit, in order."""
    lines = (SYSTEMD / "edge-agent.service").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if re.match(r"[A-Za-z]+=", line)]
    return [(key, value) for key, _, value in pairs]


def unit() -> dict[str, str]:
    return dict(unit_lines())


# --- the unit ----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    path = tmp_path / "edge-agent.service"
    text = (SYSTEMD / "edge-agent.service").read_text()
    path.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
    return path


def finished(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **environ}, check=False, capture_output=True, text=True, timeout=60
    )


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return finished(require_program("systemd-analyze", MEND), "--no-pager", *arguments)


def test_systemd_finds_nothing_wrong_with_the_unit(here: Path):
    done = analyze("verify", here)
    assert (done.returncode, "edge-agent" in done.stderr) == (0, False), done.stderr


def test_the_sandbox_is_tight(here: Path):
    done = analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:.0f}", here)
    exposure = re.search(r"exposure level for edge-agent\.service: ([\d.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE
    assert done.returncode == 0


def test_each_loosening_is_explained_beside_the_sandbox(here: Path):
    """What counts against the unit is named in its comments."""
    rows = json.loads(analyze("security", "--offline=true", "--json=short", here).stdout)
    loosened = {re.split("[=/]", row["name"])[0] for row in rows if row["exposure"]}
    comments = [line for line in (SYSTEMD / "edge-agent.service").read_text().splitlines() if line.startswith("#")]
    assert len(loosened) > 5
    assert not {name for name in loosened if not any(name in line for line in comments)}


def test_the_service_tells_when_it_is_ready_is_watched_and_never_given_up():
    have = {key: unit()[key] for key in ("Type", "WatchdogSec", "Restart", "StartLimitIntervalSec")}
    assert have == {"Type": "notify", "WatchdogSec": "30", "Restart": "always", "StartLimitIntervalSec": "0"}
    assert unit()["RestartPreventExitStatus"] == "2"


def test_a_worker_out_of_memory_does_not_take_the_service_down():
    assert unit()["OOMPolicy"] == "continue"


def test_it_waits_neither_for_a_network_nor_for_the_time():
    assert not re.search("online|time-sync", unit()["After"])


@pytest.mark.parametrize("kind", ["video4linux", "alsa", "ttyUSB", "ttyACM"])
def test_devices_stay_reachable(kind: str):
    assert ("DeviceAllow", f"char-{kind} rw") in unit_lines()
    assert "PrivateDevices" not in unit()
    assert {"video", "audio", "dialout"} <= set(unit()["SupplementaryGroups"].split())


def test_user_and_groups_of_the_unit_are_made_by_sysusers():
    made = (SYSTEMD / "edge-agent.sysusers").read_text()
    assert re.search(rf"^u {unit()['User']} ", made, re.MULTILINE)
    for group in unit()["SupplementaryGroups"].split():
        assert re.search(rf"^m {unit()['User']} {group}$", made, re.MULTILINE)


@pytest.mark.parametrize(("file", "program"), [("sysusers", "systemd-sysusers"), ("tmpfiles", "systemd-tmpfiles")])
def test_systemd_understands_the_lists_of_users_and_folders(file: str, program: str, tmp_path: Path):
    path = require_program(program, MEND)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nedge-agent:x:990:990::/:/bin/false\n")
    (tmp_path / "etc/group").write_text("root:x:0:\ndialout:x:20:\naudio:x:29:\nvideo:x:44:\nedge-agent:x:990:\n")
    options = ["--create"] if file == "tmpfiles" else []
    done = finished(path, *options, f"--root={tmp_path}", SYSTEMD / f"edge-agent.{file}")
    assert (done.returncode, done.stderr) == (0, "") if os.geteuid() == 0 else "Unknown" not in done.stderr


# --- the installer -----------------------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The root folder of a device."""
    (tmp_path / "python3").write_text(FAKE_PYTHON)
    (tmp_path / "python3").chmod(0o755)
    return tmp_path / "device"


def run(script: str, device: Path, *arguments: str) -> str:
    done = finished(SYSTEMD / script, *arguments, DESTDIR=str(device), PYTHON=str(device.parent / "python3"))
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Every path below a folder, with the content of files and the targets of links."""

    def content(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


def test_install_puts_everything_in_its_place(device: Path):
    run("install.sh", device)
    for name, target in {
        "edge-agent.service": "etc/systemd/system/edge-agent.service",
        "edge-agent.sysusers": "etc/sysusers.d/edge-agent.conf",
        "edge-agent.tmpfiles": "etc/tmpfiles.d/edge-agent.conf",
    }.items():
        assert (SYSTEMD / name).read_bytes() == (device / target).read_bytes()
        assert stat.S_IMODE((device / target).stat().st_mode) == 0o644
    assert (device / "usr/local/bin/edge-agent").readlink() == Path("/opt/edge-agent/venv/bin/edge-agent")


def test_the_program_is_where_the_unit_starts_it(device: Path):
    run("install.sh", device)
    program = unit()["ExecStart"].split()[0]
    installed = device / program.lstrip("/")
    assert os.access(installed, os.X_OK)
    assert installed.read_text().startswith("#!/opt/edge-agent/venv/bin/python\n")


def test_the_package_is_built_from_a_copy_with_all_it_needs(device: Path):
    run("install.sh", device)
    copied = (device / "opt/edge-agent/venv/bin/installed").read_text().split()
    assert sorted(copied) == ["LICENSE", "README.md", "agent", "pyproject.toml"]


def test_the_configuration_is_where_the_unit_looks_and_names_the_folders_of_the_unit(device: Path):
    run("install.sh", device)
    path = device / unit()["ExecStart"].split("--config ")[1].lstrip("/")
    config = load_config(path)
    folders = [f"/var/lib/{name}" for name in unit()["StateDirectory"].split()]
    assert [str(Path(config.models.dir).parent), config.models.dir, config.outbox.dir] == folders
    assert Path(config.samples.dir).parent == Path(folders[0])  # / is what the unit starts in, and is read-only
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_apart_from_the_folders_the_configuration_is_the_one_of_the_checkout(device: Path):
    run("install.sh", device)
    ours = (REPOSITORY / "config.yaml").read_text().splitlines()
    theirs = (device / "etc/edge-agent/config.yaml").read_text().splitlines()
    assert len(ours) == len(theirs)
    assert sum(one != other for one, other in zip(ours, theirs, strict=True)) == 3


def test_installing_again_changes_nothing_and_keeps_what_was_edited(device: Path):
    run("install.sh", device)
    (device / "etc/edge-agent/config.yaml").write_text("# mine\n")
    (device / "var/lib/edge-agent/models/digits/current").write_text("other\n")
    before = tree(device)
    run("install.sh", device)
    assert before == tree(device)


def test_complete_bundles_are_copied_and_a_running_one_is_not_touched(device: Path):
    running = device / "var/lib/edge-agent/models/digits/2026.11.1"
    running.mkdir(parents=True)
    (running / "model.tflite").write_bytes(b"running")
    run("install.sh", device)
    assert tree(running) == {"model.tflite": b"running"}
    (device / "var/lib/edge-agent/models/digits/current").unlink()
    subprocess.run(["rm", "-r", running], check=True)
    run("install.sh", device)
    for name in ("digits", "swing"):
        assert tree(REPOSITORY / "models" / name) == tree(device / "var/lib/edge-agent/models" / name)


def checkout_with(tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """A copy of what the installer needs, changed."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    names = ["systemd", "tools/setup", "agent/__init__.py", "pyproject.toml", "README.md", "LICENSE", "config.yaml"]
    for name in [*names, "models/digits"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", REPOSITORY / name, copy / name], check=True)
    change(copy)
    return copy


@pytest.mark.parametrize("missing", ["model.tflite", "labels.txt", "manifest.yaml"])
def test_bundles_that_lack_a_file_are_left_out(device: Path, tmp_path: Path, missing: str):
    checkout = checkout_with(tmp_path, lambda copy: (copy / "models/digits/2026.11.1" / missing).unlink())
    said = run(str(checkout / "systemd/install.sh"), device)
    assert ("digits is left out" in said) == (missing != "manifest.yaml")
    assert tree(device / "var/lib/edge-agent/models") == {}


def test_a_checkout_without_models_installs(device: Path, tmp_path: Path):
    def no_models(copy: Path) -> None:
        subprocess.run(["rm", "-r", copy / "models"], check=True)

    run(str(checkout_with(tmp_path, no_models) / "systemd/install.sh"), device)
    assert tree(device / "var/lib/edge-agent/models") == {}


def test_another_python_gets_a_new_environment(device: Path):
    run("install.sh", device)
    venv = device / "opt/edge-agent/venv"
    (venv / "bin/python").write_text("#!/bin/sh\necho '(3, 9)'\n")
    (venv / "leftover").touch()
    run("install.sh", device)
    assert not (venv / "leftover").exists()
    assert (venv / "bin/edge-agent").exists()


def test_uninstall_leaves_configuration_and_data(device: Path):
    run("install.sh", device)
    run("uninstall.sh", device)
    files = {name for name, content in tree(device).items() if content is not None}
    assert files
    assert all(name.startswith(("etc/edge-agent/", "var/lib/edge-agent/")) for name in files)
    assert "etc/edge-agent/config.yaml" in files


def test_uninstall_with_purge_leaves_nothing_of_ours(device: Path):
    run("install.sh", device)
    run("uninstall.sh", device, "--purge")
    assert not [name for name in tree(device) if "edge-agent" in name]


def test_uninstalling_again_or_what_was_never_installed_is_no_error(device: Path):
    device.mkdir()
    run("uninstall.sh", device)
    run("install.sh", device)
    for _ in range(2):
        run("uninstall.sh", device, "--purge")


def test_uninstall_does_not_touch_a_command_that_is_not_ours(device: Path):
    (device / "usr/local/bin").mkdir(parents=True)
    (device / "usr/local/bin/edge-agent").write_text("mine")
    run("uninstall.sh", device)
    assert (device / "usr/local/bin/edge-agent").read_text() == "mine"


def test_uninstall_refuses_words_it_does_not_know(device: Path):
    done = finished(SYSTEMD / "uninstall.sh", "--all", DESTDIR=str(device))
    assert (done.returncode, done.stderr) == (2, "usage: uninstall.sh [--purge]\n")
