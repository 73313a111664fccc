"""Scripts that cost only what a step costs; workers load this module by `CHARGEHAND_MODULES`."""

import time
from pathlib import Path

from chargehand.workers.scripts.registry import ScriptContext, script

# Somebody who measures is long done by then.
HOLD_SECONDS = 300.0
LOOK_SECONDS = 0.2


@script(name="bench_nothing", effect="pure")
def nothing(context: ScriptContext) -> None:
    """Do nothing."""
    del context


@script(name="bench_hold", effect="pure")
def hold(*, door: str) -> None:
    """Run until there is a file of that name."""
    deadline = time.monotonic() + HOLD_SECONDS
    while not Path(door).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nobody made {door}.")
        time.sleep(LOOK_SECONDS)
