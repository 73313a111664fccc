"""`chargehand api`: the HTTP API, in this process."""

from typing import Annotated

import typer

from chargehand.orchestrator.api.server import serve
from chargehand.orchestrator.cli.terminal import AsJson, notes, print_json

PORT = 8420
# Each has up to 28 connections of Postgres.
MOST_PROCESSES = 32

app = typer.Typer()


@app.command("api")
def api_command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = PORT,
    processes: Annotated[
        int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes that share the port, 120 MB each.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Serve the HTTP API until Ctrl-C.

    It is of the servers that CHARGEHAND_DATABASE_URL and CHARGEHAND_REDIS_URL name, or of the laptop that is up. Any
    number of processes may serve it. It speaks plain HTTP: put what ends TLS before it.
    """
    url = f"http://{host}:{port}/v1"
    if as_json:
        print_json({"url": url})
    else:
        notes().print(f"· serving {url}", style="dim")
    serve(host, port, processes=processes)
