"""An `any` join and who has won it: one row of the journal, and what the join is given whenever it is claimed."""

from typing import TYPE_CHECKING
from uuid import UUID

from chargehand.memory import journal
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import runs
from chargehand.orchestrator.facts import JoinsWon, StepFinished, StepReleased, parse_fact
from chargehand.orchestrator.gist import gist
from chargehand.orchestrator.plan import Branch, Step
from chargehand.workers.inputs import RunReader
from tests.integration.core.test_forks import Desk

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

SHA = "1" * 40, "2" * 40


def script(key: str, *after: str, **fields: object) -> Step:
    return Step.model_validate({"key": key, "kind": "script", "script": "work", "after": after, **fields})


JOIN = script("join", "near", "far", join="any")


def go(house: "House", run_id: UUID) -> None:
    while house.rings(run_id):
        house.advance(run_id)
    house.admit()


def won(house: "House", run_id: UUID) -> list[dict[str, str]]:
    with house.as_tenant() as session:
        entries = journal.read(session, run_id, step=RUN_STREAM, kinds=["joins.won"])
        facts = [parse_fact(entry.body or "", schema_version=entry.schema_version) for entry in entries]
    return [fact.winners for fact in facts if isinstance(fact, JoinsWon)]


def given(house: "House", run_id: UUID, step: Step = JOIN) -> tuple[dict[str, object], str | None]:
    """What the step goes on with: results by key, and the commit it starts from."""
    gathered = RunReader(house.app, house.tenant, run_id).gather(step)
    return dict(gathered.inputs), gathered.start_commit


def end(house: "House", run_id: UUID, key: str, *, commit: str | None = None) -> None:
    house.claim(run_id, key).finish(StepFinished(outcome="succeeded", result=f"of {key}", commit=commit))


def check_end(house: "House", run_id: UUID) -> None:
    assert house.run_row(run_id).status == "succeeded"
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_the_winner_of_a_race_is_in_the_journal(house: "House") -> None:
    run_id = house.start(script("near"), script("far"), JOIN)
    end(house, run_id, "far")
    go(house, run_id)
    assert house.statuses(run_id) == {"near": "cancelled", "far": "succeeded", "join": "queued"}
    assert won(house, run_id) == [{"join": "far"}]
    assert gist(JoinsWon(winners={"join": "far"})) == "join goes on with far"
    end(house, run_id, "join")
    go(house, run_id)
    check_end(house, run_id)


def test_of_two_that_end_before_anybody_looks_the_earlier_has_won_and_the_join_is_given_this_one_alone(
    house: "House",
) -> None:
    run_id = house.start(script("near"), script("far"), JOIN)
    end(house, run_id, "far", commit=SHA[0])
    end(house, run_id, "near", commit=SHA[1])

    go(house, run_id)

    assert won(house, run_id) == [{"join": "far"}]
    assert given(house, run_id) == ({"far": "of far"}, SHA[0])
    end(house, run_id, "join")
    go(house, run_id)
    check_end(house, run_id)


def test_a_winner_stays_one_through_a_pause_another_claim_and_what_the_other_comes_to(house: "House") -> None:
    # Somebody else needs the other: it goes on.
    run_id = house.start(script("near"), script("far"), JOIN, script("other", "near"))
    end(house, run_id, "far")
    go(house, run_id)
    with house.as_tenant() as session:
        runs.pause(session, house.tenant, run_id)
    go(house, run_id)
    with house.as_tenant() as session:
        runs.resume(session, house.tenant, run_id)
    go(house, run_id)
    held = house.claim(run_id, "join")
    before = given(house, run_id)
    held.release(StepReleased(reason="drain"))

    end(house, run_id, "near")
    go(house, run_id)

    assert house.statuses(run_id)["near"] == "succeeded"
    assert won(house, run_id) == [{"join": "far"}]
    assert given(house, run_id) == before == ({"far": "of far"}, None)
    for key in ("join", "other"):
        end(house, run_id, key)
    go(house, run_id)
    check_end(house, run_id)


def test_a_join_that_is_done_again_with_its_winner_races_anew(house: "House") -> None:
    run_id = house.start(script("near"), script("far"), JOIN, script("other", "near"), script("end", "join", "other"))
    end(house, run_id, "far")
    go(house, run_id)
    end(house, run_id, "near")
    go(house, run_id)
    with house.as_tenant() as session:
        assert runs.retry(session, house.tenant, run_id, "far") == ("far~2", "join~2", "end~2")
    go(house, run_id)
    assert won(house, run_id) == [{"join": "far"}, {"join~2": "near"}]
    assert house.statuses(run_id)["far~2"] == "cancelled"


def test_a_way_that_was_not_taken_has_not_won(house: "House") -> None:
    chooses = Step(key="which", kind="branch", branch=Branch(labels=("yes", "no"), script="choose"))
    join = script("join", "which", "far", join="any", when={"which": "yes"})
    run_id = house.start(chooses, script("far"), join)
    go(house, run_id)
    house.run(run_id, "which/choose", "no")
    go(house, run_id)
    assert won(house, run_id) == []
    end(house, run_id, "far")
    go(house, run_id)
    assert won(house, run_id) == [{"join": "far"}]
    assert given(house, run_id, join)[0] == {"far": "of far"}


def test_a_join_of_all_has_no_winner(house: "House") -> None:
    run_id = house.start(script("near"), script("far"), script("join", "near", "far"))
    for key in ("near", "far"):
        end(house, run_id, key)
    go(house, run_id)
    assert won(house, run_id) == []
    assert given(house, run_id, script("join", "near", "far"))[0] == {"near": "of near", "far": "of far"}


def test_a_fork_goes_on_with_the_winner_of_the_run_that_it_left(house: "House") -> None:
    desk = Desk(house)
    run_id = desk.submit(script("near"), script("far"), JOIN, script("end", "join"))
    go(house, run_id)
    for key in ("far", "near"):
        end(house, run_id, key)
    desk.finish(run_id)
    assert won(house, run_id) == [{"join": "far"}]

    fork = desk.fork(run_id, "join")
    go(house, fork)
    assert won(house, fork) == [{"join": "far"}]
    assert given(house, fork)[0] == {"far": "of far"}
    desk.finish(fork)
    check_end(house, fork)


def test_a_fork_behind_a_race_does_not_pay_the_one_that_lost(house: "House") -> None:
    desk = Desk(house)
    run_id = desk.submit(script("near"), script("far"), JOIN)
    go(house, run_id)
    end(house, run_id, "far")
    desk.finish(run_id)
    assert house.statuses(run_id)["near"] == "cancelled"

    fork = desk.fork(run_id, "join")
    desk.scripts.clear()
    desk.finish(fork)

    assert desk.scripts == ["join"]
    assert house.statuses(fork) == {"near": "cancelled", "far": "succeeded", "join": "succeeded"}
    check_end(house, fork)
