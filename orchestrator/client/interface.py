"""What programs may ask for, wherever the runs are: on a database (`Client`) or behind the HTTP API (`HttpClient`).

What follows from other methods is written here, once.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Generic, Self, TypeVar
from uuid import UUID

from pydantic import JsonValue

from chargehand.memory.procedural import Role
from chargehand.orchestrator.answering import Answered
from chargehand.orchestrator.auditing import Audit
from chargehand.orchestrator.charges import FleetCosts, RunCosts
from chargehand.orchestrator.client.holding_keys import AnyKeys
from chargehand.orchestrator.erasure import Erased
from chargehand.orchestrator.errors import NotFound, RunCancelled, RunFailed, UserError, WaitTimeout
from chargehand.orchestrator.explaining import Explanation
from chargehand.orchestrator.facts import OnBudget, OnConflict
from chargehand.orchestrator.line_fixes import parse_fix
from chargehand.orchestrator.listing import RunFilter, RunPage
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.replay import Replay
from chargehand.orchestrator.schedules import Schedule
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import Escalation, Event, RunView, StepView
from chargehand.orchestrator.webhooks.outbox import Delivery, Webhook
from chargehand.orchestrator.webhooks.payload import EVENTS

# Of one page: what a person looks at, or a program in one round trip.
PAGE_RUNS = 100


class AnyRun(ABC):
    """One run of a client."""

    run_id: UUID

    def __repr__(self) -> str:
        """The id, for logs."""
        return f"{type(self).__name__}({self.run_id})"

    @abstractmethod
    def status(self) -> RunView:
        """The run now; raises `NotFound`."""

    @abstractmethod
    def steps(self) -> list[StepView]:
        """Its steps now, in plan order."""

    @abstractmethod
    def events(self, *, follow: bool = True, timeout_seconds: float | None = None) -> Iterator[Event]:
        """Its facts as they come, each stream in its order, until the run has ended (or those there are now).

        Raises `WaitTimeout` when it has not ended in time.
        """

    @abstractmethod
    def wait_for_end(self, timeout_seconds: float | None = None) -> None:
        """Return when the run has ended; raises `WaitTimeout` (the run goes on)."""

    @abstractmethod
    def given(self) -> JsonValue:
        """What the final steps have given so far, however the run stands."""

    @abstractmethod
    def artifacts(self) -> dict[str, str]:
        """name → content hash of what its steps kept."""

    @abstractmethod
    def blob(self, digest: str) -> bytes:
        """One of its artifacts by content hash; raises `NotFound`."""

    @abstractmethod
    def cancel(self, reason: str = "cancelled by its owner") -> bool:
        """End it now; False when it had ended already."""

    @abstractmethod
    def pause(self, reason: str = "") -> bool:
        """Start nothing new and stop running steps at their next commit."""

    @abstractmethod
    def resume(self) -> bool:
        """Let it go on."""

    @abstractmethod
    def raise_budget(self, to_usd: str | Decimal) -> bool:
        """Let it spend this much all in all; what waits for money goes on. False when it may already.

        Raises `UserError` for less than it has, and when it has ended.
        """

    @abstractmethod
    def retry(self, step: str) -> tuple[str, ...]:
        """Do a step once more, with all that was built on it; gives the keys of the new steps.

        What they gave before is superseded. Raises `NotFound`, `InvalidPlan`, and `UserError` when the run has ended:
        fork it then.
        """

    @abstractmethod
    def tell(self, message: str) -> None:
        """Leave a message for its agents."""

    @abstractmethod
    def progress(self) -> dict[str, str]:
        """step key → what a running step says it is doing."""

    @abstractmethod
    def explain(self) -> list[tuple[str, str]]:
        """Why each live step does not go on: step key → reason in words."""

    @abstractmethod
    def costs(self, *, as_claude: bool = False) -> RunCosts:
        """Where its money went, and what caching and routing saved; `as_claude`: at Claude's prices, by tier."""

    @abstractmethod
    def explain_step(self, step: str) -> Explanation:
        """Why one step does not go on, in depth, by its key; raises `NotFound`."""

    @abstractmethod
    def replay(self) -> Replay:
        """Do it again from its journal, without models or effects, and name what comes out otherwise."""

    @abstractmethod
    def verify(self) -> Audit:
        """Check every hash of its journal, and the chain of ended runs."""

    @abstractmethod
    def journal(self) -> Iterator[Mapping[str, JsonValue]]:
        """Every row of its journal with its hashes, as JSON has it, and its anchor last."""

    def wait(self, timeout_seconds: float | None = None) -> JsonValue:
        """Wait for the end and give the result.

        Raises `RunFailed`, `RunCancelled`, or `WaitTimeout` (the run goes on).
        """
        self.wait_for_end(timeout_seconds)
        return self.result()

    def result(self) -> JsonValue:
        """What the final step gave, or a mapping by key of several; raises as `wait` does, without waiting."""
        view = self.status()
        if view.status == "cancelled":
            raise RunCancelled(f"Run {self.run_id} was cancelled: {view.reason}.")
        if view.status == "failed":
            raise RunFailed(f"Run {self.run_id} failed: {view.reason}.", partial=self.partial())
        if view.status not in RUN_ENDINGS:
            raise WaitTimeout(f"Run {self.run_id} is {view.status}; wait for its end.")
        return self.given()

    def partial(self) -> dict[str, JsonValue]:
        """What its succeeded steps gave, by key, where no later one has built on it; empty where nobody can say."""
        return {}

    def artifact(self, name: str) -> bytes:
        """One of them, for example `report.md`; raises `NotFound`."""
        named = self.artifacts()
        if name not in named:
            known = ", ".join(sorted(named)) or "none"
            raise NotFound(f"Run {self.run_id} kept no {name!r}; it kept: {known}.")
        return self.blob(named[name])

    def has_not_ended(self, timeout_seconds: float | None) -> WaitTimeout:
        """The error for whoever waited so long."""
        return WaitTimeout(f"Run {self.run_id} had not ended after {timeout_seconds} s; it goes on.")


