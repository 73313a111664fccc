"""The billing app without Chargehand: `python -m pytest examples/billing/tests`."""

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from billing.ledger import Ledger
from billing.plan import refund_plan

APP = Path(__file__).parents[1] / "billing" / "app.py"


def test_a_key_pays_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "books.sqlite")
    first = ledger.pay("one", 7, 4_990)
    assert ledger.pay("one", 7, 4_990) == first
    ledger.pay("two", 7, 4_990)
    assert [key for key, _, _ in ledger.payments()] == ["one", "two"]


def test_the_plan_names_tasks_that_the_app_has() -> None:
    named = {step.celery_task.task for step in refund_plan(7).steps if step.celery_task is not None}
    known = {
        keyword.value.value
        for call in ast.walk(ast.parse(APP.read_text()))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant)
    }
    assert named == known
