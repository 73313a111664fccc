"""The process that serves the API: uvicorn, told early that streams are to end."""

from types import FrameType

import uvicorn
from fastapi import FastAPI

from chargehand.orchestrator.api.app import create_app
from chargehand.orchestrator.api.state import ApiState

# Answers under way when the process is to stop.
GRACE_SECONDS = 5


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


def serve(host: str, port: int, *, app: FastAPI | None = None) -> None:
    """Serve until a signal comes; raises `Unavailable` when nothing says where Postgres is."""
    app = app or create_app()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="info",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config, app).run()
