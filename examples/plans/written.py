"""The example plans, written in Python: each function gives the plan of the YAML file that is called like it."""

from collections.abc import Callable

from steps import (
    add_file,
    ask_carrier,
    ask_far,
    ask_for_receipt,
    ask_near,
    check,
    count_shelf,
    file_case,
    improve,
    judge,
    list_files,
    list_shelves,
    load_order,
    quote_price,
    read_complaint,
    read_lines,
    refund,
    send_offer,
    size_of,
    sum_up,
    use_answer,
)

from chargehand import Draft, Plan, Settings, branch, celery_task, first_of, gate, map_over, merge, repeat, role
from chargehand.workers.scripts.answers import check_answers
from chargehand.workers.scripts.scan import scan
from chargehand.workers.scripts.tests import run_tests_of_step

# Those that come with Chargehand; folders of your own come before it.
ROLES = Settings().role_folders[-1]


def branch_plan() -> Plan:
    """One of two ways, chosen by a script."""
    order = load_order.step(7).set(key="order")
    ways = {
        "small": refund.step(order),
        "large": ask_for_receipt.step(order).set(key="ask"),
    }
    size = branch(size_of.step(order), ways, title="Small enough to pay at once?").set(key="size")
    return Plan(size >> file_case.step().set(key="file"))


def branch_by_odds_plan() -> Plan:
    """One of three ways, chosen by a model that says how likely each is."""
    chooser = role(ROLES / "chooser.md")
    asked = chooser.step("What is the complaint about?", inputs=read_complaint.step().set(key="complaint"))
    ways = {"late": None, "broken": load_order.step(7).set(key="order"), "wrong": None}
    return Plan(branch(asked, ways, threshold=0.8).set(key="reason"))


def map_plan() -> Plan:
    """The same step for each item of a list that is made at run time."""
    each = map_over(
        list_shelves.step(7).set(key="shelves"),
        lambda shelf: count_shelf.step(shelf).set(key="count"),
        max_parallel=3,
        tolerated_failures=1,
        title="Count each shelf",
    ).set(key="each")
    return Plan(sum_up.step(each).set(key="sum"))


def repeat_plan() -> Plan:
    """Rounds until a verdict passes."""

    def body() -> Draft:
        return check.step(number=2, guess=improve.step(number=2))

    return Plan(repeat(body, max_rounds=8, title="Find the root of two").set(key="root"))


SHELF = """\
def label(parcel):
    return json.dumps(parcel, sort_keys=True)


def price(weight):
    return 490 * math.ceil(weight)
"""
EXPECTED = """\
from shelf import label, price


def test_a_parcel_is_labelled_and_priced():
    assert label({"to": "Ada"}) == '{"to": "Ada"}'
    assert price(1.5) == 980
"""


def repeat_agents_plan() -> Plan:
    """Code, test, audit, and again on the evidence of the round, until the verdict passes."""
    coder = role(ROLES / "coder.md")
    shelf = add_file.step(name="shelf.py", text=SHELF).set(key="shelf")
    expected = add_file.step(name="test_shelf.py", text=EXPECTED).set(key="expected")
    before = run_tests_of_step.step().set(key="before", pool="coding")

    def body() -> Draft:
        code = coder.step("Make the tests pass.", may_edit=["shelf.py"]).set(key="code")
        test = run_tests_of_step.step().set(key="test", pool="coding")
        found = scan.step().set(key="scan", pool="audit")
        code >> [test, found]
        return judge.step(tests=test, scan=found).set(key="judge")

    mend = repeat(body, max_rounds=4, title="Mend what the tests find").set(key="mend")
    return Plan(shelf >> expected >> before >> mend >> read_lines.step(name="shelf.py").set(key="mended"))


def gate_plan() -> Plan:
    """Nothing is sent before a person has said so."""
    price = quote_price.step(parcels=3).set(key="price")
    approve = gate("Send the offer?", expires_after_seconds=86_400, then="reject").set(key="approve")
    return Plan(price >> approve >> send_offer.step(price).set(key="send"))


def celery_task_plan() -> Plan:
    """A task of the billing app, which knows it by its name."""
    refund = celery_task("billing.refund", queue="billing", effect="idempotent", resend_seconds=5, deadline_seconds=60)
    order = load_order.step(7).set(key="order")
    paid = refund.step(order, reason="broken").set(title="Send the money back")
    return Plan(paid >> file_case.step().set(key="file"))


def merge_plan() -> Plan:
    """Two steps change the workspace side by side."""
    changes = [
        add_file.step(name="LICENSE", text="Do as you like.").set(key="license"),
        add_file.step(name="CHANGES", text="All of it is new.").set(key="changes"),
    ]
    return Plan(merge(changes) >> list_files.step().set(key="files"))


def merge_conflict_plan() -> Plan:
    """Two steps write the same file side by side, and a role resolves the conflict."""
    entries = [
        add_file.step(name="LOG", text="09:00 opened\n").set(key="morning"),
        add_file.step(name="LOG", text="18:00 closed\n").set(key="evening"),
    ]
    return Plan(merge(entries, role="resolver") >> read_lines.step(name="LOG").set(key="log"))


def delegate_plan() -> Plan:
    """An agent that asks a colleague, and goes on with what they answer."""
    lead = role(ROLES / "lead.md")
    questions = ["Where are passwords checked?", "Which shop has the password?"]
    answer = lead.step("Answer the questions.", questions=questions).set(key="answer")
    return Plan(answer >> check_answers.step().set(key="check"))


def hand_off_plan() -> Plan:
    """An agent that leaves its task to a colleague."""
    lead = role(ROLES / "lead.md")
    answer = lead.step("Where are passwords checked?").set(key="answer")
    return Plan(answer >> check_answers.step().set(key="check"))


def any_join_plan() -> Plan:
    """What follows goes on with the first."""
    racers = [ask_near.step().set(key="near"), ask_far.step().set(key="far")]
    return Plan(first_of(racers) >> use_answer.step().set(key="use"))


def replan_plan() -> Plan:
    """A step that fails for good, which a planner may leave out."""
    order = load_order.step(order_id=7).set(key="order")
    carrier = ask_carrier.step(order=order).set(key="carrier")
    return Plan([order, order >> carrier] >> file_case.step().set(key="file"))


PLANS: dict[str, Callable[[], Plan]] = {
    "branch": branch_plan,
    "branch_by_odds": branch_by_odds_plan,
    "map": map_plan,
    "repeat": repeat_plan,
    "repeat_agents": repeat_agents_plan,
    "gate": gate_plan,
    "celery_task": celery_task_plan,
    "merge": merge_plan,
    "merge_conflict": merge_conflict_plan,
    "any_join": any_join_plan,
    "replan": replan_plan,
    "delegate": delegate_plan,
    "hand_off": hand_off_plan,
}
