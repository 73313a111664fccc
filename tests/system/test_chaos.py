"""A short slice of `make chaos`, and the checker proved by stories that are wrong."""

import pytest
from chaos.checker import Seen, judge
from chaos.counter import Effect, Knock
from chaos.plans import counted
from chaos.story import play

from chargehand.orchestrator.plan import Plan

PLAN = Plan.of([counted("a"), counted("b", "a")])


class Told:
    """A step as the tables show it."""

    def __init__(self, key, epoch=1, status="succeeded"):
        self.key, self.epoch, self.status = key, epoch, status


def story(**changes):
    """A story in which all is well, but for the changes."""
    told = {
        "steps": [Told("a"), Told("b")],
        "knocks": [knock("a", 1.0), knock("b", 3.0)],
        "effects": [effect("a", 2.0), effect("b", 4.0)],
        "finished": ["a", "b"],
    }
    return Seen(plan=PLAN, **{**told, **changes})


def knock(step, at, key=None):
    return Knock(step=step, key=key or step, pid=1, at=at)


def effect(step, at, key=None):
    return Effect(step=step, key=key or step, at=at)


def test_the_checker_is_content_with_a_story_in_which_all_is_well():
    assert judge(story()) == []


@pytest.mark.parametrize(
    ("changes", "objection"),
    [
        ({"effects": [effect("a", 2.0)]}, "step 'b' succeeded and took effect 0 times"),
        ({"effects": [effect("a", 2.0), effect("b", 4.0), effect("b", 5.0, "other")]}, "took effect 2 times"),
        ({"knocks": [knock("a", 1.0), knock("a", 1.5, "other"), knock("b", 3.0)]}, "knocked with 2 keys"),
        ({"knocks": [knock("a", 1.0), knock("b", 3.0), knock("b", 3.5)]}, "step 'b' ran 2 times in 1 claims"),
        ({"finished": ["a", "b", "b"]}, "step 'b' finished 2 times"),
        ({"knocks": [knock("a", 1.0), knock("b", 1.5)]}, "step 'b' began before 'a' had taken effect"),
    ],
)
def test_the_checker_objects_to_a_wrong_story(changes, objection):
    assert any(objection in line for line in judge(story(**changes)))


@pytest.mark.system
def test_a_random_plan_survives_a_random_nemesis(home):
    verdict = play(home, seed=7, steps=40, pause_seconds=1.5, timeout_seconds=120)
    assert verdict.objections == ()
    assert verdict.strikes["repeat"] > 0
    assert sum(verdict.strikes.values()) > verdict.strikes["repeat"]
