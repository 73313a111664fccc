"""What cannot become a run must not block what waits behind it."""

from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import insert

from chargehand.memory.database import APP_ROLE, SUPERVISOR_ROLE, open_engine, tenant_session
from chargehand.orchestrator import runs
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.requests import RunRequest
from chargehand.orchestrator.settings import DEFAULT_TENANT, Settings
from chargehand.orchestrator.supervisor.watch import accept_submissions
from chargehand.orchestrator.tables import SubmissionRow
from chargehand.orchestrator.views import view_run


@pytest.mark.parametrize("poison", ["not json", '{"run_id": 1}'])
def test_a_submission_that_cannot_be_read_is_refused_and_the_next_one_accepted(
    database_url: str, tmp_path: Path, poison: str
) -> None:
    app, supervisor = open_engine(database_url, role=APP_ROLE), open_engine(database_url, role=SUPERVISOR_ROLE)
    plan = Plan.of([Step(key="a", kind="script", script="inventory")])
    good = RunRequest(run_id=runs.new_run_id(), goal="go", plan=plan, budget_microusd=1)
    with tenant_session(app, DEFAULT_TENANT) as session:
        session.execute(insert(SubmissionRow).values(run=uuid4(), tenant=DEFAULT_TENANT, request=poison))
        runs.enqueue(session, DEFAULT_TENANT, good)
        bad_role = good.model_copy(update={"run_id": runs.new_run_id(), "role_texts": {"x": "no front matter"}})
        runs.enqueue(session, DEFAULT_TENANT, bad_role)

    accepted = accept_submissions(supervisor, Settings(home=tmp_path))

    assert accepted == [good.run_id]
    with tenant_session(app, DEFAULT_TENANT) as session:
        assert view_run(session, good.run_id).status == "running"
    assert accept_submissions(supervisor, Settings(home=tmp_path)) == []
    app.dispose()
    supervisor.dispose()