class AnySchedules(ABC):
    """Runs that are asked for by the clock."""

    @abstractmethod
    def add(
        self,
        expression: str,
        goal: str = "",
        *,
        plan: Plan | None = None,
        name: str | None = None,
        timezone: str = "UTC",
        missed: str = "once",
        workspace: str | Path | None = None,
        budget_usd: str | Decimal | None = None,
        priority: int = 0,
        deadline_seconds: float | None = None,
        concurrency_key: str | None = None,
        on_conflict: OnConflict | None = None,
        roles: Iterable[Role] = (),
        conversation_id: str | None = None,
        replans: int | None = None,
        on_budget: OnBudget = "fail",
        max_calls: int | None = None,
        max_tokens: int | None = None,
        consolidate_usd: str | Decimal | None = None,
        tier: str | None = None,
        model: str | None = None,
    ) -> Schedule:
        """Ask for a run at each tick of a cron expression (five fields; a sixth, at the end, is seconds).

        `missed`: what becomes of ticks that nobody was there for: `skip`, `once` (one run for all of them) or `all`
        (the ten newest). Runs may overlap; with `on_conflict` they have the key `schedule/NAME` in common, unless
        another is named. `workspace` is copied at its HEAD at each tick, by a supervisor: it must be able to read it.
        Everything else is as `AnyClient.submit` says.
        Raises `UserError`.
        """

    @abstractmethod
    def list(self) -> list[Schedule]:
        """All of them, by name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Forget it; runs that it has made go on. Raises `NotFound`."""

    @abstractmethod
    def pause(self, name: str) -> bool:
        """Make no more runs; False when it is paused already. Raises `NotFound`."""

    @abstractmethod
    def resume(self, name: str) -> bool:
        """Go on with the next tick; those of the pause do not count as missed. False when it is not paused."""


R = TypeVar("R", bound=AnyRun, covariant=True)


