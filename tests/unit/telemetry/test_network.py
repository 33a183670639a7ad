"""Network interfaces, from /proc/net and /sys/class/net as machines with few and with many have them."""

from pathlib import Path

import pytest
from msgspec import UNSET

from agent.telemetry import network
from agent.wire.host import InterfaceTelemetry, WifiTelemetry
from tests.sim.trees import Tree

DEV = """Inter-|   Receive                                      |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
"""
WIRELESS = """Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")


def interfaces(tree: Tree) -> dict[str, InterfaceTelemetry]:
    return network.interfaces(tree.root / "proc", tree.root / "sys") or {}


def add(tree: Tree, name: str, *, state: str = "up", hardware: bool = False, rx: int = 1, tx: int = 2) -> None:
    """Another line of /proc/net/dev, and what sysfs has of it."""
    file = tree.root / "proc/net/dev"
    before = file.read_text() if file.exists() else DEV
    tree.write("proc/net/dev", f"{before}{name:>6}:{rx} 11 3 0 0 0 0 0 {tx} 12 4 0 0 0 0 0\n")
    tree.write(f"sys/class/net/{name}/operstate", f"{state}\n")
    if hardware:
        tree.write(f"sys/class/net/{name}/device/uevent")


def wireless(tree: Tree, line: str) -> dict[str, WifiTelemetry] | object:
    tree.write("proc/net/wireless", WIRELESS + line + "\n")
    return network.wifi(tree.root / "proc")


def test_counters_and_state_of_what_has_hardware(tree: Tree):
    add(tree, "lo", rx=9, tx=9)
    add(tree, "eth0", state="down", hardware=True, rx=0, tx=0)
    add(tree, "wlan0", hardware=True, rx=9_876_543_210, tx=123_456)
    assert interfaces(tree) == {
        "eth0": InterfaceTelemetry(rx_bytes=0, tx_bytes=0, rx_errors=3, tx_errors=4, up=False),
        "wlan0": InterfaceTelemetry(rx_bytes=9_876_543_210, tx_bytes=123_456, rx_errors=3, tx_errors=4, up=True),
    }


def test_a_tunnel_does_not_know_whether_it_is_up(tree: Tree):
    add(tree, "wg0", state="unknown")
    assert interfaces(tree)["wg0"].up is UNSET


def test_what_is_virtual_comes_last_and_not_at_all_when_it_is_down(tree: Tree):
    add(tree, "docker0", state="down")
    add(tree, "br0")
    add(tree, "veth12ab")
    add(tree, "eth0", hardware=True)
    assert list(interfaces(tree)) == ["eth0", "br0"]


def test_a_hundred_do_not_push_out_the_one_that_counts(tree: Tree):
    for number in range(100):
        add(tree, f"br-{number:03}")
    add(tree, "wlan0", hardware=True)
    assert list(interfaces(tree)) == ["wlan0", *(f"br-{number:03}" for number in range(7))]


def test_no_interface_is_no_field(tree: Tree):
    assert network.interfaces(tree.root / "proc", tree.root / "sys") is UNSET
    add(tree, "lo")
    assert network.interfaces(tree.root / "proc", tree.root / "sys") is UNSET


def test_the_signal_in_dbm(tree: Tree):
    found = wireless(tree, " wlan0: 0000   56.  -54.  -256        0      0      0      0    108        0")
    assert found == {"wlan0": WifiTelemetry(quality_percent=80.0, signal_dbm=-54.0)}


def test_a_driver_without_a_unit(tree: Tree):
    found = wireless(tree, " wlan1: 0000   88   70    0        0      0      0      0      0        0")
    assert found == {"wlan1": WifiTelemetry(quality_percent=88.0)}


@pytest.mark.parametrize(
    "line", [" wlan0: 0000    0  -256  -256   0 0 0 0 0 0", " wlan0: 0000", " wlan0: 0000 good bad", "wlan0 0000 1 2"]
)
def test_one_that_is_not_connected_has_no_signal(tree: Tree, line: str):
    assert wireless(tree, line) is UNSET


def test_wireless_interfaces_are_bounded(tree: Tree):
    found = wireless(tree, "\n".join(f" wlan{number}: 0000  56.  -54.  -256  0 0 0 0 0 0" for number in range(20)))
    assert isinstance(found, dict)
    assert len(found) == network.MAX_INTERFACES
