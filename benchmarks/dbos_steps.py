"""DBOS's step: a call of a `@DBOS.step` that does nothing, in a workflow.

DBOS looks whether the step was recorded before, runs it, and commits its output: one commit where a turn of ours has
two, because it does not record that a call has begun.
"""

import time
from collections.abc import Callable

from dbos import DBOS


def steps(database_url: str, *, count: int, answer: Callable[[], str], between: Callable[[], None]) -> list[float]:
    """Seconds of each step of one workflow that calls `between` after each."""
    seconds: list[float] = []
    DBOS(config={"name": "bench", "system_database_url": database_url, "log_level": "ERROR"})

    @DBOS.step()
    def call_model(text: str) -> str:
        return text

    @DBOS.workflow()
    def agent() -> None:
        for _ in range(count):
            text = answer()
            started = time.perf_counter()
            call_model(text)
            seconds.append(time.perf_counter() - started)
            between()

    try:
        DBOS.launch()
        agent()
    finally:
        DBOS.destroy(destroy_registry=True)
    return seconds
