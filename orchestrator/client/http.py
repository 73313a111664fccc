"""A client that works through the HTTP API, with the methods of the one on the database.

with HttpClient("https://chargehand.example", "chk_…") as client:
    report = client.submit("Audit this", workspace="https://example.org/shop.git").wait()
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
from pydantic import JsonValue, TypeAdapter

from chargehand.memory.procedural import Role
from chargehand.memory.sources import is_remote
from chargehand.orchestrator.answering import Answered
from chargehand.orchestrator.auditing import Audit
from chargehand.orchestrator.building import Plan as WrittenPlan
from chargehand.orchestrator.charges import FleetCosts
from chargehand.orchestrator.client.holding_keys import HttpKeys
from chargehand.orchestrator.client.http_memories import HttpMemories
from chargehand.orchestrator.client.http_run import HttpRun, audit_of
from chargehand.orchestrator.client.interface import PAGE_RUNS, AnyClient, AnyRun, AnySchedules
from chargehand.orchestrator.client.requesting import Requests
from chargehand.orchestrator.client.services import user_name
from chargehand.orchestrator.completion import as_result
from chargehand.orchestrator.erasure import Erased
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import OnBudget, OnConflict
from chargehand.orchestrator.listing import RunFilter, RunPage
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.requests import microusd
from chargehand.orchestrator.schedules import Schedule
from chargehand.orchestrator.views import Escalation
from chargehand.orchestrator.webhooks.outbox import Delivery, Webhook
from chargehand.orchestrator.webhooks.payload import EVENTS

_PAGE = TypeAdapter(RunPage)
_ESCALATIONS = TypeAdapter(list[Escalation])
_ANSWERED = TypeAdapter(Answered)
_COSTS = TypeAdapter(FleetCosts)
_SCHEDULE, _SCHEDULES = TypeAdapter(Schedule), TypeAdapter(list[Schedule])
_WEBHOOK, _WEBHOOKS = TypeAdapter(Webhook), TypeAdapter(list[Webhook])
_ERASED = TypeAdapter(Erased)
_DELIVERIES = TypeAdapter(list[Delivery])


class HttpClient(AnyClient[HttpRun]):
    """A connection to the HTTP API with a key, whose tenant it is; thread-safe."""

    def __init__(
        self, url: str, key: str, *, name: str | None = None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        """`url`: of the server, without `/v1`. `transport`: another way than the network, for tests."""
        self.name = name or user_name()
        self._requests = Requests(url, key, transport=transport)

    def close(self) -> None:
        """Close its connections."""
        self._requests.close()

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
    ) -> HttpRun:
        """Ask for a run, see `AnyClient.submit`.

        Without an `idempotency_key` one is made, so that a request whose answer is lost may be sent again. A path of
        this machine means something where the server takes paths, on a laptop.
        """
        body = {
            **_wanted(goal, plan, roles, workspace, budget_usd),
            "priority": priority,
            "deadline_seconds": deadline_seconds,
            "conversation_id": conversation_id,
            "concurrency_key": concurrency_key,
            "on_conflict": on_conflict,
            "replans": replans,
            "on_budget": on_budget,
            "max_calls": max_calls,
            "max_tokens": max_tokens,
            "consolidate_microusd": _consolidation(consolidate_usd),
            "tier": tier,
            "model": model,
        }
        return self._run(self._requests.made("/v1/runs", _given(body), idempotency_key=idempotency_key))

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
    ) -> HttpRun:
        """A new run from where this one stood, see `AnyClient.fork`."""
        body = {
            "at": at,
            "roles": [role.text for role in roles],
            "instruction": instruction,
            "arguments": None if arguments is None else dict(arguments),
            "tier": tier,
            "model": model,
            "budget_microusd": None if budget_usd is None else microusd(budget_usd),
        }
        path = f"/v1/runs/{self.run(run).run_id}/fork"
        return self._run(self._requests.made(path, _given(body), idempotency_key=idempotency_key))

    def run(self, run: UUID | str | AnyRun) -> HttpRun:
        """A run by its id, by a unique beginning or end of it, or by its handle; raises `NotFound`."""
        if isinstance(run, AnyRun | UUID):
            handle = self._run(run.run_id if isinstance(run, AnyRun) else run)
            handle.status()
            return handle
        found = self.page(RunFilter(named=run), limit=2).runs
        if len(found) != 1:
            raise NotFound(f"{run!r} names {'several runs' if found else 'no run'}; `chargehand status` lists the ids.")
        return self._run(found[0].run_id)

    def page(self, wanted: RunFilter, *, limit: int = PAGE_RUNS, cursor: str | None = None) -> RunPage:
        """Runs that pass the filter, the newest first, and where the next page begins."""
        query = {name: getattr(wanted, name) for name in RunFilter.__slots__}
        moments = {name: value.isoformat() for name, value in query.items() if hasattr(value, "isoformat")}
        query |= {**moments, "status": list(wanted.status), "limit": limit, "cursor": cursor}
        return _PAGE.validate_python(self._requests.get("/v1/runs", _given(query)))

    def costs(self, within: timedelta, *, as_claude: bool = False) -> FleetCosts:
        """Where the money of all the tenant's runs went in this last stretch of time."""
        query = {"within_seconds": within.total_seconds(), "as_claude": as_claude}
        return _COSTS.validate_python(self._requests.get("/v1/costs", query))

    def escalations(self, run: UUID | str | None = None, *, each: bool = False) -> list[Escalation]:
        """What people are asked; questions of one run about the same cause are one, unless `each` is wanted."""
        query = _given({"run_id": None if run is None else str(self.run(run).run_id), "each": each})
        return _ESCALATIONS.validate_python(self._requests.get("/v1/escalations", query))

    def _answer(self, escalation: Escalation, choice: str, body: JsonValue, *, by: str, only: bool) -> Answered:
        said = {"choice": choice, "body": body, "by": by, "only": only}
        try:
            answered = self._requests.post(f"/v1/escalations/{escalation.wait_id}/answer", said)
        except NotFound:
            # It was asked once: somebody else was first, or the step has ended.
            return Answered(first=False)
        return _ANSWERED.validate_python(answered)

    def complete(
        self, run: UUID | str, step: UUID | str, result: object = None, *, error: str = "", by: str = "client"
    ) -> bool:
        """Say what became of the Celery task of a step, see `AnyClient.complete`."""
        body = {"step": str(step), "result": as_result(result), "error": error, "by": by}
        return bool(self._requests.post(f"/v1/runs/{self.run(run).run_id}/completions", body)["changed"])

    def add_webhook(self, url: str, *, events: Collection[str] = EVENTS, secret: str | None = None) -> Webhook:
        """Tell this URL, signed, of what happens from now on; its secret is in what this gives, and never again."""
        body = _given({"url": url, "events": list(events), "secret": secret})
        return _WEBHOOK.validate_python(self._requests.post("/v1/webhooks", body))

    def remove_webhook(self, name: str) -> Webhook:
        """Forget a webhook by its id or a beginning of it; raises `NotFound`."""
        return _WEBHOOK.validate_python(self._requests.delete(f"/v1/webhooks/{name}"))

    def webhooks(self) -> list[Webhook]:
        """All of the tenant."""
        return _WEBHOOKS.validate_python(self._requests.get("/v1/webhooks"))

    def deliveries(self, *, failed: bool = False, limit: int = 20) -> list[Delivery]:
        """What webhooks were to hear, the newest first; `failed`: only what was given up."""
        return _DELIVERIES.validate_python(self._requests.get("/v1/deliveries", {"failed": failed, "limit": limit}))

    def redeliver(self) -> int:
        """Try again what was given up; gives how many."""
        return int(self._requests.post("/v1/deliveries/again")["again"])

    def verify(self) -> Audit:
        """Check every hash of every run, and the chain of ended runs; on the server, with its key of the seals."""
        return audit_of(self._requests.post("/v1/audit/verify"))

    def erase(
        self,
        *,
        run: UUID | str | None = None,
        conversation_id: str | None = None,
        later: bool = False,
        sources: Sequence[str] = (),
        subjects: Sequence[str] = (),
    ) -> Erased:
        """Erase what a run, or every run of a conversation, has said, see `AnyClient.erase`."""
        body = {
            "run_id": None if run is None else str(self.run(run).run_id),
            "conversation_id": conversation_id,
            "later": later,
            "sources": [*sources],
            "subjects": [*subjects],
        }
        return _ERASED.validate_python(self._requests.post("/v1/erase", _given(body)))

    @property
    def keys(self) -> HttpKeys:
        """Who may use the HTTP API: add, list, revoke."""
        return HttpKeys(self._requests)

    @property
    def schedules(self) -> "HttpSchedules":
        """Runs that are asked for by the clock: add, list, remove, pause, resume."""
        return HttpSchedules(self._requests)

    @property
    def memory(self) -> HttpMemories:
        """What is remembered: note, search, forget, stats."""
        return HttpMemories(self._requests)

    def _run(self, run_id: UUID) -> HttpRun:
        return HttpRun(self._requests, run_id)


