"""The newest events of a parcel."""


def newest(events: list[str], count: int) -> list[str]:
    """The `count` newest of `events`, which are ordered oldest first; the newest comes first."""
    return events[-count:-1][::-1]
