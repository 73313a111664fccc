"""A disk without room under the workspaces: steps wait for somebody to make some, and none is to blame."""

import pytest
from chaos.machine import Fleet, until
from chaos.plans import READER, counted, reader

from chargehand.orchestrator.facts import StepFinished, StepReleased, StepWaiting
from chargehand.orchestrator.plan import Plan, Step

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def fleet():
    return Fleet(pools=("audit",), call_seconds=0.0, small_disk=True, forged=True)


def test_steps_that_need_a_workspace_wait_while_its_disk_is_full_and_the_others_go_on(laptop, workspace):
    if laptop.disk is None:
        pytest.skip("only root may mount a small disk")
    # Without a single try to spare.
    scribble = Step(key="scribble", kind="script", script="scribble", pool="audit")
    plan = Plan.of([reader("read"), scribble, counted("count"), counted("end", "read", "scribble", "count")])

    laptop.disk.fill()
    run = laptop.client.submit("full", plan=plan, workspace=workspace, roles=[READER])
    until(lambda: laptop.statuses(run)["count"] == "succeeded", 60, "who needs no disk goes on")
    until(lambda: {"read", "scribble"} <= told(run, StepReleased | StepWaiting), 60, "the others wait")
    assert told(run, StepFinished) == {"count"}
    laptop.disk.free()
    laptop.wait(run)

    assert laptop.objections(run, plan) == []
    assert set(laptop.statuses(run).values()) == {"succeeded"}
    assert [step.crashes for step in run.steps()] == [0] * len(plan.steps)


def told(run, kind):
    """Keys of the steps whose streams hold such a fact."""
    keys = {step.step_id: step.key for step in run.steps()}
    return {keys[event.step_id] for event in run.events(follow=False) if event.step_id and isinstance(event.fact, kind)}
