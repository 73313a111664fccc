"""Which errors say that an outside system does not answer, and not that it was asked for the wrong thing; pure."""

import socket

from chargehand.orchestrator.errors import Unavailable

# Errors by which the libraries that tools use say that the other side does not answer; by name, to import none of them.
_OUTSIDE = frozenset(
    {
        "APIConnectionError",
        "ConnectTimeout",
        "ConnectionError",
        "MaxRetryError",
        "NetworkError",
        "OperationalError",
        "ServerError",
        "TimeoutError",
        "TimeoutException",
        "TransportError",
        "URLError",
    }
)


def is_outside(error: BaseException) -> bool:
    """Whether it is such an error."""
    if isinstance(error, Unavailable | ConnectionError | TimeoutError | socket.gaierror):
        return True
    return any(base.__name__ in _OUTSIDE for base in type(error).__mro__)
