"""`chargehand metrics`: what Prometheus reads, once or as a server."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.text import Text

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator import endpoints
from chargehand.orchestrator.cli.terminal import AsJson, notes, print_json
from chargehand.orchestrator.laptop.specs import metrics_folder
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.telemetry.exporter import make_server
from chargehand.orchestrator.telemetry.exposition import FleetCollector, render, shared_folder

app = typer.Typer()


@app.command()
def metrics(
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Serve /metrics there, until Ctrl-C.")] = None,
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="With --port: where to listen.")] = "127.0.0.1",
    fleet: Annotated[bool, typer.Option(help="The state of the whole fleet; one exporter of it is enough.")] = True,
    as_json: AsJson = False,
) -> None:
    """Print the metrics of the fleet as Prometheus reads them, or serve them.

    What processes of this machine have counted is added, if they share a folder (PROMETHEUS_MULTIPROC_DIR; that of
    `chargehand up` is found by itself).
    """
    settings = load_settings()
    engine = open_engine(
        endpoints.database_url(settings),
        role=SUPERVISOR_ROLE,
        pool_size=1,
        connect_timeout_seconds=settings.connect_timeout_seconds,
    )
    collector = FleetCollector(engine, lease_seconds=settings.lease_seconds) if fleet else None
    own = metrics_folder(settings)
    folder: Path | None = shared_folder() or (own if own.is_dir() else None)
    try:
        if as_json:
            print_json(samples(render(fleet=collector, folder=folder)))
            return
        if port is None:
            sys.stdout.write(render(fleet=collector, folder=folder).decode())
            return
        server = make_server(address, port, lambda: render(fleet=collector, folder=folder))
        notes().print(Text(f"http://{address}:{server.server_port}/metrics (Ctrl-C to stop)"), soft_wrap=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
        finally:
            server.server_close()
    finally:
        engine.dispose()


def samples(text: bytes) -> list[dict[str, object]]:
    """The samples of a scrape as values."""
    families = text_string_to_metric_families(text.decode())
    found = [sample for family in families for sample in family.samples]
    return [{"name": one.name, "labels": one.labels, "value": one.value} for one in found]
