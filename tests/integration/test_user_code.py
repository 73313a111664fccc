"""A program's own scripts, role, tool and gate, run by real worker processes that import them by name."""

import importlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chargehand import Client, Plan, RunFailed, Settings, gate, map_over, role
from chargehand.orchestrator.facts import ToolFinished
from chargehand.orchestrator.laptop.ground import free_port
from chargehand.orchestrator.laptop.processes import Processes
from chargehand.orchestrator.laptop.services import Endpoints, Valkey
from chargehand.orchestrator.laptop.specs import Ports, process_specs
from chargehand.orchestrator.plan import Step, step_id

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_SECONDS = 60.0

SHOP = '''
"""A user's module, beside the example: results of every kind, and what can go wrong."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from chargehand import ScriptContext, script


@dataclass
class Line:
    price: Decimal
    day: date
    commit: str = "not one of git"


@script(name="shop.line", pool="research")
def line(price: Decimal, day: date) -> Line:
    assert isinstance(price, Decimal) and isinstance(day, date)
    return Line(price=price, day=day)


@script(name="shop.total")
def total(context: ScriptContext, lines: list[Line], first: Line, label: str = "total") -> dict[str, object]:
    assert all(isinstance(line, Line) for line in lines)
    context.report_progress("adding")
    return {"label": label, "sum": sum(line.price for line in lines), "first": first.day, "step": context.step_key}


@script(name="shop.shelves")
def shelves() -> list[str]:
    return ["A\\0", "B\\udcff"]


@script(name="shop.shelf")
def shelf(name: str) -> str:
    return name


@script(name="shop.misread")
def misread() -> str:
    raise FileNotFoundError("No such file: 'caf\\udce9\\0'")


@script(name="shop.unspeakable")
def unspeakable() -> object:
    return object()
'''

ROLE = """---
name: stray
description: Ends with something that no worker knows.
pool: research
tier: small
tools: [{tools}]
output: {output}
---
Do it.
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the user's modules, on the path of this process and of the workers."""
    folder = tmp_path_factory.mktemp("program")
    folder.chmod(0o755)
    (folder / "shop.py").write_text(SHOP)
    sys.path[:0] = [str(folder), str(EXAMPLES)]
    yield folder
    sys.path.remove(str(folder))
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def shop(program: Path) -> ModuleType:
    return importlib.import_module("shop")


@pytest.fixture(scope="module")
def refunds(program: Path) -> ModuleType:
    return importlib.import_module("refunds")


@pytest.fixture(scope="module")
def client(
    database_url: str,
    valkey: Valkey,
    program: Path,
    scripted_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    """A client of a supervisor and two pools; research asks the offline model, audit the scripted one."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(
        home=home,
        key_prefix=f"user-{os.getpid()}",
        small_model="offline-rules-1",
        medium_model="offline-rules-1",
        large_model="offline-rules-1",
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("CHARGEHAND", "ANTHROPIC"))
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(program), str(EXAMPLES)])
    endpoints = Endpoints(database_url=database_url, redis_url=valkey.url)
    ports = Ports(flower=free_port(), offline=free_port(), api=free_port())
    own = {"CHARGEHAND_MODULES": json.dumps(["refunds", "shop"])}
    scripted = {"audit": {"ANTHROPIC_BASE_URL": scripted_model}}
    specs = [
        replace(spec, environment={**spec.environment, **own, **scripted.get(spec.name, {})})
        for spec in process_specs(settings, endpoints, ports=ports, environment=environment)
        if spec.name in {"offline", "supervisor", "research", "audit"}
    ]
    (home / "logs").mkdir()
    processes = Processes(logs=home / "logs", cwd=home, progress=print)
    try:
        processes.start(specs)
        with Client(database_url, valkey.url, settings=settings) as client:
            yield client
    finally:
        processes.stop(grace_seconds=5)


class ScriptedModel(BaseHTTPRequestHandler):
    """A server of Messages that calls a program's tool first and then ends with what the tool gave."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        results = [
            block
            for message in request["messages"]
            for block in message["content"]
            if isinstance(block, dict) and block["type"] == "tool_result"
        ]
        call = (
            {"name": "submit_result", "input": {"decision": "refuse", "reason": results[0]["content"]}}
            if results
            else {"name": "open_ticket", "input": {"title": "Two notes"}}
        )
        message = {
            "id": f"msg_{len(results)}",
            "type": "message",
            "role": "assistant",
            "model": request["model"],
            "content": [{"type": "tool_use", "id": f"toolu_{len(results)}", **call}],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 10},
        }
        body = json.dumps(message).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def scripted_model() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), ScriptedModel) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def failure(client: Client, plan: Plan, **submitted: Any) -> str:
    """The error of the step that fails the run."""
    run = client.submit(plan=plan, **submitted)
    with pytest.raises(RunFailed):
        run.wait(timeout_seconds=RUN_SECONDS)
    return next(step.error for step in run.steps() if step.status == "failed")


def test_a_programs_plan_waits_for_its_gate_and_ends_with_its_own_result(
    client: Client, refunds: ModuleType, wait_until: Any
) -> None:
    plan = refunds.refund_plan(7)
    run = client.submit(plan=plan, roles=plan.roles)
    wait_until(lambda: client.escalations(run.run_id), RUN_SECONDS, "the gate did not open")
    [asked] = client.escalations(run.run_id)

    assert (asked.question, asked.options) == ("Refund order 7?", ("approve", "reject"))
    assert client.answer(asked, "approve")
    receipt = run.wait(timeout_seconds=RUN_SECONDS)

    # The offline model decides nothing for roles it has no rules for.
    assert receipt == {
        "order_id": 7,
        "cents": 4990,
        "payment_key": str(step_id(run.run_id, "pay")),
        "verdict": "unsure",
    }
    assert [step.key for step in run.steps()] == ["load", "refund_triager", "gate", "pay"]


