"""What one check of `doctor` saw, and how to mend it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check saw."""

    name: str
    state: State
    what: str
    remedy: str = ""
