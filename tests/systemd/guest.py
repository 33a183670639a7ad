"""Boots a Debian with a systemd of its own, and runs pytest in it.

    python -m tests.systemd.guest FOLDER container|machine PYTEST-ARGUMENTS...

FOLDER is what `tools/setup/systemd.sh` made. What the guest writes goes into memory: each run begins with the same
Debian. It sees this checkout at /checkout, read-only.

`container`: systemd-nspawn, at this machine's speed, with this machine's kernel, as root. Where that kernel has its
memory controller in the old hierarchy, as below many container managers, nothing in there is limited.
`machine`: Debian's kernel in QEMU (tests/drivers/vm.py), 20 times slower; with limits of memory, and devices. The
program is installed before it boots, because installing takes minutes there.

Ends with pytest's exit code, 1 when the guest did not end in time or gave none.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.drivers import vm

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900.0
NOTHING_PICKED = 5
"""What pytest ends with when its arguments pick none of these tests."""
PYTEST = "python3 -m pytest -c /dev/null --rootdir /checkout --confcutdir /checkout/tests/systemd -p no:cacheprovider"
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/job/wheels",
    "EDGE_AGENT_SYSTEMD": "1",
}


def test_script(arguments: list[str]) -> str:
    """What job.service does in the guest: pytest, its exit code into a file, and off."""
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in ENVIRONMENT.items())
    return f"""\
export {exports}
cd /checkout
{PYTEST} -v {shlex.join(arguments)}
echo $? >/job/exit_code
systemctl poweroff --no-block
"""


def boot_script(folder: Path, drivers: Path) -> str:
    """What the machine's first process does: put the Debian together and become its systemd."""
    lower, checkout, modules = (shlex.quote(str(path)) for path in (folder / "root", ROOT, drivers))
    return f"""\
set -e
modprobe -d {modules} overlay
mkdir -p /run/memory /run/root
mount -t tmpfs tmpfs /run/memory
mkdir /run/memory/upper /run/memory/work
mount -t overlay -o lowerdir={lower},upperdir=/run/memory/upper,workdir=/run/memory/work overlay /run/root
mkdir /run/root/drivers
mount --bind {modules} /run/root/drivers
mount --bind {checkout} /run/root/checkout
mount --bind /run/out /run/root/job
for folder in dev proc sys; do mount --rbind /$folder /run/root/$folder; done
cd /run/root
mount --move . /
exec chroot . /lib/systemd/systemd
"""


def as_root() -> list[str]:
    """What to put before a command."""
    return [] if os.geteuid() == 0 else ["sudo"]


def nspawn(folder: Path, out: Path, *more: str) -> None:
    """Run systemd-nspawn on the Debian of `folder`.

    Raises:
        subprocess.CalledProcessError: it or its command failed.
        subprocess.TimeoutExpired: it did not end in time.
    """
    # Without a systemd on this machine there is nobody to register with.
    alone = [] if Path("/run/systemd/system").is_dir() else ["--register=no", "--keep-unit"]
    subprocess.run(
        [
            *(*as_root(), "systemd-nspawn", "--quiet", *alone, "--private-network", "--console=read-only"),
            *("--directory", str(folder / "root"), f"--bind-ro={ROOT}:/checkout:norbind", f"--bind={out}:/job"),
            *(f"--bind-ro={folder / 'wheels'}:/job/wheels", *more),
        ],
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=True,
    )


def run_container(folder: Path, out: Path) -> None:
    """Boot it with this machine's kernel."""
    nspawn(folder, out, "--volatile=overlay", "--boot")


def run_machine(folder: Path, out: Path) -> None:
    """Install the program, which stays until the next time; boot with Debian's kernel. A test starts the service."""
    settings = [f"--setenv={name}={value}" for name, value in ENVIRONMENT.items()]
    nspawn(folder, out, *settings, "sh", "-ec", "/checkout/systemd/install.sh; systemctl disable edge-agent")
    drivers = folder.parent / "drivers"
    (out / "job.sh").write_text(boot_script(folder, drivers))
    vm.boot(drivers, out)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run tests in a Debian that boots with systemd.")
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("kind", choices=["container", "machine"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for pytest")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-guest-") as name:
        out = Path(name)
        (out / "wheels").mkdir()
        (out / "tests.sh").write_text(test_script(args.arguments))
        try:
            (run_container if args.kind == "container" else run_machine)(args.folder, out)
        except subprocess.TimeoutExpired:
            print(f"the guest did not end in {TIMEOUT_S:.0f} s", file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as exc:
            print(f"{exc.cmd[0]} failed, exit code {exc.returncode}; what it said is above", file=sys.stderr)
            return 1
        path = out / "exit_code"
        code = int(path.read_text()) if path.exists() else 1
        return 0 if code == NOTHING_PICKED else code


if __name__ == "__main__":
    sys.exit(main())
