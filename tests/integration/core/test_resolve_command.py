"""`chargehand resolve`: what is refused before it is sent, and what whoever comes second is told."""

import json
from typing import TYPE_CHECKING

import pytest

from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import StepWaiting
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.steps import new_wait_id
from tests.integration.core.test_retry_command import NO_BROKER, Command, chargehand, refused  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def test_who_comes_second_is_told_who_was_first_and_what_they_chose(
    house: "House",
    chargehand: Command,  # noqa: F811
) -> None:
    run_id = house.start(Step(key="ok", kind="gate", instruction="Go on?"))
    assert chargehand("resolve", str(run_id), "ok", "reject", "--as", "Ada").returncode == 0
    house.watch()
    house.advance(run_id)

    late = chargehand("resolve", str(run_id), "ok", "approve", "--as", "Bob")
    assert (late.returncode, late.stdout) == (1, "Step ok was answered before: 'reject' by Ada; nothing changed.\n")
    told = json.loads(chargehand("resolve", str(run_id), "ok", "approve", "--json").stdout)
    assert (told["taken"], told["choice"], told["by"]) == (False, "reject", "Ada")
    refused(chargehand("resolve", str(run_id), "no-such-step", "approve"), "waits for no answer")


@pytest.mark.parametrize("digest", ["", "6b9"])
def test_a_hash_that_any_arguments_could_have_approves_nothing(
    house: "House",
    chargehand: Command,  # noqa: F811
    digest: str,
) -> None:
    send = Step(key="send", kind="script", script="work", pool="coding", after=("ok",), arguments={"to": "Ada"})
    run_id = house.start(Step(key="ok", kind="gate", instruction="Send it?"), send)
    refused(chargehand("resolve", str(run_id), "ok", "approve", "--hash", digest), "4 digits of it or more")
    assert house.statuses(run_id)["ok"] == "waiting"


@pytest.mark.parametrize("choice", ["answer", "override"])
def test_an_answer_that_says_nothing_is_refused_where_something_is_to_be_said(
    house: "House",
    chargehand: Command,  # noqa: F811
    choice: str,
) -> None:
    run_id = house.start(Step(key="fix", kind="script", script="work", pool="coding"))
    options = ("answer", "override", "abort")
    house.claim(run_id, "fix").wait(
        StepWaiting(wait_id=new_wait_id(), reason="human", question="How?", options=options)
    )
    refused(chargehand("resolve", str(run_id), "fix", choice), f"'{choice}' needs", "--body JSON")
    assert chargehand("resolve", str(run_id), "fix", choice, "--body", "null").returncode == 0


def test_the_file_of_a_plan_is_no_plan(house: "House") -> None:
    plan: object = "plan.yaml"
    with Client(house.database_url, NO_BROKER, tenant=house.tenant, settings=house.settings) as client:
        with pytest.raises(InvalidPlan, match=r"^'plan\.yaml' is no `Plan`; `load_plan\(file\)`"):
            client.submit(plan=plan)  # type: ignore[arg-type]
        with pytest.raises(InvalidPlan, match=r"^'plan\.yaml' is no `Plan`"):
            client.schedules.add("0 3 * * *", plan=plan)  # type: ignore[arg-type]
