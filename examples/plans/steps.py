"""The scripts of the example plans; workers that know this module can run them.

PYTHONPATH=$PWD/examples/plans CHARGEHAND_MODULES='["steps"]' chargehand up
"""

import time
from typing import Literal

from pydantic import BaseModel, JsonValue

from chargehand import ScriptContext, script

# Further away than a test or a reader wants to wait.
FAR_SECONDS = 20.0
LOOK_SECONDS = 0.05


class Order(BaseModel):
    """What a shop knows about an order."""

    order_id: int
    cents: int


class Verdict(BaseModel):
    """Whether a round was good enough, and what the next one needs to know."""

    passed: bool
    guess: float


class Changed(BaseModel):
    """Where a step left the workspace; `commit` is what later steps start from."""

    commit: str


# --- branch -----------------------------------------------------------------------------------------------------------


@script
def load_order(order_id: int) -> Order:
    """Order 7 costs 7 euros, order 700 costs 700."""
    return Order(order_id=order_id, cents=order_id * 100)


@script
def size_of(order: Order) -> Literal["small", "large"]:
    """A predicate: it gives the label of the way that the run takes."""
    return "small" if order.cents < 10_000 else "large"


@script(effect="idempotent")
def refund(order: Order, *, idempotency_key: str) -> str:
    """Pay at once; the key is the same in every attempt."""
    return f"{order.cents / 100:.2f} paid under {idempotency_key[:8]}"


@script
def ask_for_receipt(order: Order) -> str:
    """Too much to pay without one."""
    return f"receipt for {order.cents / 100:.2f} asked for"


@script
def file_case(context: ScriptContext) -> JsonValue:
    """Keep what came of the way that was taken; the others have no result."""
    return dict(context.inputs)


@script
def read_complaint() -> str:
    """What a customer writes."""
    return "The parcel came in time, but it is broken. The cup is broken, and so is the saucer."


@script
def ask_carrier(order: Order) -> str:
    """No carrier knows the parcel, whoever asks, and however often."""
    raise LookupError(f"no carrier knows the parcel of order {order.order_id}")


# --- map --------------------------------------------------------------------------------------------------------------


@script
def list_shelves(count: int) -> list[int]:
    """A list that is not known before the run gets here."""
    return list(range(1, count + 1))


@script
def count_shelf(shelf: int) -> int:
    """Shelf 3 is out of reach, whoever tries."""
    if shelf == 3:
        raise RuntimeError("shelf 3 cannot be reached")
    return shelf * 10


@script
def sum_up(counts: list[int | None]) -> dict[str, int]:
    """Results come in the order of the items; an item that failed has none."""
    known = [count for count in counts if count is not None]
    return {"parcels": sum(known), "shelves": len(known), "not_counted": len(counts) - len(known)}


# --- repeat -----------------------------------------------------------------------------------------------------------


@script
def improve(context: ScriptContext, number: float) -> float:
    """A better guess at the root of the number than the verdict of the round before, which is among the inputs."""
    before = [Verdict.model_validate(value).guess for value in context.inputs.values()]
    guess = before[-1] if before else number
    return (guess + number / guess) / 2


@script
def check(number: float, guess: float) -> Verdict:
    """Whether the guess is good enough; if it is not, there is another round."""
    return Verdict(passed=abs(guess * guess - number) < 1e-9, guess=guess)


class RoundVerdict(BaseModel):
    """Whether a round of code, test and audit was good enough, with the evidence for the next one."""

    passed: bool
    tests: dict[str, JsonValue]
    findings: list[str]


@script(pool="audit")
def judge(tests: dict[str, JsonValue], scan: dict[str, JsonValue]) -> RoundVerdict:
    """No test may fail, and the analysers may find nothing that is severe."""
    outcomes, found = tests["outcomes"], scan["findings"]
    assert isinstance(outcomes, dict)
    assert isinstance(found, list)
    severe = [one for one in found if isinstance(one, dict) and one["severity"] in ("high", "critical")]
    findings = [f"{one['path']}:{one['line']}: {one['title']}" for one in severe]
    green = tests["runnable"] is True and not {"failed", "error"}.intersection(map(str, outcomes.values()))
    return RoundVerdict(passed=green and not findings, tests=tests, findings=findings)


# --- gate -------------------------------------------------------------------------------------------------------------


@script
def quote_price(parcels: int) -> str:
    """What it would cost."""
    return f"{parcels * 4.9:.2f} EUR"


@script(effect="idempotent", retries=2)
def send_offer(price: str, *, idempotency_key: str) -> str:
    """What a person approved."""
    return f"offer of {price} sent under {idempotency_key[:8]}"


# --- merge ------------------------------------------------------------------------------------------------------------


@script(pool="coding")
def add_file(context: ScriptContext, name: str, text: str) -> Changed:
    """Write a file in the workspace of this attempt, and commit it."""
    workspace = context.open_workspace()
    (workspace.path / name).write_text(text)
    return Changed(commit=workspace.commit(f"Add {name}"))


@script(pool="coding")
def list_files(context: ScriptContext) -> list[str]:
    """What the workspace holds."""
    return sorted(path.name for path in context.open_workspace().path.iterdir() if path.name != ".git")


@script(pool="coding")
def read_lines(context: ScriptContext, name: str) -> list[str]:
    """The lines of a file of the workspace."""
    return (context.open_workspace().path / name).read_text().splitlines()


# --- any join ---------------------------------------------------------------------------------------------------------


@script
def ask_near() -> str:
    """Answers at once."""
    return "42, says the near one"


@script
def ask_far(seconds: float = FAR_SECONDS) -> str:
    """Takes its time; by then nobody waits for it any more."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    return "42, says the far one"


@script
def use_answer(context: ScriptContext) -> JsonValue:
    """Goes on with the first answer, the only one among its inputs."""
    return dict(context.inputs)
