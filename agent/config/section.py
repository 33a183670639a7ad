"""What all sections of the configuration are made of."""

from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65535)]
Pixels = Annotated[int, Meta(ge=1, le=8192)]
Seconds = Annotated[float, Meta(gt=0.0, le=86400.0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Common to all sections: immutable, and a key that nobody knows is an error."""
