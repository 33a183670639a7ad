"""What paho only tells its logger, such as why a socket broke."""

import logging

import structlog

from agent.mqtt.reasons import tls_reason

_log = structlog.get_logger()


class Trouble(logging.Handler):
    """Keeps paho's last error in words."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""
        # Of nobody's tree, so that no one else's settings print it.
        self.logger = logging.Logger("paho", logging.ERROR)  # noqa: LOG001
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        if isinstance(error, OSError):
            self.text = tls_reason(error)
        else:  # a callback that raised, or a packet that no broker sends
            self.text = record.getMessage()
            _log.error("mqtt.client_failed", error=self.text)
