"""Runs a command in a virtual machine with Debian's kernel and this machine's files, so that tests meet real drivers.

    python -m tests.drivers.vm FOLDER COMMAND...

FOLDER is what `tools/setup/drivers.sh` made. The guest sees the whole file system of this machine read-only, so the
command runs in the same virtual environment from the same checkout; only /run (and /dev, /proc, /sys) is its own.
QEMU emulates the processor: all is some 20 times slower, and needs no rights. Ends with the command's exit code, 1 when
the guest did not end in time or gave none.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900.0
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/run/tmp",
    "TMPDIR": "/run/tmp",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


def job(folder: Path, command: list[str]) -> str:
    """What the guest does: the command, its exit code into a file, and off."""
    variables = ENVIRONMENT | {"EDGE_AGENT_DRIVERS": str(folder)}
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return f"""\
ip link set lo up
cd {shlex.quote(str(ROOT))}
env -i {assignments} {shlex.join(command)}
echo $? >/run/out/exit_code
exec busybox poweroff -f
"""


def boot(folder: Path, out: Path) -> None:
    """Start the guest with `out` as its /run/out, show its console, and wait for its end.

    Raises:
        subprocess.TimeoutExpired: it did not end in time.
    """
    shared = "local,security_model=none"
    subprocess.run(
        [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"),
            *("-nographic", "-no-reboot", "-nic", "none"),
            *("-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.gz")),
            *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
            *("-virtfs", f"{shared},path=/,mount_tag=hostroot,readonly=on,multidevs=remap"),
            *("-virtfs", f"{shared},path={out},mount_tag=out"),
        ],
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command in a virtual machine with real drivers.")
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-guest-") as name:
        out = Path(name)
        (out / "job.sh").write_text(job(args.folder, args.command))
        try:
            boot(args.folder, out)
        except subprocess.TimeoutExpired:
            print(f"the guest did not end in {TIMEOUT_S:.0f} s", file=sys.stderr)
            return 1
        code = out / "exit_code"
        return int(code.read_text()) if code.exists() else 1


if __name__ == "__main__":
    sys.exit(main())
