"""Everything that sets up and runs Chargehand on one machine.

`up` runs it, `running_laptop` finds it, `Postgres` and `Valkey` are the embedded servers on their own.
"""

from chargehand.orchestrator.laptop.machine import Laptop, up
from chargehand.orchestrator.laptop.services import Endpoints, Postgres, Valkey
from chargehand.orchestrator.laptop.state import LaptopState, running_laptop

__all__ = ["Endpoints", "Laptop", "LaptopState", "Postgres", "Valkey", "running_laptop", "up"]
