"""How long the steps of a pool stand still when it is killed: from SIGKILL of its process group until all run again.

Nobody says goodbye: the leases run out, a supervisor puts the steps back, and the pool, which the laptop has started
again meanwhile, claims them. The promise is the lease and five seconds.
"""

import signal
import time
from collections.abc import Iterator

import psycopg

from benchmarks.figures import Figure, percentile
from benchmarks.fleet import RUN_TIMEOUT_SECONDS, Fleet, open_fleet
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.laptop.spawning import signal_group
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.settings import Settings

POOL = "audit"
RUNNING_STEPS = 50
KILLS = 2
GRACE_SECONDS = 5.0
LOOK_SECONDS = 0.05

# Of this run's steps, when each was claimed for the given time; the clock is this machine's, as ours is.
_CLAIMED = """
SELECT extract(epoch FROM at)::double precision FROM chargehand.journal
WHERE run = %s AND kind = 'step.claimed' AND epoch = %s ORDER BY at
"""


def measure(*, steps: int = RUNNING_STEPS, kills: int = KILLS, settings: Settings | None = None) -> Iterator[Figure]:
    """How long a killed step waited for its next claim: the usual one, and the last of all."""
    waits: list[float] = []
    settings = settings or Settings()
    with open_fleet(settings, threads={POOL: steps}) as fleet:
        for number in range(kills):
            waits += waits_of_a_kill(fleet, number, steps=steps)
    yield Figure(name="killed_pool_step_runs_again_p50_seconds", value=percentile(waits, 50), unit="s")
    yield Figure(
        name="killed_pool_all_steps_run_again_seconds",
        value=max(waits),
        unit="s",
        target=settings.lease_seconds + GRACE_SECONDS,
    )


def waits_of_a_kill(fleet: Fleet, number: int, *, steps: int) -> list[float]:
    """Seconds from the kill until each of the pool's steps was claimed again."""
    door = fleet.home / f"door-{number}"
    plan = Plan.of(
        Step(key=f"hold-{index}", kind="script", script="bench_hold", pool=POOL, arguments={"door": str(door)})
        for index in range(steps)
    )
    run = fleet.client.submit(plan=plan)
    wait_for_claims(fleet, run, epoch=1, count=steps)
    killed_at = time.time()
    signal_group(fleet.laptop.processes.pids()[POOL], signal.SIGKILL)
    claimed_again = wait_for_claims(fleet, run, epoch=2, count=steps)
    door.touch()
    run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
    return [claimed_at - killed_at for claimed_at in claimed_again]


def wait_for_claims(fleet: Fleet, run: RunHandle, *, epoch: int, count: int) -> list[float]:
    """When each step was claimed for the `epoch`-th time, once all were."""
    deadline = time.monotonic() + RUN_TIMEOUT_SECONDS
    with psycopg.connect(fleet.database_url, autocommit=True) as connection:
        while True:
            claimed = [row[0] for row in connection.execute(_CLAIMED, [run.run_id, epoch])]
            if len(claimed) == count:
                return claimed
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(claimed)} of {count} steps were claimed under epoch {epoch}.")
            time.sleep(LOOK_SECONDS)
