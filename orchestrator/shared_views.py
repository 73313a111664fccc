"""Whether what an agent was shown of its run's shared state is still what is there."""

import json
from collections.abc import Mapping
from uuid import UUID

from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.facts import StateRefreshed, StateValue
from chargehand.orchestrator.steps import Claim

# Without a lock: what is replaced a moment later is refused at the commit.
_REPLACED = """
SELECT seen.key, s.value, coalesce(s.version, 0) AS version, seen.value::bigint AS seen_version,
       coalesce(c.step_key, '') AS by
FROM jsonb_each_text(%(view)s::jsonb) AS seen(key, value)
LEFT JOIN shared_state s ON s.tenant = %(tenant)s AND s.scope = %(scope)s AND s.key = seen.key
LEFT JOIN shared_state_changes c
    ON c.tenant = s.tenant AND c.scope = s.scope AND c.key = s.key AND c.new_version = s.version
WHERE coalesce(s.version, 0) <> seen.value::bigint ORDER BY seen.key
"""


def scope_of(run_id: UUID) -> str:
    """Where the shared state of one run lies."""
    return f"run:{run_id}"


def replaced(connections: Connections, claim: Claim, view: Mapping[str, int]) -> StateRefreshed | None:
    """What is not at the version of `view` (key → version), as it is now; None: all of it is."""
    rows = connections.rows(
        claim.tenant,
        _REPLACED,
        {"view": json.dumps(dict(view)), "tenant": claim.tenant, "scope": scope_of(claim.run_id)},
    )
    values = tuple(StateValue.model_validate(dict(row)) for row in rows)
    return StateRefreshed(values=values) if values else None
