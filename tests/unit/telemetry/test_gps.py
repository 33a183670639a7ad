"""Where the device is: reports of a simulated gpsd, of what is none, and of the real one with a real recording."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from agent.config import Gps
from agent.runtime.health import Health
from agent.telemetry.gps import MAX_LINE_BYTES, GpsReader
from agent.wire.host import Position
from tests.sim import free_port, wait_until
from tests.sim.gpsd import DEVICES, FakeGpsd, Gpsd

RECEIVER = DEVICES["devices"][0]["path"]
SKY = {"class": "SKY", "device": RECEIVER, "nSat": 12, "uSat": 5, "satellites": []}
OTHER = "/dev/ttyUSB0"


def tpv(**fields: Any) -> dict[str, Any]:
    """A report of time, position and velocity as gpsd 3.22 makes it of a fix with height; None leaves a field out."""
    report = {
        "class": "TPV",
        "device": RECEIVER,
        "mode": 3,
        "time": "2026-11-22T09:53:10.801Z",
        "lat": -27.210713333,
        "lon": 153.052005,
        "altHAE": 45.2,
        "altMSL": 3.0,
        "alt": 3.0,
        "track": 307.41,
        "speed": 1.5,
        "eph": 12.5,
        **fields,
    }
    return {name: value for name, value in report.items() if value is not None}


class Follower:
    """A reader whose loop runs, and what it says of its health."""

    def __init__(self, **settings: Any) -> None:
        self.changes: list[list[str]] = []
        """Reasons after each change."""
        self.health = Health(on_change=lambda: self.changes.append(self.health.reasons()))
        self.reader = GpsReader(Gps(enabled=True, **settings), self.health)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.reader.loop, args=(self.stop,))
        self.thread.start()

    @property
    def reason(self) -> str:
        return " ".join(self.health.reasons())

    def fix(self, condition: Callable[[Position], object] = lambda _: True) -> Position:
        """Wait for a position that is so."""
        found: list[Position] = []

        def holds() -> bool:
            position = self.reader.current()
            found[:] = [position] if position is not None and condition(position) else []
            return bool(found)

        wait_until(holds, what="a position")
        return found[0]

    def no_fix(self) -> None:
        wait_until(lambda: self.reader.current() is None, what="no position")

    def lost(self, why: str) -> None:
        """Wait for a loss, and until it was told: the reason stands before its change is."""
        wait_until(lambda: why in self.reason and self.changes, what=f"a loss with {why!r}")

    def well(self) -> None:
        wait_until(lambda: not self.reason, what="no loss")

    def end(self) -> float:
        """Stop it; returns how many seconds that took."""
        began_s = time.monotonic()
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()
        return time.monotonic() - began_s


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    followers: list[Follower] = []

    def start(port: int, **settings: Any) -> Follower:
        followers.append(Follower(**{"host": "127.0.0.1", "port": port, **settings}))
        return followers[-1]

    yield start
    for follower in followers:
        follower.end()


@pytest.fixture
def gpsd() -> Iterator[FakeGpsd]:
    with FakeGpsd() as running:
        yield running


def seen(follower: Follower, gpsd: FakeGpsd, report: Any) -> Position | None:
    """The position after a fix and then this report; the sky told after each shows that they were read."""
    gpsd.say(tpv(), SKY)
    follower.fix(lambda position: position.satellites_used == 5)
    gpsd.say(report, {**SKY, "uSat": 6})
    wait_until(lambda: getattr(follower.reader.current(), "satellites_used", 6) == 6, what="the report is read")
    return follower.reader.current()


class TestFix:
    def test_has_what_the_receiver_knows(self, gpsd, follow):
        follower = follow(gpsd.port)
        gpsd.say(SKY, tpv())
        position = follower.fix()
        assert position == Position(
            lat_deg=-27.210713333,
            lon_deg=153.052005,
            mode=3,
            age_s=position.age_s,
            altitude_m=3.0,
            error_m=12.5,
            speed_m_s=1.5,
            track_deg=307.41,
            satellites_used=5,
        )
        assert 0 <= position.age_s < 5

    def test_without_height_has_none(self, gpsd, follow):
        """Receivers go on telling the last height that they knew."""
        follower = follow(gpsd.port)
        gpsd.say(tpv(mode=2, eph=None, speed=None, track=None))
        position = follower.fix()
        assert (position.mode, position.altitude_m, position.satellites_used) == (2, UNSET, UNSET)
        assert (position.error_m, position.speed_m_s, position.track_deg) == (UNSET,) * 3

    def test_an_old_gpsd_calls_the_height_alt_and_gives_two_errors(self, gpsd, follow):
        follower = follow(gpsd.port)
        gpsd.say(tpv(altMSL=None, altHAE=None, alt=7.5, eph=None, epx=3.0, epy=4.0))
        assert (follower.fix().altitude_m, follower.fix().error_m) == (7.5, 5.0)

    @pytest.mark.parametrize("told", ["1999-08-22T00:00:00.000Z", "2038-01-19T03:14:08Z", "yesterday", 7, None])
    def test_the_receivers_time_is_not_looked_at(self, gpsd, follow, told):
        follower = follow(gpsd.port)
        gpsd.say(tpv(time=told))
        assert follower.fix().age_s < 5

    @pytest.mark.parametrize("mode", [0, 1, None, 4, -1, True, 3.5, [3], {}])
    def test_ends_when_the_receiver_says_that_it_does_not_know(self, gpsd, follow, mode):
        assert seen(follow(gpsd.port), gpsd, tpv(mode=mode)) is None

    @pytest.mark.parametrize(
        "wrong",
        [{"lat": 90.1}, {"lat": "1"}, {"lat": True}, {"lon": 10**400}, {"lon": -181}, {"lat": None}, {"lon": [1.0]}],
    )
    def test_is_none_without_a_sound_place(self, gpsd, follow, wrong):
        assert seen(follow(gpsd.port), gpsd, {**tpv(), **wrong}) is None

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"speed": -1}, "speed_m_s"),
            ({"speed": "fast"}, "speed_m_s"),
            ({"track": 361}, "track_deg"),
            ({"eph": {}}, "error_m"),
            ({"altMSL": True}, "altitude_m"),
            ({"altMSL": 1e300}, "altitude_m"),
        ],
    )
    def test_goes_without_what_is_not_sound_beside_the_place(self, gpsd, follow, wrong, field):
        position = seen(follow(gpsd.port), gpsd, {**tpv(), **wrong})
        assert position is not None
        assert getattr(position, field) is UNSET
        assert position.lat_deg == -27.210713333

    @pytest.mark.parametrize(
        "report",
        [
            {},
            {"class": 7},
            {"class": ["TPV"]},
            {"class": "TPV", "device": OTHER},
            {"class": "TPV", "device": {}, "mode": 1},
            {"class": "SKY", "device": OTHER, "uSat": 9},
            {"class": "ERROR", "message": "Unrecognized request"},
            {"class": "DEVICE", "path": OTHER, "activated": "2026-11-27T05:38:31.960Z"},
            {"class": "PPS", "device": RECEIVER, "real_sec": 1},
        ],
    )
    def test_stays_when_others_speak_or_something_else_is_said(self, gpsd, follow, report):
        follower = follow(gpsd.port)
        assert seen(follower, gpsd, report) is not None
        assert not follower.changes

    @pytest.mark.parametrize("used", ["5", -1, True, 1e9, None])
    def test_a_number_of_satellites_that_cannot_be_is_not_told(self, gpsd, follow, used):
        follower = follow(gpsd.port)
        gpsd.say({**SKY, "uSat": used}, tpv())
        assert follower.fix().satellites_used is UNSET

    def test_is_told_only_while_it_is_fresh(self, gpsd, follow):
        """gpsd goes on answering; its receiver is silent."""
        follower = follow(gpsd.port, max_age_s=0.8)
        gpsd.say(tpv())
        assert follower.fix().age_s <= 0.8
        follower.no_fix()
        wait_until(lambda: gpsd.received.count(b"?VERSION;") >= 2, what="it asks whether gpsd is there")
        assert not follower.changes
        gpsd.say(tpv(lat=1.0))
        assert follower.fix().lat_deg == 1.0

    def test_a_wall_clock_that_jumps_changes_nothing(self, gpsd, follow, monkeypatch):
        follower = follow(gpsd.port)
        gpsd.say(tpv())
        follower.fix()
        monkeypatch.setattr(time, "time", lambda: 0.0)
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        assert follower.fix().age_s < 5

    def test_many_reports_in_one_piece_and_one_in_many(self, gpsd, follow):
        follower = follow(gpsd.port)
        gpsd.say(*[tpv(lat=float(number)) for number in range(80)], b'{"class":"TPV","mode":2,"lat":81,')
        follower.fix(lambda position: position.lat_deg == 79.0)
        gpsd.say(b'"lon":1}\n')
        assert follower.fix(lambda position: position.lat_deg == 81.0).lon_deg == 1.0


class TestLoss:
    def test_nobody_there_is_said_once(self, follow):
        follower = follow(free_port())
        follower.lost("connection refused; is it running, and is gps.host right?")
        assert follower.reader.current() is None
        assert len(follower.changes) == 1

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 300, "\u00e9" * 70, "a..b", "a\0b"])
    def test_a_host_that_cannot_be_reached(self, follow, host):
        follower = follow(2947, host=host)
        follower.lost("is gps.host right?")
        assert "\n" not in follower.reason

    def test_it_dies_and_comes_back(self, follow):
        """The fix lives on for as long as it is fresh."""
        with FakeGpsd() as gpsd:
            follower = follow(gpsd.port, max_age_s=1.0)
            gpsd.say(tpv())
            follower.fix()
        follower.lost("gps: gpsd at 127.0.0.1:")
        follower.no_fix()
        with FakeGpsd(gpsd.port) as gpsd:
            gpsd.say(tpv(lat=2.0))
            assert follower.fix().lat_deg == 2.0
            follower.well()
        assert "ended the connection" in follower.changes[0][0]
        losses = [bool(reasons) for reasons in follower.changes]
        assert losses[: losses.index(False)] == [True] * losses.index(False)

    @pytest.mark.parametrize(
        "junk",
        [
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            b"\n",
            b"[]\n",
            b'"TPV"\n',
            b'{"class":"TPV","mode":3,"lat":NaN,"lon":1.0}\n',
            b'{"class":"TPV","mode":3,"lat":1e999,"lon":1.0}\n',
            b'{"class":"TPV","mode":3,"lat":1.0,"lon":1.0\n',
            b'{"class":"\xff\xfe"}\n',
            b'{"a":' * 20_000 + b"\n",
            b"x" * (MAX_LINE_BYTES + 1),
            b"x" * (10 * MAX_LINE_BYTES),
        ],
        ids=range(11),
    )
    def test_what_gpsd_never_says_ends_the_connection_and_it_is_tried_again(self, gpsd, follow, junk):
        follower = follow(gpsd.port)
        gpsd.say(junk)
        follower.lost("is gps.port gpsd's?")
        assert follower.reader.current() is None
        wait_until(lambda: len(gpsd.clients) == 2, what="another try")
        wait_until(lambda: (gpsd.say(tpv()), follower.reader.current())[1], what="a position")
        follower.well()

    def test_silence_even_when_asked(self, follow):
        with FakeGpsd(greets=False, answers=False) as gpsd:
            follower = follow(gpsd.port, max_age_s=0.6)
            follower.lost("has not answered for 0.6 s")
            assert b"?VERSION;" in gpsd.received

    def test_bytes_that_never_make_a_line_are_silence_too(self, follow):
        with FakeGpsd(answers=False) as gpsd:
            follower = follow(gpsd.port, max_age_s=0.6)
            wait_until(lambda: (gpsd.say(b" "), "has not answered" in follower.reason)[1], what="a loss")

    def test_a_gpsd_without_a_receiver(self, follow):
        with FakeGpsd(greets=False) as gpsd:
            follower = follow(gpsd.port)
            gpsd.say({"class": "DEVICES", "devices": []})
            follower.lost("has no receiver; plug it in")

    def test_a_receiver_that_is_unplugged_and_comes_back(self, gpsd, follow):
        follower = follow(gpsd.port)
        gpsd.say(tpv(), {"class": "DEVICE", "path": RECEIVER, "activated": 0})
        follower.lost("has lost its receiver")
        wait_until(lambda: len(gpsd.clients) == 2, what="another try")
        assert follower.reason
        wait_until(lambda: (gpsd.say(tpv(mode=1)), not follower.reason)[1], what="no loss")

    def test_a_receiver_that_is_only_listed_is_no_recovery(self, gpsd, follow):
        """So that a status does not flicker while each try ends as the one before."""
        follower = follow(gpsd.port)
        for number in range(1, 5):
            wait_until(lambda number=number: len(gpsd.clients) >= number, what="another try")
            gpsd.say({"class": "DEVICE", "path": RECEIVER, "activated": 0})
        assert len(follower.changes) == 1

    def test_tries_become_rare_when_each_ends_at_once(self, gpsd, follow):
        """Also when the receiver spoke in each."""
        follow(gpsd.port)
        began_s = time.monotonic()
        wait_until(lambda: (gpsd.say(tpv(), b"junk\n"), time.monotonic() - began_s > 3)[1], what="three seconds")
        assert 2 <= len(gpsd.clients) < 9

    @pytest.mark.parametrize("greets", [True, False])
    def test_stop_ends_it_soon(self, follow, greets):
        with FakeGpsd(greets=greets) as gpsd:
            follower = follow(gpsd.port)
            wait_until(lambda: gpsd.clients, what="it is connected")
            assert follower.end() < 2
        assert not follower.changes

    def test_stop_ends_the_wait_for_the_next_try(self, follow):
        follower = follow(free_port())
        follower.lost("refused")
        assert follower.end() < 2


@given(
    st.fixed_dictionaries(
        {"class": st.just("TPV")},
        optional={
            name: st.floats() | st.integers() | st.text() | st.none() | st.booleans() | st.floats(-90, 90)
            for name in ("mode", "lat", "lon", "alt", "altMSL", "eph", "epx", "epy", "speed", "track", "device")
        },
    ),
    st.sampled_from([2, 3]),
)
def test_whatever_a_report_says_a_position_can_be_one(report, mode):
    reader = GpsReader(Gps(), Health())
    reader._take({"mode": mode, "lat": 1.0, "lon": 2.0, **report})
    position = reader.current()
    if position is not None:
        numbers = [value for value in msgspec.structs.astuple(position) if value is not UNSET]
        assert all(math.isfinite(value) for value in numbers)
        assert abs(position.lat_deg) <= 90
        assert abs(position.lon_deg) <= 180
        assert position.mode in (2, 3)


class TestRealGpsd:
    def test_a_real_receiver_finds_its_place_and_loses_it(self, follow):
        with Gpsd() as gpsd:
            gpsd.say(has_fix=False)
            follower = follow(gpsd.port, max_age_s=2.0)
            follower.health.lost("gps", "until the receiver has spoken")
            follower.well()
            assert follower.reader.current() is None
            gpsd.say(has_fix=True)
            solid = follower.fix(lambda p: p.mode == 3 and p.satellites_used == 5 and p.error_m is not UNSET)
            gpsd.say(has_fix=False)
            follower.no_fix()
            assert not follower.reason
            gpsd.kill()
            follower.lost("gpsd at 127.0.0.1:")
        assert (solid.lat_deg, solid.lon_deg) == pytest.approx((-27.2107, 153.0520), abs=1e-3)
        assert solid.altitude_m == pytest.approx(3.0, abs=2)
        assert solid.error_m < 1000

    def test_one_that_hangs_is_taken_for_gone(self, follow):
        with Gpsd() as gpsd:
            gpsd.say(has_fix=True)
            follower = follow(gpsd.port, max_age_s=1.0)
            follower.fix()
            gpsd.freeze()
            follower.lost("has not answered for 1 s")
            follower.no_fix()
