"""How long a server that is busy is left alone, by what it says and not by our clock."""

import pytest

from chargehand.workers.models.wire import DEFAULT_BUSY_SECONDS, MAX_BUSY_SECONDS, busy_seconds

NOON = "Sun, 06 Nov 1994 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "-7"}, 0.0),
        ({"retry-after": "86400"}, MAX_BUSY_SECONDS),
        ({"retry-after": "nan"}, MAX_BUSY_SECONDS),
        ({}, DEFAULT_BUSY_SECONDS),
        ({"retry-after": "soon"}, DEFAULT_BUSY_SECONDS),
        ({"retry-after": "Sun, 06 Nov 1994 12:00:05 GMT"}, DEFAULT_BUSY_SECONDS),
        # A date is of the server's clock, and so is the one to compare it with.
        ({"retry-after": "Sun, 06 Nov 1994 12:00:05 GMT", "date": NOON}, 5.0),
        ({"retry-after": NOON, "date": "Sun, 06 Nov 1994 12:00:05 GMT"}, 0.0),
    ],
)
def test_the_time_is_what_the_server_asks_for_within_our_bounds(headers: dict[str, str], seconds: float) -> None:
    assert busy_seconds(headers) == seconds