def test_a_rejected_gate_keeps_what_comes_after_it_from_running(
    client: Client, refunds: ModuleType, wait_until: Any
) -> None:
    plan = refunds.refund_plan(8)
    run = client.submit(plan=plan, roles=plan.roles)
    wait_until(lambda: client.escalations(run.run_id), RUN_SECONDS, "the gate did not open")

    client.answer(client.escalations(run.run_id)[0], "reject")

    with pytest.raises(RunFailed):
        run.wait(timeout_seconds=RUN_SECONDS)
    assert {step.key: step.status for step in run.steps()}["pay"] not in {"succeeded", "failed", "running"}


def test_a_programs_tool_is_called_with_a_key_of_its_own(client: Client, refunds: ModuleType, tmp_path: Path) -> None:
    text = (EXAMPLES / "roles" / "refund_triager.md").read_text()
    (tmp_path / "auditor.md").write_text(
        text.replace("name: refund_triager", "name: refund_auditor").replace("pool: research", "pool: audit")
    )
    auditor = role(tmp_path / "auditor.md", output=refunds.Verdict, tools=[refunds.open_ticket])

    run = client.submit(plan=Plan(auditor.step("Look closely")), roles=[auditor])
    verdict = run.wait(timeout_seconds=RUN_SECONDS)

    called = next(event.fact for event in run.events(follow=False) if isinstance(event.fact, ToolFinished))
    assert (called.tool, called.outcome) == ("open_ticket", "ok")
    assert re.fullmatch(r'{"number":"Two notes-[0-9a-f]{8}"}', called.content)
    assert isinstance(verdict, dict)
    assert verdict["decision"] == "refuse"
    assert called.content in str(verdict["reason"])


def test_results_are_handed_on_in_the_types_of_the_parameters(client: Client, shop: ModuleType) -> None:
    first = shop.line.step("1.10", "2026-11-24").set(key="first")
    second = shop.line.step(price=2, day="2026-11-25")

    result = client.submit(plan=Plan(shop.total.step(lines=[first, second]))).wait(timeout_seconds=RUN_SECONDS)

    assert result == {"label": "total", "sum": "3.10", "first": "2026-11-24", "step": "shop.total"}


def test_a_script_that_raises_fails_its_step_with_its_words(client: Client, refunds: ModuleType) -> None:
    assert "There is no order 9; there are: 7, 8." in failure(client, Plan(refunds.load.step(9)))


def test_words_that_postgres_cannot_hold_fail_the_step_once_with_what_can_be_held_of_them(
    client: Client, shop: ModuleType
) -> None:
    """Python names a file that is not UTF-8 with half a surrogate pair; the script is not run again for that."""
    run = client.submit(plan=Plan(shop.misread.step()))
    with pytest.raises(RunFailed, match=r"No such file: 'caf\\udce9\u2400'"):
        run.wait(timeout_seconds=RUN_SECONDS)
    assert [event.kind for event in run.events(follow=False)].count("step.claimed") == 1


def test_a_map_goes_over_names_that_postgres_cannot_hold(client: Client, shop: ModuleType) -> None:
    plan = Plan(map_over(shop.shelves.step(), lambda name: shop.shelf.step(name=name)))
    assert client.submit(plan=plan).wait(timeout_seconds=RUN_SECONDS) == ["A\u2400", "B\\udcff"]


def test_a_result_that_json_cannot_hold_fails_the_step(client: Client, shop: ModuleType) -> None:
    assert "gave a object, which JSON cannot hold; return a pydantic model" in failure(
        client, Plan(shop.unspeakable.step())
    )


def test_arguments_that_do_not_fit_fail_the_step(client: Client) -> None:
    """What a planner writes is not checked by the builder."""
    wrong = Step(key="a", kind="script", script="shop.line", arguments={"price": "dear", "day": "2026-11-24"})

    assert "Parameter 'price' of script 'shop.line'" in failure(client, Plan(steps=[wrong]))


def test_a_role_whose_output_no_worker_knows_fails_its_step(client: Client, tmp_path: Path) -> None:
    (tmp_path / "stray.md").write_text(ROLE.format(output="mystery", tools=""))
    stray = role(tmp_path / "stray.md")

    error = failure(client, Plan(stray.step("Try")), roles=[stray])

    assert "ends with 'mystery', which this worker does not know" in error
    assert "CHARGEHAND_MODULES" in error


def test_a_role_with_a_tool_that_no_worker_knows_fails_its_step(client: Client, tmp_path: Path) -> None:
    (tmp_path / "stray.md").write_text(ROLE.format(output="verdict", tools="teleport"))
    stray = role(tmp_path / "stray.md")

    error = failure(client, Plan(stray.step("Try")), roles=[stray])

    assert "unknown tool 'teleport'" in error
    assert "open_ticket" in error


def test_a_gate_alone_is_a_plan(client: Client, wait_until: Any) -> None:
    run = client.submit(plan=Plan(gate("Shall we?", options=("left", "right"))))
    wait_until(lambda: client.escalations(run.run_id), RUN_SECONDS, "the gate did not open")

    client.answer(client.escalations(run.run_id)[0], "left", body={"miles": 3})

    assert run.wait(timeout_seconds=RUN_SECONDS) == {"choice": "left", "body": {"miles": 3}}
