"""Scripts whose effect is counted; workers load this module by `CHARGEHAND_MODULES`."""

import os
import signal
import time
from pathlib import Path

from pydantic import JsonValue

from chaos.counter import Counter
from chargehand.workers.scripts.registry import ScriptContext, script

COUNTER_VARIABLE = "CHAOS_COUNTER"
# A step that a failed test never lets go must not keep its worker from ending.
HELD_SECONDS = 60.0
LOOK_SECONDS = 0.02


def _counter() -> Counter:
    return Counter(Path(os.environ[COUNTER_VARIABLE]))


@script(name="count", effect="idempotent")
def count(context: ScriptContext, *, seconds: float = 0.0) -> JsonValue:
    """Take effect in the middle of `seconds`, so that a kill may come before and after."""
    counter, run = _counter(), str(context.run_id)
    counter.knock(run, context.step_key, context.idempotency_key)
    time.sleep(seconds / 2)
    counter.take_effect(run, context.step_key, context.idempotency_key)
    time.sleep(seconds / 2)
    return {"step": context.step_key, "inputs": sorted(context.inputs)}


@script(name="hold", effect="idempotent")
def hold(context: ScriptContext, *, door: str) -> JsonValue:
    """Begin, and take effect when the test opens the door."""
    counter, run = _counter(), str(context.run_id)
    counter.knock(run, context.step_key, context.idempotency_key)
    deadline = time.monotonic() + HELD_SECONDS
    while not counter.is_open(door):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nobody opened {door!r}.")
        time.sleep(LOOK_SECONDS)
    counter.take_effect(run, context.step_key, context.idempotency_key)
    return {"step": context.step_key, "inputs": sorted(context.inputs)}


@script(name="poison", effect="idempotent")
def poison(context: ScriptContext) -> JsonValue:
    """Take the whole worker process down."""
    _counter().knock(str(context.run_id), context.step_key, context.idempotency_key)
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@script(name="stumble", effect="idempotent")
def stumble(context: ScriptContext, *, times: int) -> JsonValue:
    """Fail the first `times` times."""
    counter, run = _counter(), str(context.run_id)
    counter.knock(run, context.step_key, context.idempotency_key)
    if len(counter.knocks(run, context.step_key)) <= times:
        raise ConnectionError("The other side is not there yet.")
    counter.take_effect(run, context.step_key, context.idempotency_key)
    return {"step": context.step_key, "inputs": sorted(context.inputs)}
