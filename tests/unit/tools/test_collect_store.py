"""What a collector stores, how far it says that nothing is missing, and what it reports."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim import free_port, require_program
from tools import collect_parquet
from tools.collect_messages import Numbered, Picture
from tools.collect_report import DeviceReport, make_report
from tools.collect_store import GIVEN_UP_AFTER, Store, open_store
from tools.operator_login import OperatorError, UsageError

EPOCH = 1 << 32
POSTGRESQL = "/usr/lib/postgresql"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A server of its own, as a user that is not root: pytest's folders are for root alone."""
    pytest.importorskip("psycopg")
    initdb = next(iter(sorted(Path(POSTGRESQL).glob("*/bin/initdb"))), None)
    programs = initdb.parent if initdb else Path(require_program("initdb", "apt-get install postgresql")).parent
    port, be = free_port(), list[str]()
    with tempfile.TemporaryDirectory(prefix="edge-agent-") as folder:
        if os.geteuid() == 0:
            be = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
            shutil.chown(folder, "nobody", "nogroup")
        data = f"{folder}/data"
        run = [*be, str(programs / "initdb"), "-D", data, "-U", "edge", "-A", "trust", "--no-sync"]
        subprocess.run(run, check=True, capture_output=True)
        options = f"-h 127.0.0.1 -p {port} -k {folder} -F"
        control = [*be, str(programs / "pg_ctl"), "-D", data, "-w"]
        subprocess.run([*control, "-o", options, "-l", f"{data}/log", "start"], check=True, stdout=subprocess.DEVNULL)
        yield f"postgresql://edge@127.0.0.1:{port}"
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)


