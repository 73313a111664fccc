"""What must hold of a run that has ended, told by the counter, the tables and the journal."""

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chaos.counter import Counter, Effect, Knock
from chargehand.orchestrator import verification, views
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.views import StepView

COUNTED_SCRIPTS = frozenset({"count", "hold", "stumble"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A run as the three of them tell it."""

    plan: Plan
    steps: Sequence[StepView]
    knocks: Sequence[Knock]
    effects: Sequence[Effect]
    finished: Sequence[str]
    """Keys of steps, one for each `step.finished` in the journal."""


def objections(run: RunHandle, plan: Plan, counter: Counter, *, status: str = "succeeded") -> list[str]:
    """Everything that is wrong with a run that should have ended as `status`; empty when all is well."""
    view = run.status()
    found = [] if view.status == status else [f"the run is {view.status} ({view.reason})"]
    with run._client.session() as session:
        found += verification.drift(session, run.run_id)
        found += [f"{one.stream}: {one.what}" for one in verification.verify_run(session, run.run_id).objections]
        names = {one.step_id: one.key for one in views.view_steps(session, run.run_id)}
    finished = [
        names[event.step_id]
        for event in run.events(follow=False)
        if event.kind == "step.finished" and event.step_id is not None
    ]
    seen = Seen(
        plan=plan,
        steps=run.steps(),
        knocks=counter.knocks(run.run_id),
        effects=counter.effects(run.run_id),
        finished=finished,
    )
    return found + judge(seen)


def judge(seen: Seen) -> list[str]:
    """What the counter saw otherwise than it should be; pure, so that it can be proved by wrong stories."""
    counted = [step for step in seen.plan.steps if step.script in COUNTED_SCRIPTS]
    return [*_effects(seen, counted), *_attempts(seen), *_order(seen, counted)]


def _effects(seen: Seen, counted: Iterable[Step]) -> list[str]:
    status = {step.key: step.status for step in seen.steps}
    times = Tally(effect.step for effect in seen.effects)
    found = [
        f"step {step.key!r} succeeded and took effect {times[step.key]} times"
        for step in counted
        if status[step.key] == "succeeded" and times[step.key] != 1
    ]
    keys: dict[str, set[str]] = {}
    for knock in seen.knocks:
        keys.setdefault(knock.step, set()).add(knock.key)
    found += [f"step {step!r} knocked with {len(used)} keys" for step, used in keys.items() if len(used) > 1]
    return found


def _attempts(seen: Seen) -> list[str]:
    epochs = {step.key: step.epoch for step in seen.steps}
    found = [
        f"step {key!r} ran {times} times in {epochs[key]} claims"
        for key, times in Tally(knock.step for knock in seen.knocks).items()
        if times > epochs[key]
    ]
    return found + [f"step {key!r} finished {times} times" for key, times in Tally(seen.finished).items() if times > 1]


def _order(seen: Seen, counted: Iterable[Step]) -> list[str]:
    happened = {effect.step: effect.at for effect in seen.effects}
    began: dict[str, float] = {}
    for knock in seen.knocks:
        began.setdefault(knock.step, knock.at)
    return [
        f"step {step.key!r} began before {before!r} had taken effect"
        for step in counted
        for before in step.after
        if step.key in began and began[step.key] < happened.get(before, 0.0)
    ]
