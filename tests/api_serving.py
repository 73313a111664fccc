"""The API on a loopback port, as `chargehand api` serves it, in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from chargehand.orchestrator.api.app import create_app
from chargehand.orchestrator.api.server import Server
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.settings import Settings


@contextmanager
def serving(settings: Settings, services: Services, port: int = 0) -> Iterator[int]:
    """Its port, while the block lasts."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    app = create_app(settings, services)
    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2), app)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        app.state.chargehand.live.close_soon()
        server.should_exit = True
        thread.join()
        listening.close()