class AnyClient(ABC, Generic[R]):
    """One tenant's connection to Chargehand; thread-safe. `R` is the kind of run that it gives."""

    name: str
    """Who answers questions, for the journal; it is what the caller says, nobody checks it."""

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""

    @abstractmethod
    def submit(
        self,
        goal: str = "",
        *,
        plan: Plan | None = None,
        workspace: str | Path | None = None,
        budget_usd: str | Decimal | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        deadline_seconds: float | None = None,
        conversation_id: str | None = None,
        roles: Iterable[Role] = (),
        concurrency_key: str | None = None,
        on_conflict: OnConflict = "queue",
        replans: int | None = None,
        on_budget: OnBudget = "fail",
        max_calls: int | None = None,
        max_tokens: int | None = None,
        consolidate_usd: str | Decimal | None = None,
        tier: str | None = None,
        model: str | None = None,
    ) -> R:
        """Ask for a run: accepted means committed, whether the broker is up or not.

        A goal without a plan is decomposed by the planner. `workspace`: path or URL of a git repository, audited at its
        HEAD. `replans`: how often the planner may change the plan of a run in which a step has failed; by default three
        times for a goal (`CHARGEHAND_REPLANS`) and never for a plan of yours, which then fails with its step.
        `on_budget`: when the budget is used up the run fails with what it has (`RunFailed.partial`), or asks a person
        for more (`ask`). `max_calls` and `max_tokens` cap calls of models, and their tokens, in the whole run.
        `consolidate_usd`: what may be spent afterwards to keep in memory what the run has taught; "0": nothing; left
        out: as `CHARGEHAND_CONSOLIDATE_BUDGET_USD` says.
        `tier` (small, medium, large) and `model` (a name) are those of all its agents whose steps name none.
        A second submit with the same `idempotency_key` gives the first one's run. At most one run with the same
        `concurrency_key` is under way; `on_conflict`: a second one waits for its turn (`queue`), is refused (`reject`),
        or ends the others (`cancel_older`). Agents of a run with a `conversation_id` are shown what its earlier runs,
        as far as they have ended, were told and answered. Raises `ConcurrencyConflict`, `UserError` for a request that
        is wrong, `Unavailable` when Postgres does not answer; in both cases nothing is left behind, unless
        Postgres broke off at the commit itself: then only a second submit with the same key tells.
        """

    @abstractmethod
    def fork(
        self,
        run: UUID | str | AnyRun,
        at: str,
        *,
        roles: Iterable[Role] = (),
        instruction: str | None = None,
        arguments: Mapping[str, JsonValue] | None = None,
        tier: str | None = None,
        model: str | None = None,
        budget_usd: str | Decimal | None = None,
        idempotency_key: str | None = None,
    ) -> R:
        """A new run from where this one stood: the step `at`, and all that was built on it, is done anew.

        `at`: `STEP`, or `STEP:TURN` to take over what an agent said and heard before that turn. All other steps that
        have ended are taken over and cost nothing; those that have not are done. `roles`: other versions of the run's;
        `instruction`, `arguments` (set or replaced by name), `tier` and `model` are those of the step. The budget is
        the old one's unless given. Raises `NotFound`, `UserError`, `Unavailable`.
        """

    @abstractmethod
    def run(self, run: UUID | str | AnyRun) -> R:
        """A run by its id, by a unique beginning or end of it, or by its handle; raises `NotFound`."""

    @abstractmethod
    def page(self, wanted: RunFilter, *, limit: int = PAGE_RUNS, cursor: str | None = None) -> RunPage:
        """Runs that pass the filter, the newest first, and where the next page begins."""

    @abstractmethod
    def costs(self, within: timedelta, *, as_claude: bool = False) -> FleetCosts:
        """Where the money of all the tenant's runs went in this last stretch of time."""

    @abstractmethod
    def escalations(self, run: UUID | str | None = None, *, each: bool = False) -> list[Escalation]:
        """What people are asked; questions of one run about the same cause are one, unless `each` is wanted."""

    @abstractmethod
    def _answer(self, escalation: Escalation, choice: str, body: JsonValue, *, by: str, only: bool) -> Answered:
        """Take an answer that fits the question."""

    @abstractmethod
    def complete(
        self, run: UUID | str, step: UUID | str, result: object = None, *, error: str = "", by: str = "client"
    ) -> bool:
        """Say what became of the Celery task of a step; False when it was answered before or has ended meanwhile.

        For whoever learns it without the callback: a webhook, a reconciliation, an app that cannot reach Postgres.
        `step`: its key or its id. With `error` the task has failed. Raises `UserError` for a result that JSON cannot
        hold or that is too large, and for a step that waits for no task.
        """

    @abstractmethod
    def verify(self) -> Audit:
        """Check every hash of every run, and the chain of ended runs."""

    @abstractmethod
    def erase(
        self,
        *,
        run: UUID | str | None = None,
        conversation_id: str | None = None,
        later: bool = False,
        sources: Sequence[str] = (),
        subjects: Sequence[str] = (),
    ) -> Erased:
        """Erase what a run, or every run of a conversation, has said, and what was copied from it.

        `later`: also later runs of its conversation that were shown it. `sources`: also what is remembered of these,
        notes added by hand among it; `subjects`: also memories with these words in them. Both may stand alone.
        Every chain of the journal still verifies. Raises `NotFound`, and `UserError` for what has not ended.
        """

    @property
    @abstractmethod
    def keys(self) -> AnyKeys:
        """Who may use the HTTP API: add, list, revoke."""

    @abstractmethod
    def add_webhook(self, url: str, *, events: Collection[str] = EVENTS, secret: str | None = None) -> Webhook:
        """Tell this URL, signed, of what happens from now on; its secret is in what this gives, and never again."""

    @abstractmethod
    def remove_webhook(self, name: str) -> Webhook:
        """Forget a webhook by its id or a beginning of it; raises `NotFound`."""

    @abstractmethod
    def webhooks(self) -> list[Webhook]:
        """All of the tenant."""

    @abstractmethod
    def deliveries(self, *, failed: bool = False, limit: int = 20) -> list[Delivery]:
        """What webhooks were to hear, the newest first; `failed`: only what was given up."""

    @abstractmethod
    def redeliver(self) -> int:
        """Try again what was given up; gives how many."""

    @property
    @abstractmethod
    def schedules(self) -> AnySchedules:
        """Runs that are asked for by the clock: add, list, remove, pause, resume."""

    def runs(self, limit: int = 20, wanted: RunFilter | None = None) -> list[RunView]:
        """The newest runs first, of those that pass the filter."""
        found: list[RunView] = []
        cursor: str | None = None
        while len(found) < limit:
            page = self.page(wanted or RunFilter(), limit=min(PAGE_RUNS, limit - len(found)), cursor=cursor)
            found += page.runs
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    def raise_budget(self, run: UUID | str, to_usd: str | Decimal) -> bool:
        """Let a run spend more, see `AnyRun.raise_budget`."""
        return self.run(run).raise_budget(to_usd)

    def answer(
        self,
        escalation: Escalation,
        choice: str,
        body: JsonValue = None,
        *,
        by: str | None = None,
        only: bool = False,
    ) -> bool:
        """Answer a waiting step; False when somebody else was first, or the step has ended meanwhile.

        Taken for the steps that are attached to it too, unless `only`; a result by hand (`override`) is one step's.
        `by`: who answers, for the journal; the client's name otherwise. Raises `UserError` for a choice that was not
        offered (a gate takes whatever does not refuse for an approval), and where a repair is wanted for what is none.
        """
        return self.resolve(escalation, choice, body, by=by, only=only).first

    def resolve(
        self,
        escalation: Escalation,
        choice: str,
        body: JsonValue = None,
        *,
        by: str | None = None,
        only: bool = False,
    ) -> Answered:
        """As `answer`; says for which other steps the answer was taken too."""
        if escalation.options and choice not in escalation.options:
            offered = ", ".join(escalation.options)
            raise UserError(f"{choice!r} is no answer to step {escalation.step_key!r}; choose one of: {offered}.")
        if escalation.wants_fix and choice == "answer":
            parse_fix(body if isinstance(body, str) else "")
        return self._answer(escalation, choice, body, by=by or self.name, only=only)
