"""A small HTTP server that answers `/metrics`: for `chargehand metrics --port`, and in a worker that is asked to."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from chargehand.orchestrator.errors import InvalidSettings, UserError
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.telemetry import meters
from chargehand.orchestrator.telemetry.exposition import CONTENT_TYPE, ProcessMeter, render, shared_folder

Render = Callable[[], bytes]


def make_server(address: str, port: int, text: Render) -> ThreadingHTTPServer:
    """A server that listens and does not answer yet; `text` is asked for at each scrape.

    Raises `UserError` when the port is taken.
    """

    class Scrape(BaseHTTPRequestHandler):
        """Answers one scrape."""

        # Who connects and says nothing does not keep a thread.
        timeout = 10

        def do_GET(self) -> None:
            """The metrics, or 404 for every other path."""
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            body = text()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A line every fifteen seconds is noise."""

    try:
        server = ThreadingHTTPServer((address, port), Scrape)
    except OSError as error:
        raise UserError(f"Cannot listen on {address}:{port} ({error.strerror}); choose another port.") from error
    server.daemon_threads = True
    return server


def measure_process(settings: Settings) -> None:
    """Let this process count, where somebody can read it; without a folder and an address it counts nothing.

    The folder is `PROMETHEUS_MULTIPROC_DIR`, the address `CHARGEHAND_METRICS_ADDRESS`. Raises `InvalidSettings` for an
    address that is none.
    """
    if shared_folder() is None and not settings.metrics_address:
        return
    meter = ProcessMeter()
    meters.install(meter)
    if settings.metrics_address:
        host, port = parse_address(settings.metrics_address)
        # The process's own counts, also when it keeps them in a folder of its machine.
        server = make_server(host, port, lambda: own_text(meter, shared_folder()))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def own_text(meter: ProcessMeter, folder: Path | None) -> bytes:
    """What this process, or all of its machine that share the folder, have counted."""
    return render(folder=folder) if folder is not None else render(meter=meter)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `0.0.0.0:9464`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidSettings(f"CHARGEHAND_METRICS_ADDRESS={address!r} is no address; give one like 0.0.0.0:9464.")
    return host.strip("[]"), int(port)
