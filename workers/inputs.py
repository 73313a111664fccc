"""What a step may read of its run: results of other steps, the pinned role, the commit to start from."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import JsonValue, TypeAdapter
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from chargehand.memory import procedural
from chargehand.memory.procedural import Role
from chargehand.orchestrator import races, views
from chargehand.orchestrator.approval import stand_together
from chargehand.orchestrator.backtracking import newest_of
from chargehand.orchestrator.counting import NOT_COUNTED, Counted
from chargehand.orchestrator.episodes import Continued, Episode, continued_by, episodes
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import OnBudget, StepFinished, WorkspaceRef
from chargehand.orchestrator.plan import Plan, Step, Tier, step_id
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.tables import BudgetRow, RunRow, StepRow
from chargehand.orchestrator.tenant_counts import has_count_caps
from chargehand.orchestrator.transitions import is_race
from chargehand.orchestrator.views import Account
from chargehand.workers.recollection import Recollection, newest

_TIER: TypeAdapter[Tier | None] = TypeAdapter(Tier | None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """Everything that a step's attempt starts from."""

    goal: str
    workspace: WorkspaceRef | None
    inputs: dict[str, JsonValue]
    """Results of the direct predecessors that succeeded, by key; of an `any` join that of the winner."""
    repository: JsonValue
    """The inventory, shared by all agents of the run."""
    start_commit: str | None
    """Where the workspace starts: the newest commit among the predecessors, or the user's."""
    plan: Plan | None
    """The whole graph, for an agent that extends it; for each of a thousand scripts it would be most of their time."""
    role_versions: dict[str, str]
    commits: dict[str, str]
    """Where the predecessors left the workspace, by key, in the order the step names them."""
    approvals: dict[str, dict[str, str]] = field(default_factory=dict)
    """What gates before it have approved: gate → step → hash of its arguments."""
    gates: frozenset[str] = frozenset()
    """The gates among the steps before it, where any of them has approved anything."""
    wished: tuple[Tier | None, str | None] = (None, None)
    """The tier and the model that whoever submitted the run has named for its agents."""
    continued: Continued | None = None
    """agents: the conversation that the run goes on with."""
    on_budget: OnBudget = "fail"
    """agents: what they do when a call does not fit into the budget."""
    counted: Counted = NOT_COUNTED
    """agents: whose calls, tokens or time have a cap."""
    statuses: dict[str, str] = field(default_factory=dict)
    """Where the steps of the graph stand, for an agent that extends it."""


