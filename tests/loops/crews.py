"""Transcripts of several agents: desks that hand over, leads that delegate, reviews, questions and answers."""

import random

from loops.family import Families
from loops.noise import commit, listed
from loops.scene import Scene

FAMILIES = Families()
ROLES = listed("intake analyst engineer reviewer architect tester operator editor lawyer buyer")
MATTERS = listed(
    "rounding discount schema upload session export routing billing layout search login backup archive colour index"
)


def note(rng: random.Random, words: int = 5) -> str:
    """A note that is new."""
    return " ".join(f"{rng.choice(MATTERS)}{rng.randint(10, 9999)}" for _ in range(words))


def research(scene: Scene, most: int, step: str, role: str) -> None:
    """Some calls that get on."""
    for _ in range(scene.rng.randint(0, most)):
        scene.act("read_doc", {"name": note(scene.rng, 1)}, note(scene.rng, 8), step=step, role=role)


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("ping_pong")
def please_clarify(scene: Scene, rng: random.Random) -> None:
    """Every hand-over is a new step; each asks the other in changing words to say what is meant."""
    one, other = rng.sample(ROLES, 2)
    matter = rng.choice(MATTERS)
    asks = (
        f"Please implement {matter}.",
        f"Go ahead with {matter} now.",
        f"{matter} is yours, do it.",
        f"Do {matter} as planned.",
    )
    backs = (
        f"Which {matter} is meant? Please clarify.",
        f"I need the details of {matter} first.",
        f"Unclear: {matter}?",
        "What exactly?",
    )
    scene.loop_begins()
    for index in range(9):
        giver, taker = (one, other) if index % 2 == 0 else (other, one)
        task = rng.choice(asks if index % 2 == 0 else backs)
        scene.act("delegate", {"role": taker, "task": task}, "accepted", step=f"s{index}", role=giver)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("ping_pong")
def round_the_table(scene: Scene, rng: random.Random) -> None:
    """Three desks, each of which says that it is for the next."""
    roles = rng.sample(ROLES, 3)
    scene.loop_begins()
    for index in range(12):
        giver, taker = roles[index % 3], roles[(index + 1) % 3]
        reason = rng.choice((f"This is for {taker}.", f"{taker} should decide.", f"Not my field, {taker} please."))
        scene.act("hand_off", {"to": taker, "instruction": reason}, "ok", step=f"s{index}", role=giver)
        if index == 5:
            scene.loop_shows()


@FAMILIES.loop("ping_pong")
def ticket_passed_on(scene: Scene, rng: random.Random) -> None:
    """Each reads the ticket, and passes it on."""
    one, other = rng.sample(ROLES, 2)
    ticket = note(rng, 6)
    scene.loop_begins()
    for index in range(8):
        giver, taker = (one, other) if index % 2 == 0 else (other, one)
        scene.act("get_ticket", {"id": 4711}, ticket, step=f"s{index}", role=giver)
        scene.act(f"transfer_to_{taker}", {}, f"Transferred to {taker}", step=f"s{index}", role=giver)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("ping_pong")
def rejected_again(scene: Scene, rng: random.Random) -> None:
    """Handed in, sent back with the same remark, handed in."""
    scene.loop_begins()
    remark = f"The {rng.choice(MATTERS)} still lacks a test."
    for index in range(5):
        scene.act("hand_off", {"to": "reviewer", "instruction": "Please review."}, "ok", step="eng", role="engineer")
        scene.act("read_diff", {}, "+ total = 3", step="rev", role="reviewer")
        scene.act("hand_off", {"to": "engineer", "instruction": remark}, "ok", step="rev", role="reviewer")
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("identical")
def same_question_to_a_colleague(scene: Scene, rng: random.Random) -> None:
    """A colleague is asked the same, and says the same."""
    research(scene, 3, "a", "analyst")
    question, answer = (
        f"What is the status of {rng.choice(MATTERS)}?",
        f"Nothing has changed since {rng.choice(MATTERS)}.",
    )
    scene.loop_begins()
    for index in range(8):
        scene.act("ask_agent", {"agent": "operator", "question": question}, answer, step="a", role="analyst")
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("ping_pong")
def up_and_down(scene: Scene, rng: random.Random) -> None:
    """Escalated, sent back for a decision, escalated."""
    top, bottom = rng.sample(ROLES, 2)
    matter = rng.choice(MATTERS)
    scene.loop_begins()
    for index in range(9):
        giver, taker = (bottom, top) if index % 2 == 0 else (top, bottom)
        words = f"Please decide about {matter}" if index % 2 == 0 else f"Please prepare a decision about {matter}"
        scene.act(
            "assign",
            {"assignee": taker, "comment": f"{words}{rng.choice(('', '.', ' soon', ' again'))}"},
            "assigned",
            step=f"t{index}",
            role=giver,
        )
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("ping_pong")
def four_desks(scene: Scene, rng: random.Random) -> None:
    """Four agents, each of whom waits for the next."""
    roles = rng.sample(ROLES, 4)
    scene.loop_begins()
    for index in range(16):
        giver, taker = roles[index % 4], roles[(index + 1) % 4]
        scene.act("handoff", {"agent": taker, "message": f"Waiting for {taker}."}, "", step=giver, role=giver)
        if index == 7:
            scene.loop_shows()


