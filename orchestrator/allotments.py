"""Draws money for a step: from its run's budget, and for the run from its tenant's; says why when there is none.

Run → step → colleague is a tree: a step with a budget of its own draws no more than that, with the colleagues it asks.
A tenant with caps lends each of its runs some step allotments at a time, so that its row is locked that seldom; what a
run did not use goes back when it ends, or when another one needs it.

Locks: the step, its run's budget, its tenant's; of several budgets in the order of their runs.
"""

from chargehand.orchestrator.connections import Connections, Row
from chargehand.orchestrator.errors import BudgetBusy, BudgetExceeded, LeaseLost, StepBudgetExceeded
from chargehand.orchestrator.steps import Claim

# An allotment lasts about this many turns, so that the run's row is locked that seldom.
TURNS_PER_ALLOTMENT = 16
# Of what is left of a budget one step draws at most this part, if its call fits into it: the first of eight agents
# would otherwise hold a small budget alone.
PART_OF_THE_REST = 8
# What a run borrows from its tenant at a time: so many step allotments.
ALLOTMENTS_PER_LOAN = 4

# The least that is left of the budgets of the step and of the agents above it that asked for it. What an agent and all
# below it hold counts: only one of them is at work at a time, for whoever asks a colleague waits for it.
_ROOM = """
    coalesce((
        WITH RECURSIVE above AS (
            SELECT s.key, s.spec->>'parent' AS parent, (s.spec->>'budget_microusd')::bigint AS cap
            UNION ALL
            SELECT p.key, p.spec->>'parent', (p.spec->>'budget_microusd')::bigint
            FROM above JOIN steps p ON p.run = s.run AND p.key = above.parent
        ), below AS (
            SELECT above.key AS top, above.cap, above.key FROM above WHERE above.cap IS NOT NULL
            UNION ALL
            SELECT below.top, below.cap, c.key
            FROM below JOIN steps c ON c.run = s.run AND c.spec->>'parent' = below.key
        ), used AS (
            SELECT below.cap - sum(x.allotment_microusd) AS left_over
            FROM below JOIN steps x ON x.run = s.run AND x.key = below.key GROUP BY below.top, below.cap
        ) SELECT min(left_over)::bigint FROM used
    ), 9000000000000000000)
"""
DRAW = f"""
WITH own AS (
    SELECT s.id, s.run, {_ROOM} AS room,
        greatest(1, %(need)s - (s.allotment_microusd - s.spent_microusd - s.reserved_microusd)) AS short
    FROM steps s
    WHERE s.id = %(step)s AND s.epoch = %(epoch)s AND s.status = 'running' FOR NO KEY UPDATE
), budget AS (
    UPDATE budgets b SET
        granted_microusd = least(%(want)s, own.room,
            greatest(own.short, (least(cap_microusd, allotted_microusd) - drawn_microusd) / {PART_OF_THE_REST})),
        drawn_microusd = drawn_microusd + least(%(want)s, own.room,
            greatest(own.short, (least(cap_microusd, allotted_microusd) - drawn_microusd) / {PART_OF_THE_REST}))
    FROM own WHERE b.run = own.run AND least(cap_microusd, allotted_microusd) - drawn_microusd >= own.short
        AND own.room >= own.short
    RETURNING granted_microusd
)
UPDATE steps s SET allotment_microusd = allotment_microusd + budget.granted_microusd
FROM budget, own WHERE s.id = own.id RETURNING s.allotment_microusd
"""
STANDING = f"""
SELECT b.cap_microusd AS cap, b.drawn_microusd AS drawn, b.allotted_microusd AS allotted,
    coalesce(sum(s.spent_microusd), 0)::bigint AS spent,
    coalesce(sum(s.reserved_microusd) FILTER (
        WHERE s.status IN ('succeeded', 'failed', 'cancelled', 'superseded')), 0)::bigint AS lost,
    (SELECT {_ROOM} FROM steps s WHERE s.id = %(step)s) AS room,
    (SELECT s.allotment_microusd - s.spent_microusd - s.reserved_microusd FROM steps s WHERE s.id = %(step)s) AS free
FROM budgets b JOIN steps s ON s.run = b.run WHERE b.run = %(run)s
GROUP BY b.cap_microusd, b.drawn_microusd, b.allotted_microusd
"""
# The day is the database's, in UTC; the first draw of a day begins its sum anew.
_TODAY = "(clock_timestamp() AT TIME ZONE 'UTC')::date"
_LEFT = f"""
    least(t.cap_microusd - t.drawn_microusd,
        t.day_cap_microusd - CASE WHEN t.day = {_TODAY} THEN t.day_drawn_microusd ELSE 0 END)
"""
# Both caps are columns of the one row that is locked; `least` passes over a cap that is not set.
BORROW = f"""
WITH budget AS (
    SELECT run, tenant, least(%(want)s, cap_microusd - allotted_microusd) AS want,
        %(need)s - (allotted_microusd - drawn_microusd) AS need
    FROM budgets WHERE run = %(run)s AND allotted_microusd IS NOT NULL FOR NO KEY UPDATE
), purse AS (
    UPDATE tenant_budgets t SET
        granted_microusd = least(budget.want, coalesce({_LEFT}, budget.want)),
        drawn_microusd = t.drawn_microusd + least(budget.want, coalesce({_LEFT}, budget.want)),
        day_drawn_microusd = CASE WHEN t.day = {_TODAY} THEN t.day_drawn_microusd ELSE 0 END
            + least(budget.want, coalesce({_LEFT}, budget.want)),
        day = {_TODAY}
    FROM budget
    WHERE t.tenant = budget.tenant AND budget.want >= budget.need AND coalesce({_LEFT}, budget.need) >= budget.need
    RETURNING t.tenant, t.granted_microusd, t.day
)
UPDATE budgets b SET allotted_microusd = b.allotted_microusd + purse.granted_microusd, allotted_day = purse.day,
    allotted_of_day_microusd = purse.granted_microusd
        + CASE WHEN b.allotted_day = purse.day THEN b.allotted_of_day_microusd ELSE 0 END
FROM purse WHERE b.run = %(run)s RETURNING b.allotted_microusd
"""
# Of what a run returns, a day gets back no more than what was borrowed on it: the rest is of days that are over.
_RETURN = """
    UPDATE budgets b SET allotted_microusd = b.drawn_microusd,
        allotted_of_day_microusd = greatest(0, b.allotted_of_day_microusd - (b.allotted_microusd - b.drawn_microusd))
"""
_RETURNED = """
    SELECT run, tenant, allotted_day, allotted_microusd - drawn_microusd AS rest,
        least(allotted_microusd - drawn_microusd, allotted_of_day_microusd) AS of_day FROM budgets
"""
# What other runs have borrowed and no step has drawn. Past what somebody has locked: that one is at work.
RECLAIM = f"""
WITH idle AS (
    {_RETURNED}
    WHERE tenant = %(tenant)s AND run <> %(run)s AND allotted_microusd > drawn_microusd
    ORDER BY run FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
    {_RETURN} FROM idle WHERE b.run = idle.run RETURNING b.run
)
UPDATE tenant_budgets t SET
    drawn_microusd = t.drawn_microusd - back.rest,
    day_drawn_microusd = t.day_drawn_microusd - CASE WHEN t.day = {_TODAY} THEN back.of_today ELSE 0 END
FROM (
    SELECT tenant, sum(rest)::bigint AS rest,
        coalesce(sum(of_day) FILTER (WHERE allotted_day = {_TODAY}), 0)::bigint AS of_today
    FROM idle WHERE (SELECT count(*) FROM taken) >= 0 GROUP BY tenant
) back
WHERE t.tenant = back.tenant RETURNING t.drawn_microusd
"""
# A run that has ended keeps what it has spent.
GIVE_BACK = f"""
WITH over AS (
    {_RETURNED}
    WHERE run = %(run)s AND allotted_microusd <> drawn_microusd FOR NO KEY UPDATE
), closed AS (
    {_RETURN} FROM over WHERE b.run = over.run RETURNING b.run
)
UPDATE tenant_budgets t SET
    drawn_microusd = t.drawn_microusd - over.rest,
    day_drawn_microusd = t.day_drawn_microusd - CASE WHEN t.day = over.allotted_day THEN over.of_day ELSE 0 END
FROM over, closed WHERE t.tenant = over.tenant RETURNING t.drawn_microusd
"""
# What has been spent is what was lent, less what live runs hold and have not spent, and those that just ended.
TENANT_STANDING = f"""
SELECT t.cap_microusd AS cap, t.drawn_microusd - held.unspent AS spent, t.day_cap_microusd AS day_cap,
    CASE WHEN t.day = {_TODAY} THEN t.day_drawn_microusd ELSE 0 END - held.unspent AS day_spent
FROM tenant_budgets t, LATERAL (
    SELECT coalesce(sum(b.allotted_microusd - coalesce(s.spent, 0)), 0)::bigint AS unspent
    FROM budgets b JOIN runs r ON r.id = b.run
        AND (r.finished_at IS NULL OR r.finished_at > clock_timestamp() - interval '1 min')
    LEFT JOIN LATERAL (
        SELECT sum(spent_microusd) AS spent FROM steps WHERE steps.run = b.run
    ) s ON true
    WHERE b.tenant = t.tenant AND b.allotted_microusd IS NOT NULL
) held
WHERE t.tenant = %(tenant)s
"""


