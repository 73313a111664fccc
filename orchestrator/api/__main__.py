"""One of several processes that serve the API: on a socket that it inherits, for as long as a pipe is open."""

import socket
import sys

from chargehand.orchestrator.api.processes import end_with
from chargehand.orchestrator.api.server import serve_on


def main() -> None:
    """Take the descriptors of the socket and the pipe from the command line, and serve."""
    place, lives = (int(number) for number in sys.argv[1:])
    end_with(lives)
    serve_on(socket.socket(fileno=place))


if __name__ == "__main__":
    main()
