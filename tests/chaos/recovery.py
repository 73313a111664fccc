"""How long steps stood still after the process that ran them was killed; pure.

A gap begins with the SIGKILL and ends when the step is claimed again. What else was broken meanwhile, and the start of
the pool's next process if no other one was alive, is in its way: `undisturbed` counts from when the last of that was
over. Steps that were not claimed again (a person was asked, the run was cancelled) and steps of runs that somebody
paused meanwhile have no gap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from chaos.case import Case, seconds
from chaos.evidence import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """One step of one killed process."""

    step: str
    killed_at: float
    seconds: float
    """From the SIGKILL to the next claim."""
    undisturbed_seconds: float
    """The same from the end of the last strike that was in its way; 0 when that was after the claim."""
    turn_seconds: float
    """How long the steps of its pool usually waited meanwhile: more was ready there than there are places."""


def gaps(case: Case) -> Iterator[Gap]:
    """Every gap of the story."""
    claims: dict[tuple[str, int], float] = {
        (str(tenure.step.id), tenure.claimed.epoch): seconds(tenure.claimed.at) for tenure in case.tenures
    }
    paused = {run.id: _paused(case.of_run(run)) for run in case.evidence.runs}
    for strike in case.evidence.strikes:
        if strike.pid is None:
            continue
        for tenure in case.tenures_by_pid.get(strike.pid, []):
            again = claims.get((str(tenure.step.id), tenure.claimed.epoch + 1))
            if again is None or not tenure.held_at(strike.at):
                continue
            if any(strike.at <= moment <= again for moment in paused[tenure.step.run]):
                continue
            mended = max(
                (other.until for other in case.evidence.strikes if other.at < again and other.until >= strike.at),
                default=strike.at,
            )
            yield Gap(
                step=tenure.step.key,
                killed_at=strike.at,
                seconds=again - strike.at,
                undisturbed_seconds=max(0.0, again - mended),
                turn_seconds=case.turn(tenure.step, struck=strike.at, mended=mended, again=again),
            )


def _paused(rows: list[Row]) -> list[float]:
    return [seconds(row.at) for row in rows if row.kind in {"run.paused", "run.resumed"}]