def draw(connections: Connections, claim: Claim, need: int) -> None:
    """Draw at least `need` micro-dollars for the step, or raise.

    Raises `BudgetExceeded` when they can never fit under the cap of the step, of its run or of its tenant, `BudgetBusy`
    when only what others hold is in the way.
    """
    want = need * TURNS_PER_ALLOTMENT
    wanted = {"step": claim.step_id, "epoch": claim.epoch, "need": need, "want": want}
    if connections.run(claim.tenant, DRAW, wanted) is not None:
        return
    standing = connections.run(claim.tenant, STANDING, {"run": claim.run_id, "step": claim.step_id})
    if standing is None:
        raise LeaseLost(f"Run {claim.run_id} has no budget row; it was removed.")
    _check_run(standing, need)
    # What it still holds counts: the last call of a budget is paid from both.
    short = need - max(0, standing["free"] or 0)
    if standing["allotted"] is not None and standing["allotted"] - standing["drawn"] < short:
        _borrow(connections, claim, short, want * ALLOTMENTS_PER_LOAN)
        if connections.run(claim.tenant, DRAW, wanted) is not None:
            return
    raise BudgetBusy(f"A call of at most {need} micro-dollars waits: other calls hold the rest of the budget.")


def _check_run(standing: Row, need: int) -> None:
    if standing["room"] + max(0, standing["free"] or 0) < need:
        raise StepBudgetExceeded(
            f"A call of at most {need} micro-dollars does not fit: {standing['room']} are left of the budget that its "
            "step has, with the colleagues it asks; give that step more, or none of its own."
        )
    spent = standing["spent"] + standing["lost"]
    if spent + need > standing["cap"]:
        raise BudgetExceeded(
            f"A call of at most {need} micro-dollars does not fit: {spent} of {standing['cap']} are spent; "
            "raise the run's budget."
        )


def _borrow(connections: Connections, claim: Claim, need: int, want: int) -> None:
    """Let the run hold more of its tenant's money; raises `BudgetExceeded` when the tenant has spent it."""
    asked = {"run": claim.run_id, "tenant": claim.tenant, "need": need, "want": want}
    if connections.run(claim.tenant, BORROW, asked) is not None:
        return
    connections.run(claim.tenant, RECLAIM, asked)
    if connections.run(claim.tenant, BORROW, asked) is not None:
        return
    standing = connections.run(claim.tenant, TENANT_STANDING, asked)
    if standing is not None:
        _check_tenant(standing, need)


def _check_tenant(standing: Row, need: int) -> None:
    for cap, spent, whose in (
        (standing["cap"], standing["spent"], "tenant's cap: it is raised"),
        (
            standing["day_cap"],
            standing["day_spent"],
            "tenant's cap of a day: it begins anew at midnight UTC, or is raised",
        ),
    ):
        if cap is not None and spent + need > cap:
            raise BudgetExceeded(
                f"A call of at most {need} micro-dollars does not fit: {spent} of {cap} are spent of the {whose} with "
                "`chargehand caps`."
            )
