"""What a program does with schedules: `client.schedules.add("0 3 * * *", "Audit this", workspace="/srv/shop")`."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import Session

from chargehand.memory import procedural
from chargehand.memory.procedural import Role
from chargehand.memory.sources import is_remote, locate
from chargehand.orchestrator import consolidating, cron, schedules
from chargehand.orchestrator.building import Plan as WrittenPlan
from chargehand.orchestrator.client.interface import AnySchedules
from chargehand.orchestrator.client.submitting import replans_of
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.facts import OnBudget, OnConflict
from chargehand.orchestrator.plan import Plan, validate
from chargehand.orchestrator.requests import (
    MAX_KEY_CHARACTERS,
    check_concurrency,
    check_conversation,
    check_count,
    check_goal,
    check_model,
    check_on_budget,
    check_plan,
    goal_plan,
    microusd,
)
from chargehand.orchestrator.schedules import Schedule, ScheduledRequest
from chargehand.orchestrator.settings import Settings

OpenSession = Callable[[], AbstractContextManager[Session]]


class Schedules(AnySchedules):
    """The schedules of one tenant."""

    def __init__(self, open_session: OpenSession, tenant: UUID, settings: Settings) -> None:
        """`open_session`: transactions bound to the tenant."""
        self._session, self._tenant, self._settings = open_session, tenant, settings

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
        """Ask for a run at each tick of a cron expression, see `AnySchedules.add`."""
        when = cron.parse(expression, timezone)
        policy = cron.check_missed(missed)
        check_plan(plan)
        goal = check_goal(goal) if plan is None else goal.strip()
        chosen = plan or goal_plan(with_workspace=workspace is not None)
        written = chosen.roles if isinstance(chosen, WrittenPlan) else ()
        brought = {role.name: role for role in (*written, *roles)}
        validate(chosen, roles=procedural.load_roles(*self._settings.role_folders).keys() | brought.keys())
        name = _checked_name(name or _name_of(goal or chosen.steps[0].key))
        if on_conflict is not None and concurrency_key is None:
            concurrency_key = f"schedule/{name}"
        named_tier, named_model = check_model(tier, model)
        request = ScheduledRequest(
            goal=goal,
            plan=Plan.of(chosen.steps),
            workspace=_absolute(workspace),
            budget_microusd=microusd(budget_usd if budget_usd is not None else self._settings.default_budget_usd),
            priority=priority,
            deadline_seconds=deadline_seconds,
            concurrency_key=check_concurrency(concurrency_key, on_conflict or "queue"),
            on_conflict=on_conflict or "queue",
            role_texts={role.name: role.text for role in brought.values()},
            conversation_id=check_conversation(conversation_id),
            replans=replans_of(replans, self._settings, has_plan=plan is not None),
            on_budget=check_on_budget(on_budget),
            max_calls=check_count("max_calls", max_calls),
            max_tokens=check_count("max_tokens", max_tokens),
            consolidate_microusd=consolidating.budget_of(consolidate_usd, self._settings),
            tier=named_tier,
            model=named_model,
        )
        with self._session() as session:
            return schedules.add(session, self._tenant, name=name, cron=when, missed=policy, request=request)

    def list(self) -> list[Schedule]:
        """All of them, by name."""
        with self._session() as session:
            return schedules.listed(session, self._tenant)

    def request(self, name: str) -> ScheduledRequest:
        """What it asks for; raises `NotFound`."""
        with self._session() as session:
            return schedules.request_of(session, self._tenant, name)

    def remove(self, name: str) -> None:
        """Forget it; runs that it has made go on. Raises `NotFound`."""
        with self._session() as session:
            schedules.remove(session, self._tenant, name)

    def pause(self, name: str) -> bool:
        """Make no more runs; False when it is paused already. Raises `NotFound`."""
        with self._session() as session:
            return schedules.pause(session, self._tenant, name)

    def resume(self, name: str) -> bool:
        """Go on with the next tick; those of the pause do not count as missed. False when it is not paused."""
        with self._session() as session:
            return schedules.resume(session, self._tenant, name)


def _absolute(workspace: str | Path | None) -> str | None:
    """The workspace as a supervisor, which has another working directory, can name it."""
    if workspace is None or is_remote(str(workspace)):
        return None if workspace is None else str(workspace)
    locate(str(workspace))
    return str(Path(workspace).expanduser().resolve())


def _name_of(text: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words)[:40].strip("-")


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > MAX_KEY_CHARACTERS // 2 or not name.isprintable():
        raise UserError(f"Schedule name {name[:80]!r} cannot be used; give up to {MAX_KEY_CHARACTERS // 2} characters.")
    return name
