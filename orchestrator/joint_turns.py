"""Commits of turns of many steps as one statement: each row under its own guard, as `turns` writes one of them."""

from collections.abc import Sequence

from chargehand.orchestrator.joint_commits import Form
from chargehand.orchestrator.prepared import Parameters

# A row that is locked is passed over: nobody here waits for what somebody does to another run, nor in a circle.
# What the guard reads is of the locked row, or a parameter: it is checked again when the lock has been taken.
# `IS NOT DISTINCT FROM`: by `=` a planner that knows little would read all that runs by the index of live steps.
# A row of the journal needs the one before it, so a step's facts are inserted in their order.
_TURNS = """
WITH given AS (
    SELECT * FROM unnest(%(steps)s::uuid[], %(epochs)s::integer[], %(seqs)s::bigint[], %(counts)s::integer[],
        %(leases)s::float8[], %(requests)s::boolean[], %(settles)s::boolean[], %(needs)s::bigint[],
        %(reserved)s::bigint[], %(costs)s::bigint[])
        AS one(step, epoch, seq, count, lease, requests, settles, need, reserved, cost)
), free AS (
    SELECT mine.id, seq, count, lease, requests, settles, need, reserved, cost
    FROM given CROSS JOIN LATERAL (
        SELECT id FROM steps
        WHERE id = given.step AND epoch = given.epoch AND head_seq = given.seq
          AND status IS NOT DISTINCT FROM 'running' AND (NOT requests
            OR halt IS NULL AND allotment_microusd - spent_microusd - reserved_microusd >= need)
        FOR NO KEY UPDATE SKIP LOCKED) mine
), own AS (
    UPDATE steps s SET head_seq = head_seq + count,
        lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => lease)),
        reserved_microusd = reserved_microusd + need - reserved, spent_microusd = spent_microusd + cost,
        turns = turns + requests::integer, crashes = CASE WHEN settles THEN 0 ELSE crashes END
    FROM free WHERE s.id = free.id
    RETURNING tenant, run, s.id, epoch, head_seq, free.seq, settles
), facts AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body, salt, body_hash)
    SELECT own.tenant, own.run, own.id, own.seq + position, kind, %(version)s, own.epoch, body, salt, body_hash
    FROM own JOIN unnest(%(subjects)s::uuid[], %(positions)s::integer[], %(kinds)s::text[], %(bodies)s::text[],
        %(salts)s::bytea[], %(hashes)s::bytea[]) AS fact(subject, position, kind, body, salt, body_hash)
        ON subject = own.id
    ORDER BY own.id, position
)
SELECT id, head_seq, CASE WHEN settles THEN
    (SELECT runs.head_seq FROM runs WHERE runs.id = own.run) END AS run_seq
FROM own
"""
# Of a turn alone, and of many.
_MONEY = {"need": "needs", "reserved": "reserved", "cost": "costs"}
_FACT = {"kind": "kinds", "body": "bodies", "salt": "salts", "hash": "hashes"}


def gather(turns: Sequence[Parameters]) -> Parameters:
    """The parameters of the joint statement, from those that each turn's commit has alone."""
    facts = [(one, position) for one in turns for position in range(1, one["facts"] + 1)]  # type: ignore[operator]
    return {
        "version": turns[0]["version"],
        "steps": [one["step"] for one in turns],
        "epochs": [one["epoch"] for one in turns],
        "seqs": [one["seq"] for one in turns],
        "counts": [one["facts"] for one in turns],
        "leases": [one["lease"] for one in turns],
        "requests": ["need" in one for one in turns],
        "settles": ["settles" in one for one in turns],
        **{many: [one.get(single, 0) for one in turns] for single, many in _MONEY.items()},
        "subjects": [one["step"] for one, _ in facts],
        "positions": [position for _, position in facts],
        **{many: [one[f"{single}_{position}"] for one, position in facts] for single, many in _FACT.items()},
    }


FORM = Form(statement=_TURNS, gather=gather)