@pytest.fixture(params=["sqlite", "postgresql", "parquet"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'collected.db'}"
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
        monkeypatch.setattr(collect_parquet, "ROLL_BYTES", -1)  # each batch is written out before the next
        return f"parquet:{tmp_path / 'collected'}"
    server = request.getfixturevalue("postgresql")
    import psycopg

    name = f"t{abs(hash(str(tmp_path)))}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


def numbered(seq: int, prev: int | None = None, *, device: str = "cam-1", repeated: bool = False) -> Numbered:
    before = seq - 1 if prev is None else prev
    return Numbered(device, seq, before, f"edge/devices/{device}/results/a", "edge.result/1", "", "{}", repeated)


def gap(seq: int, prev: int, count: int = 1) -> Numbered:
    payload = f'{{"count":{count},"reason":"max_bytes"}}'
    return Numbered("cam-1", seq, prev, "edge/devices/cam-1/gap", "edge.gap/1", "", payload, repeated=False)


def put(store: Store, *messages: Numbered, floor: int = 0) -> int:
    """Store them in one batch; gives how far cam-1 is whole."""
    return store.put(messages, {"cam-1": floor}).whole_to["cam-1"]


def report(store: Store) -> DeviceReport:
    return make_report(store)[0]


class TestWhole:
    def test_it_follows_the_chain(self, store: Store) -> None:
        assert put(store, numbered(1), numbered(2)) == 2
        assert put(store, numbered(3), numbered(5, 3)) == 5  # 4 was a snapshot

    def test_a_long_chain_that_closes_at_once(self, store: Store) -> None:
        assert put(store, *(numbered(seq) for seq in range(2, 1001))) == 0
        assert put(store, numbered(1)) == 1000

    def test_a_hole_ends_it_until_what_was_missing_comes(self, store: Store) -> None:
        assert put(store, numbered(1), numbered(3), numbered(4)) == 1
        assert report(store).missing == [(1, 2)]
        assert put(store, numbered(2)) == 4
        assert report(store).missing == []
        assert report(store).late == 1

    def test_what_comes_twice_is_stored_once(self, store: Store) -> None:
        put(store, numbered(1), numbered(2))
        stored = store.put([numbered(2), numbered(2), numbered(3)], {})

        assert (stored.new, stored.duplicates) == (1, 2)
        assert report(store).messages == 3
        assert report(store).late == 0

    def test_devices_do_not_mix(self, store: Store) -> None:
        stored = store.put([numbered(1), numbered(1, device="cam-2"), numbered(3, device="cam-2")], {})

        assert stored.whole_to == {"cam-1": 1, "cam-2": 1}

    def test_a_gap_stands_for_what_it_announces(self, store: Store) -> None:
        assert put(store, numbered(1), gap(5, 1, count=4), numbered(6)) == 6
        assert report(store).complete
        assert report(store).evicted == {"max_bytes": 4}

    def test_a_gap_may_claim_more_than_is_missing(self, store: Store) -> None:
        assert put(store, numbered(1), numbered(2), numbered(4), gap(6, 1), numbered(7)) == 7
        assert report(store).complete

    def test_after_a_power_cut_it_goes_on_from_what_the_device_has_left(self, store: Store) -> None:
        assert put(store, numbered(1), numbered(2), numbered(3), numbered(EPOCH + 1, 2)) == EPOCH + 1
        assert report(store).complete

    def test_a_new_store_goes_on_where_devices_were_acknowledged(self, store: Store) -> None:
        assert put(store, numbered(101), floor=100) == 101
        assert put(store, numbered(102), floor=5000) == 102
        assert report(store).first == 101

    def test_what_the_device_does_not_have_any_more_is_given_up(self, store: Store) -> None:
        """The broker refused message 2 for good, say."""
        put(store, numbered(1), numbered(3))
        for _ in range(GIVEN_UP_AFTER - 1):
            assert put(store, numbered(3)) == 1
        assert put(store, numbered(3, repeated=True)) == 1  # the broker's own repetition proves nothing
        stored = store.put([numbered(3)], {})

        assert stored.given_up == [("cam-1", 1, 2)]
        assert stored.whole_to == {"cam-1": 3}
        assert report(store).missing == [(1, 2)]

    def test_all_is_still_there_after_opening_it_again(self, url: str) -> None:
        store = open_store(url)
        put(store, numbered(1), numbered(2))
        store.close()
        store = open_store(url)

        assert put(store, numbered(3)) == 3
        store.close()

    def test_two_collectors_see_what_the_other_has_stored(self, url: str) -> None:
        one, other = open_store(url), open_store(url)
        assert put(one, numbered(1), numbered(3)) == 1
        assert put(other, numbered(2), numbered(4)) == 4
        assert put(one, numbered(5)) == 5
        one.close()
        other.close()


class TestNumbersThatBeginAgain:
    """A new card, whose clock was behind at its first start: the device can't believe a number it has not come to."""

    def test_the_device_is_told_of_its_new_chain(self, store: Store) -> None:
        assert put(store, numbered(9 * EPOCH + 1, 0), numbered(9 * EPOCH + 2)) == 9 * EPOCH + 2
        assert put(store, numbered(4 * EPOCH + 1, 0), numbered(4 * EPOCH + 2)) == 4 * EPOCH + 2
        assert put(store, numbered(4 * EPOCH + 3)) == 4 * EPOCH + 3
        assert put(store, numbered(5 * EPOCH + 1, 4 * EPOCH + 3)) == 5 * EPOCH + 1
        assert put(store, numbered(10 * EPOCH + 1, 5 * EPOCH + 1)) == 10 * EPOCH + 1
        assert make_report(store)[0].complete

    def test_also_when_it_sends_all_of_it_again_to_another_collector(self, store: Store, url: str) -> None:
        put(store, numbered(9 * EPOCH + 1, 0))
        put(store, numbered(4 * EPOCH + 1, 0), numbered(4 * EPOCH + 2))
        store.close()
        store = open_store(url)
        assert put(store, numbered(4 * EPOCH + 1, 0), numbered(4 * EPOCH + 2)) == 4 * EPOCH + 2
        assert put(store, numbered(4 * EPOCH + 3)) == 4 * EPOCH + 3
        store.close()

    def test_not_over_a_hole(self, store: Store) -> None:
        put(store, numbered(9 * EPOCH + 1, 0), numbered(9 * EPOCH + 3))
        assert put(store, numbered(4 * EPOCH + 1, 0), numbered(4 * EPOCH + 3)) == 4 * EPOCH + 1
        for _ in range(GIVEN_UP_AFTER - 1):
            assert put(store, numbered(4 * EPOCH + 3)) == 4 * EPOCH + 1
        assert put(store, numbered(4 * EPOCH + 3)) == 4 * EPOCH + 3

    def test_what_an_older_start_sends_again_is_answered_as_ever(self, store: Store) -> None:
        put(store, numbered(4 * EPOCH + 1, 0), numbered(5 * EPOCH + 1, 4 * EPOCH + 1))
        assert put(store, numbered(4 * EPOCH + 1, 0)) == 5 * EPOCH + 1


def test_a_picture_is_stored_once(store: Store) -> None:
    picture = Picture("cam-1", "edge/devices/cam-1/snapshots/a", "e1", "2026-11-27T00:00:00.000Z", b"\xff\xd8\x00")
    store.put([picture, picture], {})

    assert list(store._read("SELECT event_id, jpeg FROM pictures")) == [("e1", b"\xff\xd8\x00")]


@pytest.mark.parametrize("url", ["", "collected.db", "sqlite:", "sqlite://", "parquet:", "mysql://a/b"])
def test_other_stores_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="expected sqlite:FILE, parquet:FOLDER or postgresql://"):
        open_store(url)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="unable to open database file"):
        open_store(f"sqlite:{tmp_path}/nowhere/a.db")


def test_a_server_that_is_not_there_is_one_line() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(OperatorError, match=r"--store: .*refused"):
        open_store(f"postgresql://edge:secret@127.0.0.1:{free_port()}/edge")
