"""The process that serves the API: uvicorn, told early that streams are to end."""

import gc
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from chargehand.orchestrator import endpoints
from chargehand.orchestrator.api.app import create_app
from chargehand.orchestrator.api.processes import Crew
from chargehand.orchestrator.api.state import ApiState
from chargehand.orchestrator.settings import load_settings

# Answers under way when the process is to stop.
GRACE_SECONDS = 5
WORKER = (sys.executable, "-m", "chargehand.orchestrator.api")


class Server(uvicorn.Server):
    """uvicorn waits for open connections; a stream would keep it waiting, so streams are told first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        """`app` is what `config` serves."""
        super().__init__(config)
        self._state: ApiState = app.state.chargehand

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends streams and then the process."""
        self._state.live.close_soon()
        super().handle_exit(sig, frame)


def serve(host: str, port: int, *, processes: int = 1, app: FastAPI | None = None) -> None:
    """Serve until a signal comes; raises `Unavailable` when nothing says where Postgres is.

    `processes`: how many share the port; with more than one, each makes an app of its own.
    """
    if processes > 1:
        # What is wrong is said once, before any process is made.
        endpoints.database_url(load_settings())
        listening = uvicorn.Config("chargehand", host=host, port=port, log_level="info").bind_socket()
        Crew(WORKER, listening, processes=processes).run(grace_seconds=2 * GRACE_SECONDS)
        return
    app = app or create_app()
    server = Server(_config(app, host=host, port=port), app)
    _keep_what_is_there()
    server.run()


def serve_on(listening: socket.socket) -> None:
    """Serve on a socket that is bound, as one process of several."""
    app = create_app()
    server = Server(_config(app), app)
    _keep_what_is_there()
    server.run([listening])


def _config(app: FastAPI, **where: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        **where,
        log_level="info",
        access_log=False,
        server_header=False,
        # Whom to believe is a setting of ours, see `TrustedProxies`.
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _keep_what_is_there() -> None:
    """Leave all that was imported and made until here to no collector.

    A full collection goes through it for .1 s, and nothing is answered meanwhile: at two hundred submissions a second
    twenty waited for it.
    """
    gc.collect()
    gc.freeze()
