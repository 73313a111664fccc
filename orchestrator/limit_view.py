"""The model limits as the fleet keeps them in Redis: what of each minute is used, and who is held back until when.

Workers write them (`workers/models/limits.py`) with the names and caps that they were told, so that whoever looks need
not be told the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

# What a bucket holds, in the order of its fields `b1` to `b3` and `l1` to `l3`.
KINDS = ("requests", "input tokens", "output tokens")
MINUTE_MS = 60_000
WHOLE_PERMILLE = 1_000
# What a quiet second gives back of the pace.
RAISED_PERMILLE = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class MinuteView:
    """A minute's worth of one kind, of which time gives back what calls take."""

    kind: str
    used: int
    """Above `cap` after a call that needed more than a minute has."""
    cap: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitView:
    """What the fleet allows itself at one family of models of one endpoint."""

    endpoint: str
    family: str
    minutes: Sequence[MinuteView]
    """Of the kinds that are limited; none: nothing but refusals is."""
    pace_percent: int
    """Of the limits' rates: halved by a 429, and growing back."""
    held_seconds: float
    """The server wants to be asked by nobody for so long; 0: it may be asked."""

    @property
    def is_short(self) -> bool:
        """Whether calls wait, or fewer go than the limits say."""
        return self.held_seconds > 0 or self.pace_percent < 100 or any(one.used >= one.cap for one in self.minutes)


def look(client: "redis.Redis", *, key_prefix: str) -> list[LimitView]:
    """All families that were asked within ten minutes, short ones first; raises `redis.RedisError`."""
    seconds, microseconds = client.time()
    now_ms = seconds * 1_000 + microseconds // 1_000
    found = []
    for key in client.scan_iter(match=f"{key_prefix}:limits:*", count=1_000, _type="hash"):
        fields: dict[str, str] = client.hgetall(key)  # type: ignore[assignment]
        if "family" in fields:
            found.append(view_of(fields, now_ms=now_ms))
    return sorted(found, key=lambda one: (not one.is_short, one.endpoint, one.family))


def view_of(fields: Mapping[str, str], *, now_ms: int) -> LimitView:
    """What a family's fields mean now: nobody has written what time has given back since."""
    factor = float(fields.get("factor", WHOLE_PERMILLE))
    raised_ms = float(fields.get("raised", now_ms))
    rate = factor / WHOLE_PERMILLE / MINUTE_MS
    minutes = []
    for number, kind in enumerate(KINDS, start=1):
        cap = int(fields.get(f"l{number}", 0))
        if cap > 0:
            gained = max(0.0, now_ms - float(fields.get("at", now_ms))) * cap * rate
            left = min(float(cap), float(fields.get(f"b{number}", cap)) + gained)
            minutes.append(MinuteView(kind=kind, used=round(cap - left), cap=cap))
    grown = factor + RAISED_PERMILLE * max(0, (now_ms - raised_ms) // 1_000)
    return LimitView(
        endpoint=fields.get("endpoint", ""),
        family=fields["family"],
        minutes=minutes,
        pace_percent=round(min(WHOLE_PERMILLE, grown) / 10),
        held_seconds=max(0.0, float(fields.get("not_before", 0)) - now_ms) / 1_000,
    )
