"""The journal of real runs: whatever is changed behind its back is found."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.journal import NewEntry
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.facts import StepFinished, ToolStarted
from chargehand.orchestrator.plan import Step, step_id

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

STARTED = ToolStarted(tool_use_id="1", tool="t", effect="pure", key="k", timeout_seconds=1)


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


def tamper(house: "House", *statements: str, **parameters: object) -> None:
    """What only a superuser can do: change rows with the triggers off."""
    with house.owner.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            changed = connection.execute(text(statement), parameters)
            assert changed.rowcount > 0, statement


def finished_run(house: "House") -> UUID:
    run_id = house.start(script("a"), script("b", "a"))
    for key in ("a", "b"):
        house.run(run_id, key, result={"of": key})
    house.advance(run_id)
    assert house.objections(run_id) == []
    return run_id


def running_run(house: "House") -> UUID:
    """Step *a* has three rows and goes on."""
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    from chargehand.orchestrator.turns import StepRecorder

    recorder = StepRecorder(house.connections, held, lease_seconds=60)
    recorder.tool_started(STARTED)
    recorder.tool_started(STARTED)
    assert house.objections(run_id) == []
    return run_id


def test_an_edited_body_is_found(house: "House") -> None:
    run_id = finished_run(house)
    tamper(
        house,
        "UPDATE journal SET body = replace(body, 'succeeded', 'failed') WHERE run = :run AND kind = 'step.finished'",
        run=run_id,
    )
    assert house.objections(run_id) == ["the body was edited"] * 2


def test_an_edited_body_whose_hash_was_edited_too_is_found(house: "House") -> None:
    run_id = finished_run(house)
    tamper(
        house,
        "UPDATE journal SET body = '{}', body_hash = sha256(salt || '{}'::bytea) WHERE run = :run AND step = :step "
        "AND seq = 1",
        run=run_id,
        step=step_id(run_id, "a"),
    )
    assert house.objections(run_id) == ["the row does not follow from the one before"]


@pytest.mark.parametrize(
    "change",
    [
        "epoch = epoch + 1",
        "kind = 'step.released'",
        "at = at - interval '1 microsecond'",
        "tenant = gen_random_uuid()",
        "schema_version = 2",
    ],
)
def test_an_edited_column_is_found(house: "House", change: str) -> None:
    run_id = running_run(house)
    tamper(
        house, f"UPDATE journal SET {change} WHERE run = :run AND step <> :nil AND seq = 2", run=run_id, nil=RUN_STREAM
    )
    with Session(house.supervisor) as session:
        entries = journal.read(session, run_id, step=step_id(run_id, "a"))
    assert [one.what for one in journal.verify_stream(entries)] == ["the row does not follow from the one before"]


def test_a_deleted_row_is_found(house: "House") -> None:
    run_id = finished_run(house)
    tamper(house, "DELETE FROM journal WHERE run = :run AND step <> :nil AND seq = 1", run=run_id, nil=RUN_STREAM)
    assert "row 1 is missing" in house.objections(run_id)


def test_a_deleted_row_is_found_when_the_later_ones_move_up(house: "House") -> None:
    run_id = running_run(house)
    tamper(
        house,
        "DELETE FROM journal WHERE run = :run AND step = :step AND seq = 2",
        "UPDATE journal SET seq = 2 WHERE run = :run AND step = :step AND seq = 3",
        "UPDATE steps SET head_seq = 2 WHERE id = :step",
        run=run_id,
        step=step_id(run_id, "a"),
    )
    assert house.objections(run_id) == ["the row does not follow from the one before"]


def test_reordered_rows_are_found(house: "House") -> None:
    run_id = running_run(house)
    tamper(
        house,
        "UPDATE journal SET seq = -seq WHERE run = :run AND step = :step AND seq IN (2, 3)",
        "UPDATE journal SET seq = 5 + seq WHERE run = :run AND step = :step AND seq IN (-2, -3)",
        run=run_id,
        step=step_id(run_id, "a"),
    )
    assert house.objections(run_id) == ["the row does not follow from the one before"]


def test_an_inserted_row_is_found(house: "House") -> None:
    run_id = running_run(house)
    # Through the front door, so that it even follows: but the table does not know of it.
    house.execute(
        "INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body) "
        "VALUES (:tenant, :run, :step, 4, 'tool.started', 1, 1, :body)",
        {
            "tenant": house.tenant,
            "run": run_id,
            "step": step_id(run_id, "a"),
            "body": STARTED.model_dump_json(),
        },
    )
    assert house.objections(run_id) == ["rows that the tables do not know of"]


def test_a_truncated_stream_of_a_finished_step_is_found_by_its_anchor(house: "House") -> None:
    run_id = finished_run(house)
    tamper(
        house,
        "DELETE FROM journal WHERE run = :run AND step = :step AND seq = 2",
        # Whoever truncates the journal may adapt the tables too.
        "UPDATE steps SET head_seq = 1 WHERE id = :step",
        run=run_id,
        step=step_id(run_id, "b"),
    )
    assert house.objections(run_id) == ["the anchored last row is gone: truncated"]


def test_a_truncated_stream_of_an_unfinished_step_is_found_by_the_table(house: "House") -> None:
    run_id = running_run(house)
    tamper(
        house,
        "DELETE FROM journal WHERE run = :run AND step = :step AND seq = 3",
        run=run_id,
        step=step_id(run_id, "a"),
    )
    assert house.objections(run_id) == ["the stream ends at row 2: truncated"]


def test_a_truncated_run_is_found_by_its_tenants_chain(house: "House") -> None:
    run_id = finished_run(house)
    tamper(
        house,
        "DELETE FROM journal WHERE run = :run AND step = :nil AND kind = 'run.finished'",
        "UPDATE runs SET head_seq = head_seq - 1 WHERE id = :run",
        run=run_id,
        nil=RUN_STREAM,
    )
    [objection] = house.objections(run_id)
    assert "truncated" in objection


def test_a_removed_run_is_found_by_its_tenants_chain(house: "House") -> None:
    first, second = finished_run(house), finished_run(house)
    tamper(house, "DELETE FROM journal WHERE run = :run", run=first)
    assert house.objections(second) != []


def test_a_removed_anchor_is_found_by_the_next_one(house: "House") -> None:
    first, second = finished_run(house), finished_run(house)
    tamper(house, "DELETE FROM run_anchors WHERE run = :run", run=first)
    assert house.objections(second) == ["anchor 1 is missing"]


def test_an_altered_anchor_does_not_follow(house: "House") -> None:
    run_id = finished_run(house)
    tamper(house, "UPDATE run_anchors SET run_seq = run_seq - 1 WHERE run = :run", run=run_id)
    assert house.objections(run_id) == ["the anchor does not follow from the one before"]


def test_a_seal_of_another_key_is_found(house: "House") -> None:
    run_id = finished_run(house)
    assert house.objections(run_id, key=b"another key") == ["the seal is not of this installation's key"]


def test_a_chain_that_was_made_anew_without_the_key_has_the_wrong_seal(house: "House") -> None:
    run_id = finished_run(house)
    with Session(house.owner) as session, session.begin():
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM run_anchors WHERE run = :run"), {"run": run_id})
        journal.anchor_run(session, tenant=house.tenant, run=run_id, key=b"a guess")
    assert house.objections(run_id) == ["the seal is not of this installation's key"]


def test_erased_bodies_leave_a_chain_that_verifies(house: "House") -> None:
    run_id = finished_run(house)
    with Session(house.supervisor) as session, session.begin():
        erased = journal.erase(session, run_id, step=step_id(run_id, "a"))
    assert erased == 2
    assert house.execute(
        "SELECT count(*) FROM journal WHERE run = :run AND body IS NULL AND salt IS NULL", {"run": run_id}
    ) == [(2,)]
    assert house.objections(run_id) == []


def test_half_an_erasure_is_found(house: "House") -> None:
    run_id = finished_run(house)
    tamper(
        house,
        "UPDATE journal SET salt = NULL WHERE run = :run AND step <> :nil AND seq = 1",
        run=run_id,
        nil=RUN_STREAM,
    )
    assert house.objections(run_id) == ["the body was half erased"] * 2


FORBIDDEN = (
    "UPDATE journal SET body = '{}' WHERE run = :run",
    "UPDATE journal SET epoch = 7 WHERE run = :run",
    "UPDATE journal SET body = NULL, salt = NULL, kind = 'x' WHERE run = :run",
    "UPDATE journal SET body = NULL WHERE run = :run",
    "DELETE FROM journal WHERE run = :run",
    "TRUNCATE journal",
)


@pytest.mark.parametrize("statement", FORBIDDEN)
@pytest.mark.parametrize("role", ["app", "supervisor", "owner"])
def test_nobody_updates_deletes_or_truncates_the_journal(house: "House", role: str, statement: str) -> None:
    run_id = running_run(house)
    engine: Engine = getattr(house, role)
    with Session(engine) as session:
        session.execute(text("SELECT set_config('chargehand.tenant', :tenant, true)"), {"tenant": str(house.tenant)})
        with pytest.raises(DBAPIError) as refused:
            session.execute(text(statement), {"run": run_id} if ":run" in statement else {})
    assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)
    assert house.objections(run_id) == []


def test_the_app_cannot_erase(house: "House") -> None:
    run_id = running_run(house)
    with pytest.raises(DBAPIError, match="permission denied"), house.as_tenant() as session:
        journal.erase(session, run_id)


def append(house: "House", run_id: UUID, step: UUID, after_seq: int) -> Callable[[], int]:
    def act() -> int:
        with house.as_tenant() as session:
            return journal.append(
                session,
                tenant=house.tenant,
                run=run_id,
                step=step,
                after_seq=after_seq,
                entries=[NewEntry(kind="x", schema_version=1, epoch=1, body='{"a":"ü 🙂 \\u0000"}')] * 3,
            )

    return act


def test_rows_of_one_statement_link_to_each_other(house: "House") -> None:
    run_id, step = uuid4(), uuid4()
    assert append(house, run_id, step, 0)() == 3
    with house.as_tenant() as session:
        entries = journal.read(session, run_id, step=step)
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert list(journal.verify_stream(entries)) == []


def test_a_row_that_is_there_is_not_written_again(house: "House") -> None:
    run_id, step = uuid4(), uuid4()
    append(house, run_id, step, 0)()
    with pytest.raises(IntegrityError, match="pk_journal"):
        append(house, run_id, step, 2)()


def test_a_row_after_a_gap_is_refused(house: "House") -> None:
    with pytest.raises(DBAPIError, match="has no predecessor"):
        append(house, uuid4(), uuid4(), 4)()


def test_time_salt_and_hashes_are_the_databases(house: "House") -> None:
    run_id, step = uuid4(), uuid4()
    with house.as_tenant() as session:
        session.execute(
            text(
                "INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body, at, hash, body_hash) "
                "VALUES (:tenant, :run, :step, 1, 'x', 1, 1, '{}', '1999-01-01', 'forged', 'forged')"
            ),
            {"tenant": house.tenant, "run": run_id, "step": step},
        )
    with house.as_tenant() as session:
        [entry] = journal.read(session, run_id, step=step)
    assert entry.at.year > 1999
    assert list(journal.verify_stream([entry])) == []


def test_ends_of_many_runs_make_one_chain(house: "House") -> None:
    runs_of_tenant = [finished_run(house) for _ in range(3)]
    rows = house.execute(
        "SELECT seq, run FROM run_anchors WHERE tenant = :tenant ORDER BY seq", {"tenant": house.tenant}
    )
    assert rows == [(position, run) for position, run in enumerate(runs_of_tenant, start=1)]


def test_a_failed_step_is_anchored_too(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a").finish(StepFinished(outcome="failed", error="no"))
    house.advance(run_id)
    tamper(house, "DELETE FROM journal WHERE run = :run AND kind = 'step.finished'", run=run_id)
    assert "the anchored last row is gone: truncated" in house.objections(run_id)


def test_a_hash_that_its_writer_made_up_is_found(house: "House") -> None:
    # Writers bring the hash of a body, because they make it faster; whether it is one is for the verifier to say.
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    salt, digest = journal.salted_hash('{"kind": "tool.started"}')
    with house.as_tenant() as session:
        session.execute(
            text(
                "INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body, salt, body_hash) "
                "VALUES (:tenant, :run, :step, 2, 'tool.started', 1, 1, :body, :salt, :digest)"
            ),
            {
                "tenant": house.tenant,
                "run": run_id,
                "step": held.claim.step_id,
                "body": '{"kind": "tool.finished"}',
                "salt": salt,
                "digest": digest,
            },
        )
    assert any("the body was edited" in objection for objection in house.objections(run_id))
