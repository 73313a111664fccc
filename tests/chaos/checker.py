"""Whether what was promised held: Postgres and the ledger are read after healing and draining, and judged."""

from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from chaos import journal_rules, world_rules
from chaos.case import Case
from chaos.evidence import Evidence, Strike, gather
from chaos.ledger import Ledger
from chargehand.orchestrator.auditkey import audit_key
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.plan import Plan

Rule = Callable[[Case], Iterator[str]]

# From the coarse to the fine: the first objections say most.
RULES: Sequence[Rule] = (
    journal_rules.ends,
    journal_rules.statuses,
    journal_rules.order,
    journal_rules.epochs,
    journal_rules.leases,
    journal_rules.crashes,
    journal_rules.chains,
    journal_rules.anchors,
    journal_rules.tenant_chains,
    journal_rules.money,
    journal_rules.late_answers,
    journal_rules.reducer,
    world_rules.effects,
    world_rules.attempts,
    world_rules.tasks,
    world_rules.calls,
    world_rules.recoveries,
    world_rules.strangers,
    world_rules.nothing_left,
)
# Of some of the runs of a story: a part of a chain does not begin at its beginning.
RULES_OF_RUNS: Sequence[Rule] = tuple(rule for rule in RULES if rule is not journal_rules.tenant_chains)
# They look at nothing but what belongs to no run or to all of them.
RULES_OF_THE_WHOLE: Sequence[Rule] = (
    journal_rules.tenant_chains,
    world_rules.calls,
    world_rules.strangers,
    world_rules.nothing_left,
)


def judge(evidence: Evidence, rules: Sequence[Rule] = RULES) -> list[str]:
    """Everything that is wrong; empty when all is well. Pure, so that each rule is proved by wrong stories."""
    case = Case(evidence)
    return [objection for rule in rules for objection in rule(case)]


def objections(
    run: RunHandle, plan: Plan, ledger: Ledger, *, status: str = "succeeded", strikes: Sequence[Strike] = ()
) -> list[str]:
    """Everything that is wrong with a run of `plan` that should have ended as `status`; empty when all is well."""
    services = run._services
    settings = services.settings
    evidence = gather(
        services.engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
        ledger,
        accepted=[run.run_id],
        audit_key=audit_key(settings),
        lease_seconds=settings.lease_seconds,
        max_crashes=settings.max_crashes,
        outcomes={run.run_id: {status}},
        strikes=strikes,
    )
    return [*judge(evidence), *_as_planned(evidence, run.run_id, plan)]


def _as_planned(evidence: Evidence, run_id: UUID, plan: Plan) -> Iterator[str]:
    there = {step.key for step in evidence.steps if step.run == run_id}
    for step in plan.steps:
        if step.key not in there:
            yield f"step {step.key!r} of the plan is not in the run"
