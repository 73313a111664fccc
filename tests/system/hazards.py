"""Scripts that are hard on their worker, one that is held with its workspace open, and fleets that know them."""

import ctypes
import json
import math
import os
import re
import time
from dataclasses import dataclass, replace
from typing import Any

from chaos.errands import ledger
from chaos.machine import Fleet
from chaos.scripts import HELD_SECONDS, LOOK_SECONDS
from pydantic import JsonValue

from chargehand.orchestrator.laptop.specs import ProcessSpec
from chargehand.orchestrator.settings import Settings
from chargehand.workers.scripts.registry import ScriptContext, script

MODULE = "system.hazards"
# What is eaten at a time, and the pause after it: whoever looks at the process must be able to see it grow.
BITE_BYTES = 16_000_000
BITE_PAUSE_SECONDS = 0.05
# A guard that fails must not cost the machine its memory.
MOST_EATEN_BYTES = 2_000_000_000
# Doubles its time with every letter, and holds the interpreter's lock all the while.
CATASTROPHIC = re.compile(r"(a+)+$")
# Some tens of milliseconds.
CALIBRATING_LETTERS = 18


@dataclass(frozen=True, kw_only=True, slots=True)
class HazardousFleet(Fleet):
    """A fleet whose workers have these scripts."""

    def specs(self, settings: Settings, endpoints: Any, **rest: Any) -> tuple[ProcessSpec, ...]:
        """The processes as usual, with one module more."""
        return tuple(
            replace(spec, environment={**spec.environment, **_with_module(spec.environment["CHARGEHAND_MODULES"])})
            for spec in Fleet.specs(self, settings, endpoints, **rest)
        )


def _with_module(modules: str) -> dict[str, str]:
    return {"CHARGEHAND_MODULES": json.dumps([*json.loads(modules), MODULE])}


def knock(context: ScriptContext, name: str) -> None:
    """Tell the ledger that an attempt begins."""
    ledger().knock(context.run_id, context.step_key, context.idempotency_key, name=name)


def wait_at(door: str) -> None:
    """Stand before a door until the test opens it."""
    deadline = time.monotonic() + HELD_SECONDS
    while not ledger().is_open(door):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nobody opened {door!r}.")
        time.sleep(LOOK_SECONDS)


# --- what takes its worker down ---------------------------------------------------------------------------------------


@script(name="segfault", effect="idempotent")
def segfault(context: ScriptContext, *, door: str) -> JsonValue:
    """Read where nothing is."""
    knock(context, "segfault")
    wait_at(door)
    return ctypes.string_at(0).decode()


@script(name="vanish", effect="idempotent")
def vanish(context: ScriptContext, *, door: str) -> JsonValue:
    """End the process without a word: no handler, no `finally`, exit code 0."""
    knock(context, "vanish")
    wait_at(door)
    os._exit(0)


@script(name="devour", effect="idempotent")
def devour(context: ScriptContext, *, door: str) -> JsonValue:
    """Eat memory until somebody ends it."""
    knock(context, "devour")
    wait_at(door)
    eaten: list[bytes] = []
    while len(eaten) * BITE_BYTES < MOST_EATEN_BYTES:
        eaten.append(b"x" * BITE_BYTES)
        time.sleep(BITE_PAUSE_SECONDS)
    return len(eaten)


@script(name="hog", effect="idempotent")
def hog(context: ScriptContext, *, door: str, seconds: float) -> JsonValue:
    """Hold the interpreter's lock for at least `seconds`, and about twice that at most, with one match."""
    knock(context, "hog")
    wait_at(door)
    # The machine's own speed, undisturbed, so that the match is as long on a fast one as on a slow one.
    unit_seconds = min(_match_seconds(CALIBRATING_LETTERS) for _ in range(3))
    return _match_seconds(CALIBRATING_LETTERS + math.ceil(math.log2(seconds / unit_seconds)))


def _match_seconds(letters: int) -> float:
    began = time.perf_counter()
    CATASTROPHIC.match("a" * letters + "b")
    return time.perf_counter() - began


# --- workspaces -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Drafted:
    """What an attempt has written, and where it has left the workspace."""

    written_by: int
    commit: str


@script(name="draft", effect="idempotent")
def draft(context: ScriptContext, *, door: str) -> Drafted:
    """Write a file, be held at the door, and commit it."""
    workspace = context.open_workspace()
    (workspace.path / "draft.txt").write_text(str(os.getpid()))
    knock(context, "draft")
    wait_at(door)
    commit = workspace.commit("Draft")
    ledger().take_effect(context.run_id, context.step_key, context.idempotency_key, name="draft")
    return Drafted(written_by=os.getpid(), commit=commit)


@script(name="proofread", effect="pure")
def proofread(context: ScriptContext) -> JsonValue:
    """What the step before has left in the workspace."""
    return (context.open_workspace().path / "draft.txt").read_text()
