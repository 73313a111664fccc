"""Scripts whose effect is counted; workers load this module by `CHARGEHAND_MODULES`."""

import os
import signal
import sys
import time
from dataclasses import dataclass

from pydantic import JsonValue

from chaos.errands import ledger
from chargehand.workers import sandbox
from chargehand.workers.scripts.registry import ScriptContext, script

# A step that a failed test never lets go must not keep its worker from ending.
HELD_SECONDS = 60.0
LOOK_SECONDS = 0.02
# A disk that is full, or a git that was killed, costs a try.
SCRIBBLE_RETRIES = 10
SCRIBBLED_BYTES = 100_000
# A sandbox that outlives its worker is still there when it is looked for.
SANDBOX_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scribbled:
    """Where a step has left the workspace."""

    step: str
    commit: str


def _result(context: ScriptContext) -> JsonValue:
    return {"step": context.step_key, "inputs": sorted(context.inputs)}


@script(name="count", effect="idempotent")
def count(context: ScriptContext, *, seconds: float = 0.0) -> JsonValue:
    """Take effect in the middle of `seconds`, so that a kill may come before and after."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name="count")
    time.sleep(seconds / 2)
    ledger().take_effect(context.run_id, context.step_key, context.idempotency_key, name="count")
    time.sleep(seconds / 2)
    return _result(context)


@script(name="deliver", effect="effectful")
def deliver(context: ScriptContext, *, seconds: float = 0.0) -> JsonValue:
    """The same, in a world that knows no keys: done twice is done twice."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name="deliver")
    time.sleep(seconds / 2)
    ledger().take_effect(context.run_id, context.step_key, context.idempotency_key, name="deliver", kind="effectful")
    time.sleep(seconds / 2)
    return _result(context)


@script(name="hold", effect="idempotent")
def hold(context: ScriptContext, *, door: str) -> JsonValue:
    """Begin, and take effect when the test opens the door."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name="hold")
    deadline = time.monotonic() + HELD_SECONDS
    while not ledger().is_open(door):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nobody opened {door!r}.")
        time.sleep(LOOK_SECONDS)
    ledger().take_effect(context.run_id, context.step_key, context.idempotency_key, name="hold")
    return _result(context)


@script(name="scribble", effect="idempotent", retries=SCRIBBLE_RETRIES)
def scribble(context: ScriptContext) -> Scribbled:
    """Add a file to the workspace and commit it; needs room on its disk."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name="scribble")
    workspace = context.open_workspace()
    file = workspace.path / "scribbles" / f"{context.step_key}.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(context.step_key.ljust(SCRIBBLED_BYTES, "."))
    commit = workspace.commit(f"Scribble {context.step_key}")
    ledger().take_effect(context.run_id, context.step_key, context.idempotency_key, name="scribble")
    return Scribbled(step=context.step_key, commit=commit)


@script(name="enclose", effect="idempotent", retries=SCRIBBLE_RETRIES)
def enclose(context: ScriptContext, *, seconds: float = 0.0) -> JsonValue:
    """Take effect after something has run in a sandbox for `seconds`; it would not have ended by itself."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name="enclose")
    until = time.monotonic() + seconds
    if sandbox.available().ok:
        argv = (sys.executable, "-c", f"import time; time.sleep({SANDBOX_SECONDS})")
        folder = context.open_workspace().path
        ended = sandbox.run(
            argv,
            workspace=folder,
            writable=False,
            timeout_seconds=SANDBOX_SECONDS,
            cancelled=lambda: time.monotonic() > until,
        )
        if ended.killed != "cancelled":
            raise ConnectionError(f"The sandbox ended by itself: {ended.stderr[-200:]!r}")
    ledger().take_effect(context.run_id, context.step_key, context.idempotency_key, name="enclose")
    return _result(context)


@script(name="poison", effect="idempotent")
def poison(context: ScriptContext) -> JsonValue:
    """Take the whole worker process down."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name="poison")
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@script(name="stumble", effect="idempotent")
def stumble(context: ScriptContext, *, times: int) -> JsonValue:
    """Fail the first `times` times."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name="stumble")
    if len(ledger().knocks(context.run_id, context.step_key)) <= times:
        raise ConnectionError("The other side is not there yet.")
    ledger().take_effect(context.run_id, context.step_key, context.idempotency_key, name="stumble")
    return _result(context)
