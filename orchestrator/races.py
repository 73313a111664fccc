"""Who has won an `any` join: decided once, in the round in which it may begin, and a row of the run's stream.

Two that end at nearly the same moment are both there when that round looks: the earlier end counts, and the join is
given this one's result however often its step is claimed and whatever the others come to.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.facts import JoinsWon, parse_fact
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.tables import RunRow, StepRow


def winners(session: Session, run_id: UUID) -> dict[str, str]:
    """Key of a join → key of the step that it goes on with, of all `any` joins of the run that have begun."""
    found: dict[str, str] = {}
    for entry in journal.read(session, run_id, step=RUN_STREAM, kinds=["joins.won"]):
        fact = parse_fact(entry.body, schema_version=entry.schema_version) if entry.body is not None else None
        if isinstance(fact, JoinsWon):
            found |= fact.winners
    return found


def with_winner(step: Step, winners: Mapping[str, str]) -> Step:
    """The step as it goes on: after all that it waited for, or after whoever has won its race."""
    winner = winners.get(step.key)
    return step if winner is None else step.model_copy(update={"after": (winner,)})


def decide(session: Session, run_id: UUID, racing: Mapping[str, Sequence[str]]) -> JoinsWon | None:
    """What the run's stream is to be told of these joins, whose racers that succeeded are named; None: nothing new.

    A join that was sent back by a pause keeps its winner, and one of a fork that of the run which the fork left.
    """
    known = winners(session, run_id)
    undecided = {join: racers for join, racers in racing.items() if racers and join not in known}
    if not undecided:
        return None
    asked = {step_id(run_id, key) for racers in undecided.values() for key in racers}
    ended = session.scalars(
        select(StepRow.key).where(StepRow.id.in_(asked)).order_by(StepRow.finished_at, StepRow.ordinal)
    ).all()
    before = _winners_before(session, run_id)
    return JoinsWon(
        winners={
            join: before[join] if before.get(join) in racers else min(racers, key=ended.index)
            for join, racers in undecided.items()
        }
    )


def _winners_before(session: Session, run_id: UUID) -> dict[str, str]:
    """Those of the runs that this one is a fork of: what it took over ended all at once here."""
    found: dict[str, str] = {}
    source = session.scalar(select(RunRow.forked_from).where(RunRow.id == run_id))
    while source is not None:
        found = winners(session, source) | found
        source = session.scalar(select(RunRow.forked_from).where(RunRow.id == source))
    return found