class HttpSchedules(AnySchedules):
    """The schedules of the key's tenant."""

    def __init__(self, requests: Requests) -> None:
        """Of a client."""
        self._requests = requests

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
        body = {
            **_wanted(goal, plan, roles, workspace, budget_usd),
            "cron": expression,
            "name": name,
            "timezone": timezone,
            "missed": missed,
            "priority": priority,
            "deadline_seconds": deadline_seconds,
            "concurrency_key": concurrency_key,
            "on_conflict": on_conflict,
            "conversation_id": conversation_id,
            "replans": replans,
            "on_budget": on_budget,
            "max_calls": max_calls,
            "max_tokens": max_tokens,
            "consolidate_microusd": _consolidation(consolidate_usd),
            "tier": tier,
            "model": model,
        }
        return _SCHEDULE.validate_python(self._requests.post("/v1/schedules", _given(body)))

    def list(self) -> list[Schedule]:
        """All of them, by name."""
        return _SCHEDULES.validate_python(self._requests.get("/v1/schedules"))

    def remove(self, name: str) -> None:
        """Forget it; runs that it has made go on. Raises `NotFound`."""
        self._requests.delete(f"/v1/schedules/{name}")

    def pause(self, name: str) -> bool:
        """Make no more runs; False when it is paused already. Raises `NotFound`."""
        return bool(self._requests.post(f"/v1/schedules/{name}/pause")["changed"])

    def resume(self, name: str) -> bool:
        """Go on with the next tick; False when it is not paused. Raises `NotFound`."""
        return bool(self._requests.post(f"/v1/schedules/{name}/resume")["changed"])


def _wanted(
    goal: str,
    plan: Plan | None,
    roles: Iterable[Role],
    workspace: str | Path | None,
    budget_usd: str | Decimal | None,
) -> dict[str, Any]:
    """What a run and a schedule have in common."""
    written = plan.roles if isinstance(plan, WrittenPlan) else ()
    named = None if workspace is None else str(workspace)
    if named is not None and not is_remote(named):
        named = str(Path(named).expanduser().resolve())
    return {
        "goal": goal or (None if plan is not None else ""),
        "plan": None if plan is None else Plan.of(plan.steps).model_dump(mode="json", exclude_defaults=True),
        "workspace": named,
        "budget_microusd": None if budget_usd is None else microusd(budget_usd),
        "roles": [role.text for role in (*written, *roles)],
    }


def _consolidation(asked_usd: str | Decimal | None) -> int | None:
    """None: as the server's settings say; 0: nothing is kept."""
    if asked_usd is None:
        return None
    return 0 if str(asked_usd) in {"", "0"} else microusd(asked_usd)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is not left out."""
    return {name: value for name, value in values.items() if value is not None}