class RunReader:
    """Reads one run, bound to its tenant."""

    def __init__(self, engine: Engine, tenant: UUID, run_id: UUID) -> None:
        """Nothing is read yet."""
        self._engine, self._tenant, self._run_id = engine, tenant, run_id

    def gather(self, step: Step) -> Gathered:
        """What the step's attempt starts from; raises `NotFound` when the run is gone."""
        return self.gather_many([step])[0]

    def gather_many(self, steps: Sequence[Step]) -> list[Gathered]:
        """What each of these steps starts from, read in one go; raises `NotFound` when the run is gone."""
        with open_session(self._engine, self._tenant) as session:
            run = session.get(RunRow, self._run_id)
            if run is None:
                raise NotFound(f"There is no run {self._run_id}; it was removed.")
            needed = dict.fromkeys(key for step in steps for key in step.after)
            ended = views.results(session, self._run_id, [*needed, "inventory"])
            workspace = WorkspaceRef.model_validate(run.workspace) if run.workspace else None
            inventory = ended.get("inventory")
            winners = races.winners(session, self._run_id) if any(map(is_race, steps)) else {}
            before = {step.key: races.with_winner(step, winners).after for step in steps}
            has_agents = any(step.kind == "agent" for step in steps)
            plan, statuses = _plan(session, self._run_id) if has_agents else (None, {})
            # A fork is shown what the run that it left was shown, and is no part of the conversation itself.
            may_continue = has_agents and (run.conversation_id is not None or run.forked_from is not None)
            continued = continued_by(session, self._run_id) if may_continue else None
            budget = session.get(BudgetRow, self._run_id) if has_agents else None
            counted = Counted(
                of_run=budget is not None and (budget.max_calls, budget.max_tokens) != (None, None),
                of_tenant=has_agents and has_count_caps(session, self._tenant),
            )
            return [
                Gathered(
                    goal=run.goal,
                    workspace=workspace,
                    inputs={key: ended[key].result for key in before[step.key] if _succeeded(ended.get(key))},
                    repository=inventory.result if inventory is not None else None,
                    start_commit=_newest_commit(before[step.key], ended, workspace),
                    plan=plan if step.kind == "agent" else None,
                    role_versions=dict(run.role_versions),
                    commits=_commits(before[step.key], ended),
                    approvals=(approvals := _approvals(step, ended)),
                    gates=_gates(session, self._run_id, step) if approvals else frozenset(),
                    wished=(_TIER.validate_python(run.tier), run.model),
                    continued=continued,
                    on_budget="ask" if budget is not None and budget.on_exceeded == "ask" else "fail",
                    counted=counted,
                    statuses=statuses if step.kind == "agent" else {},
                )
                for step in steps
            ]

    def result(self, key: str) -> JsonValue | None:
        """The result of any step of the run that succeeded, or None; of one that came again, that of the new one."""
        with open_session(self._engine, self._tenant) as session:
            counting = _counting(session, self._run_id, key)
            ended = views.results(session, self._run_id, [counting]).get(counting) if counting is not None else None
        return ended.result if ended is not None and _succeeded(ended) else None

    def replans(self) -> int:
        """How often the plan may be changed, all in all."""
        with open_session(self._engine, self._tenant) as session:
            return views.replans(session, self._run_id)

    def role(self, role_hash: str) -> Role:
        """A role as the run pinned it."""
        with open_session(self._engine, self._tenant) as session:
            return procedural.role_at(session, tenant=self._tenant, role_hash=role_hash)

    def recall(self, continued: Continued, recollection: Recollection | None) -> tuple[Episode, ...]:
        """What the agents of this run are shown of the conversation that it goes on with."""
        if recollection is not None:
            return recollection.recall(self._session, self._tenant, continued)
        with self._session() as session:
            return newest(episodes(session, continued.runs))

    def _session(self) -> AbstractContextManager[Session]:
        return open_session(self._engine, self._tenant)

    def account(self) -> Account:
        """What the run has cost so far."""
        with open_session(self._engine, self._tenant) as session:
            return views.account(session, self._run_id)

    def step_keys(self) -> Sequence[str]:
        """All steps of the plan as it is now."""
        with open_session(self._engine, self._tenant) as session:
            return [view.key for view in views.view_steps(session, self._run_id)]


def _plan(session: Session, run_id: UUID) -> tuple[Plan, dict[str, str]]:
    rows = session.execute(
        select(StepRow.key, StepRow.spec, StepRow.status).where(StepRow.run == run_id).order_by(StepRow.ordinal)
    ).all()
    plan = Plan(steps=tuple(Step.model_validate(spec) for _, spec, _ in rows))
    return plan, {key: status for key, _, status in rows}


def _counting(session: Session, run_id: UUID, key: str) -> str | None:
    """The step that counts for this key: a result that was superseded is nobody's input."""
    status = session.scalar(select(StepRow.status).where(StepRow.id == step_id(run_id, key)))
    if status != "superseded":
        return key
    rows = session.execute(select(StepRow.key, StepRow.status).where(StepRow.run == run_id)).all()
    statuses = {name: status for name, status in rows}  # noqa: C416 - typed rows
    newest = newest_of(key, statuses)
    return None if statuses[newest] == "superseded" else newest


def _succeeded(fact: StepFinished | None) -> bool:
    return fact is not None and fact.outcome == "succeeded"


def _newest_commit(before: Sequence[str], ended: dict[str, StepFinished], workspace: WorkspaceRef | None) -> str | None:
    """The commit of the last predecessor, in the order they are named, that ended at one."""
    commits = list(_commits(before, ended).values())
    return commits[-1] if commits else workspace.commit if workspace is not None else None


def _approvals(step: Step, ended: dict[str, StepFinished]) -> dict[str, dict[str, str]]:
    """Of the gates that are about this step: what its body's owner waits for was approved for the owner."""
    gates = {key: ended[key].approved for key in step.after if key in ended}
    return {key: approved for key, approved in gates.items() if approved is not None and stand_together(key, step)}


def _gates(session: Session, run_id: UUID, step: Step) -> frozenset[str]:
    before = [step_id(run_id, key) for key in step.after]
    query = select(StepRow.key).where(StepRow.id.in_(before), StepRow.spec["kind"].astext == "gate")
    return frozenset(session.scalars(query))


def _commits(before: Sequence[str], ended: dict[str, StepFinished]) -> dict[str, str]:
    left = {key: ended[key].commit for key in before if key in ended}
    return {key: commit for key, commit in left.items() if commit is not None}
