"""A device that moves: gpsd beside the daemon, and the position on what it publishes."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.wire.schemas import message_schema
from tests.sim.agent import Agent, make_config
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle
from tests.sim.gpsd import Gpsd

BRANCH = "edge/devices/cam-1"
NAMES = {"results": "result", "events": "event", "telemetry": "telemetry"}


def test_results_events_and_telemetry_say_where_while_the_fix_is_fresh(tmp_path: Path, broker: Broker) -> None:
    listener = broker.listen(*(f"{BRANCH}/{kind}/#" for kind in NAMES))

    def kinds(messages: list[Any], *, placed: bool) -> set[str]:
        """Which kinds came with a position, or without."""
        return {
            message.topic.removeprefix(f"{BRANCH}/").split("/")[0]
            for message in messages
            if ("position" in json.loads(message.payload)) == placed
        }

    with Gpsd() as gpsd:
        gps = {"enabled": True, "host": "127.0.0.1", "port": gpsd.port, "max_age_s": 1}
        config = make_config(tmp_path, broker.port, make_bundle("face", tmp_path), gps=gps)
        with Agent(tmp_path, config) as agent:
            gpsd.say(has_fix=False)
            listener.wait_for(lambda m: "results" in kinds(m, placed=False), 30, "a result without a position")
            gpsd.say(has_fix=True)
            messages = listener.wait_for(lambda m: kinds(m, placed=True) == set(NAMES), 30, "a position on each kind")
            assert agent.status()["position"]["mode"] in {2, 3}
            gpsd.kill()
            agent.wait_for_status(lambda s: any(reason.startswith("gps: gpsd at") for reason in s["reasons"]))
            listener.wait_for(lambda m: "position" not in json.loads(m[-1].payload), 10, "no position again")
            gpsd.start()
            agent.wait_for_status(lambda s: not s["reasons"] and "position" in s)
            assert (1, 1) == (len(agent.events("gps.lost")), len(agent.events("gps.recovered")))
    for message in messages:
        told = json.loads(message.payload)
        jsonschema.validate(told, message_schema(NAMES[message.topic.removeprefix(f"{BRANCH}/").split("/")[0]]))
        if "position" in told:
            where = told["position"]
            assert (where["lat_deg"], where["lon_deg"]) == pytest.approx((-27.2108, 153.0522), abs=1e-3)
            assert 0 <= where["age_s"] <= 1
