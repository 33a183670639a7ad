"""What a release may call this computer."""

import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.hardware import MAX_NAME_CHARS, MAX_NAMES, hardware_names
from agent.wire.releases import Targets


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "compatible"
    path.write_bytes(data)
    return path


def test_a_board_says_its_names(tmp_path: Path) -> None:
    path = write(tmp_path, b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert hardware_names((), path) == (platform.machine(), "raspberrypi,5-model-b", "brcm,bcm2712")


def test_names_from_the_configuration_are_among_them_each_once(tmp_path: Path) -> None:
    path = write(tmp_path, b"acme,gate\0")
    assert hardware_names(("coral", "acme,gate"), path) == ("coral", "acme,gate", platform.machine())


def test_a_computer_without_a_device_tree_has_its_machine(tmp_path: Path) -> None:
    assert hardware_names((), tmp_path / "nothing") == (platform.machine(),)
    assert hardware_names((), tmp_path) == (platform.machine(),)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"not ended", b"\xff\xfe\0", b"two\nlines\0", b"x" * 65 + b"\0"])
def test_what_is_no_name_is_left_out(tmp_path: Path, data: bytes) -> None:
    assert hardware_names((), write(tmp_path, data)) == (platform.machine(),)


@given(st.binary(max_size=10_000) | st.lists(st.text(), max_size=100).map(lambda names: "\0".join(names).encode()))
def test_whatever_the_file_holds_the_names_are_bounded(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        names = hardware_names(("coral",), write(Path(folder), data))
    assert names[:2] == ("coral", platform.machine())
    assert len(names) <= MAX_NAMES
    assert all(name.isprintable() and 0 < len(name) <= MAX_NAME_CHARS for name in names)
    Targets(hardware=names)


def test_a_file_without_end_is_read_to_its_bound() -> None:
    assert hardware_names((), Path("/dev/zero")) == (platform.machine(),)