@FAMILIES.loop("identical")
def wall_for_all(scene: Scene, rng: random.Random) -> None:
    """One agent after the other is refused the same."""
    area = rng.choice(MATTERS)
    scene.loop_begins()
    for index in range(7):
        research(scene, 2, f"w{index}", "operator")
        error = f"AccessDenied: role operator may not write {area} (trace {rng.randint(10**6, 10**7):x}-{rng.randint(1, 99)})"
        scene.act("put_object", {"area": area, "key": "report"}, error=error, step=f"w{index}", role="operator")
        if index == 2:
            scene.loop_shows()


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def review_gets_on(scene: Scene, rng: random.Random) -> None:
    """Review after review, each with other remarks and a commit in answer."""
    for _ in range(rng.randint(3, 4)):
        scene.act(
            "edit_file",
            {"path": f"{rng.choice(MATTERS)}.py", "text": note(rng)},
            "Edited.",
            step="eng",
            role="engineer",
            commit=commit(rng),
        )
        scene.act("hand_off", {"to": "reviewer", "instruction": note(rng)}, "ok", step="eng", role="engineer")
        scene.act("read_diff", {}, note(rng, 8), step="rev", role="reviewer")
        scene.act("hand_off", {"to": "engineer", "instruction": note(rng)}, "ok", step="rev", role="reviewer")


@FAMILIES.honest
def lead_and_crew(scene: Scene, rng: random.Random) -> None:
    """A lead delegates one thing after the other, to the same role or others."""
    for _ in range(rng.randint(6, 9)):
        arguments = {"role": rng.choice(("engineer", "tester", "engineer")), "instruction": note(rng)}
        scene.act("delegate", arguments, note(rng, 6), step="lead", role="architect")


@FAMILIES.honest
def questions_and_answers(scene: Scene, rng: random.Random) -> None:
    """Two colleagues in talk; each message says something new."""
    for _ in range(rng.randint(4, 6)):
        scene.act("send_message", {"to": "analyst", "text": note(rng)}, "delivered", step="b", role="buyer")
        scene.act("send_message", {"to": "buyer", "text": note(rng)}, "delivered", step="a", role="analyst")


@FAMILIES.honest
def down_the_line(scene: Scene, rng: random.Random) -> None:
    """Work through many hands, once."""
    roles = rng.sample(ROLES, rng.randint(5, 8))
    for index in range(len(roles) - 1):
        research(scene, 2, f"s{index}", roles[index])
        scene.act(
            "hand_off", {"to": roles[index + 1], "instruction": note(rng)}, "ok", step=f"s{index}", role=roles[index]
        )


@FAMILIES.honest
def slices_of_a_map(scene: Scene, rng: random.Random) -> None:
    """Many agents of one map; each reads the rules first, and its own slice, which may be missing."""
    rules = note(rng, 12)
    for index in range(rng.randint(10, 25)):
        where = {"step": f"m{index}", "role": "analyst"}
        scene.act("read_doc", {"name": "RULES.md"}, rules, **where)
        if rng.random() < 0.2:
            scene.act("read_slice", {"index": index}, error="The slice is empty.", **where)
        else:
            scene.act("read_slice", {"index": index}, note(rng), **where)


@FAMILIES.honest
def two_watch_a_job(scene: Scene, rng: random.Random) -> None:
    """Two agents poll one job, which gets on."""
    for percent in range(0, 100, rng.randint(9, 17)):
        for step in ("a", "b"):
            scene.act("job", {"name": "index"}, f"{percent}% indexed", step=step, role="operator")


@FAMILIES.honest
def one_thing_after_the_other(scene: Scene, rng: random.Random) -> None:
    """The operator gets task after task from intake, and gives each back done."""
    for _ in range(rng.randint(3, 5)):
        scene.act("hand_off", {"to": "operator", "instruction": note(rng)}, "ok", step="in", role="intake")
        scene.act("run_job", {"job": note(rng, 1)}, note(rng, 4), step="op", role="operator")
        scene.act("hand_off", {"to": "intake", "instruction": note(rng)}, "ok", step="op", role="operator")
        scene.act("read_doc", {"name": note(rng, 1)}, note(rng, 4), step="in", role="intake")


@FAMILIES.honest
def delegated_up_once(scene: Scene, rng: random.Random) -> None:
    """A question goes back once, then the work goes on."""
    scene.act("delegate", {"role": "engineer", "instruction": note(rng)}, "accepted", step="a", role="architect")
    research(scene, 3, "b", "engineer")
    scene.act(
        "delegate", {"role": "architect", "instruction": f"Which {note(rng)}?"}, "accepted", step="b", role="engineer"
    )
    research(scene, 2, "c", "architect")
    scene.act("delegate", {"role": "engineer", "instruction": note(rng)}, "accepted", step="c", role="architect")
    research(scene, 4, "d", "engineer")
    scene.act("delegate", {"role": "tester", "instruction": note(rng)}, "accepted", step="d", role="engineer")
