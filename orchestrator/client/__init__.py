"""What a program uses: submit a goal or a plan, follow it, take its result.

with Client() as client:
    run = client.submit("Audit this repository", workspace=".", budget_usd="0.50")
    report = run.wait(timeout_seconds=900)

`Client` works on the database, `HttpClient` (`client.http`) through the HTTP API; both are an `AnyClient`.
"""

from chargehand.orchestrator.client.database import Client
from chargehand.orchestrator.client.handle import RunHandle
from chargehand.orchestrator.client.interface import AnyClient, AnyRun
from chargehand.orchestrator.client.services import user_name

__all__ = ["AnyClient", "AnyRun", "Client", "RunHandle", "user_name"]
