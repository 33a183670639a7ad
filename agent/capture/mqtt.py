"""Readings of other devices, over the agent's connection to the broker: Zigbee2MQTT, Tasmota, ESPHome and the like."""

import math
import threading

from agent.capture import Feed, Subscribe
from agent.capture.readings import BadReading, Parse, json_parser, make_reading
from agent.config import MqttPlace, MqttSource
from agent.errors import SourceError
from agent.values import Frame

_SLICE_S = 0.2
"""How often a wait looks whether it was interrupted."""


class Topics:
    """Some topics; each message is a reading, in which the channels of the other topics are missing.

    Broken messages are counted and left out; those that have none of the channels are left out.
    """

    def __init__(self, spec: MqttSource, subscribe: Subscribe) -> None:
        places = {
            name: place if isinstance(place, MqttPlace) else MqttPlace(topic=spec.topic, path=place)
            for name, place in spec.channels.items()
        }
        self.name = f"mqtt {spec.topic}"
        self.broken = 0
        self._channels = tuple(places)
        self._parsers = {topic: _parser(places, topic) for topic in {place.topic: None for place in places.values()}}
        self._subscribe = subscribe
        self._feed: Feed | None = None
        self._closed = threading.Event()
        self._index = 0
        self._lost = -1

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        try:
            self._feed = self._subscribe(list(self._parsers))
        except SourceError as exc:
            raise SourceError(f"{self.name}: {exc}") from exc

    def read(self) -> Frame | None:
        while self._feed is not None and not self._closed.is_set():
            values = self._next_values(self._feed)
            if values is not None:
                is_first, self._lost = self._feed.dropped != self._lost, self._feed.dropped
                frame = make_reading(values, self._channels, self._index, is_first=is_first)
                self._index += 1
                return frame
        raise SourceError(f"{self.name}: closed")

    def interrupt(self) -> None:
        self._closed.set()

    def close(self) -> None:
        self._closed.set()
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _next_values(self, feed: Feed) -> list[float] | None:
        """None: nothing came for a while, or nothing usable."""
        try:
            message = feed.take(_SLICE_S)
        except SourceError as exc:
            raise SourceError(f"{self.name}: {exc}") from exc
        if message is None:
            return None
        topic, payload = message
        names, parse = self._parsers[topic]
        try:
            found = parse(payload)
        except BadReading:
            self.broken += 1
            return None
        if found is None:
            return None
        values = dict(zip(names, found, strict=True))
        return [values.get(name, math.nan) for name in self._channels]


def _parser(places: dict[str, MqttPlace], topic: str) -> tuple[list[str], Parse]:
    """Names of the channels that come with a topic, and what finds them in a message."""
    paths: dict[str, str | int] = {name: place.path for name, place in places.items() if place.topic == topic}
    return list(paths), json_parser(paths)
