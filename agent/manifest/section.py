"""What all parts of a manifest are made of."""

from typing import Annotated

import msgspec
from msgspec import Meta

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}(?!\n)$"
"""Names that may stand in a topic: models, pipelines, devices, groups. `$` alone also matches before a last newline."""

VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}(?!\n)$"
"""Versions name folders: no separators, no leading dot."""

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Version = Annotated[str, Meta(pattern=VERSION_PATTERN)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1e9)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Common to all parts: immutable, and a key that nobody knows is an error."""
