"""Tells customers what happened to their parcel. Channels register themselves when they are imported."""

from collections.abc import Callable

Channel = Callable[[str, str], None]

_channels: list[Channel] = []


def channel(function: Channel) -> Channel:
    _channels.append(function)
    return function


def tell(code: str, what: str) -> int:
    """Send to every channel and give their number."""
    for send in _channels:
        send(code, what)
    return len(_channels)
