"""Every error of the agent, in one tree.

Each class also inherits the nearest builtin, and carries the exit code that the command line ends with.
The message is one line for the user: what is wrong, where, and how to mend it.

    AgentError                     exit 1
    ├── ConfigError (ValueError)   exit 2   a file, a key, a value
    ├── ModelError (ValueError)    exit 3   a bundle that can't be used
    ├── WorkerLost (RuntimeError)  exit 1   a model's worker crashed or hung; a new one is started
    ├── SourceError (OSError)      exit 1   a source has no frame now; it is opened again
    │   └── SourceUnusable         exit 4   a source that can never work, such as a clip that does not exist
    ├── DataSetError (ValueError)  exit 4   labelled data that can't be used, or do not fit the model
    ├── OutboxError (OSError)      exit 1   a message could not be stored
    ├── FeedbackRefused (ValueError) exit 1  a label, samples or learning that can't be had
    ├── UpdateRefused (ValueError) exit 1   a release that is not taken, for good; carries a reason code
    ├── UpdateFailed (OSError)     exit 1   this try to take a release came to nothing; it is tried again
    └── LinkDown (ConnectionError) exit 1   no broker now; it is tried again
"""

from typing import ClassVar


class AgentError(Exception):
    """The root: everything the agent raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(AgentError, ValueError):
    """The configuration is wrong; the message names the file and the path of the key."""

    exit_code = 2


class ModelError(AgentError, ValueError):
    """A model, its manifest or its answer can't be used."""

    exit_code = 3


class WorkerLost(AgentError, RuntimeError):  # noqa: N818 - a state that the caller waits out
    """The process that runs a model crashed, or did not answer within its deadline."""


class SourceError(AgentError, OSError):
    """A source gives no frame at the moment: away, unplugged, stalled or broken."""


class SourceUnusable(SourceError):  # noqa: N818 - what it is, not what happened
    """A source that can never work as configured."""

    exit_code = 4


class DataSetError(AgentError, ValueError):
    """Labelled data are missing or wrong, or are of something else than the model."""

    exit_code = 4


class OutboxError(AgentError, OSError):
    """A message could not be stored, or the outbox can't be opened."""


class FeedbackRefused(AgentError, ValueError):  # noqa: N818 - an answer, not a failure
    """What an operator asked of a device's samples can't be done; the message says why."""


class UpdateRefused(AgentError, ValueError):  # noqa: N818 - an answer, not a failure
    """A release, or what it brought, can't be accepted: now and for good."""

    def __init__(self, reason_code: str, detail: str = "") -> None:
        """Args: a key of `agent.wire.releases.REASONS`, and what exactly was wrong."""
        super().__init__(f"{reason_code}: {detail}" if detail else reason_code)
        self.reason_code, self.detail = reason_code, detail


class UpdateFailed(AgentError, OSError):  # noqa: N818 - a state that the caller waits out
    """A release could not be taken now, for a reason that may pass."""

    def __init__(self, reason_code: str, detail: str = "") -> None:
        """Args: as for UpdateRefused."""
        super().__init__(f"{reason_code}: {detail}" if detail else reason_code)
        self.reason_code, self.detail = reason_code, detail


class LinkDown(AgentError, ConnectionError):  # noqa: N818 - a state that the caller waits out
    """There is no usable connection to the broker; the message says why."""
