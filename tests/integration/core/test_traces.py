"""A run is one trace, whichever processes work at it and whatever becomes of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import TraceFlags

from chargehand.orchestrator.plan import CeleryTask, Step, step_id
from chargehand.orchestrator.runs import new_run_id
from chargehand.orchestrator.supervisor import dispatch
from chargehand.orchestrator.task_brokers import CeleryBrokers
from chargehand.orchestrator.telemetry import span_attributes as names
from chargehand.orchestrator.telemetry import spans
from chargehand.orchestrator.telemetry.following import callers_traceparent
from chargehand.orchestrator.telemetry.otel import OtelTracer, RunIds, ids_of
from chargehand.orchestrator.telemetry.spans import RunTrace
from chargehand.workers.scripts.parameters import read_parameters
from chargehand.workers.scripts.registry import Script, ScriptContext
from chargehand.workers.tools.registry import make_tool
from tests.integration.core import agents

ROOT = Path(__file__).parents[3]
RUNS = [new_run_id() for _ in range(60)]
SECRET = "the words of a prompt"

# Works at one step, and prints the spans of this process.
OTHER = """
import json, sys
from pathlib import Path
from uuid import UUID
from tests.integration.core import test_traces as here
from tests.integration.core.conftest import House
from chargehand.orchestrator.settings import Settings
url, home, tenant, run = sys.argv[1:]
house = House(url, Settings(home=Path(home), lease_seconds=60))
house.tenant = UUID(tenant)
exporter, provider = here.in_memory()
with here.spans.followed_by(here.OtelTracer(provider)):
    house.deliver(UUID(run), "b", here.sort)
house.close()
print(json.dumps([here.told(span) for span in exporter.get_finished_spans()]))
"""


def in_memory(**options):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=RunIds(), shutdown_on_exit=False, **options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, provider


def told(span):
    return {
        "name": span.name,
        "trace": span.context.trace_id,
        "span": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "attributes": dict(span.attributes),
    }


def _sort():
    with spans.span("inner", {}):
        return [1, 2]


def as_script(function, name):
    return Script(
        name=name,
        function=function,
        effect="pure",
        timeout_seconds=60,
        pool="research",
        retries=0,
        parameters=read_parameters(function, script=name, context_type=ScriptContext),
    )


sort = as_script(_sort, "sort")


def work(key, **fields):
    return Step(key=key, kind="script", script="sort", **fields)


@pytest.fixture
def traced():
    """What this process exports."""
    exporter, provider = in_memory()
    with spans.followed_by(OtelTracer(provider)):
        yield exporter, provider


def test_a_run_of_two_processes_is_one_trace_below_one_span(house, traced, database_url):
    exporter, _ = traced
    run = house.start(work("a"), work("b", after=("a",)), goal=SECRET)
    house.deliver(run, "a", sort)
    # The first worker of the second step dies; what takes it over is another process.
    house.claim(run, "b")
    house.expire(run, "b")
    assert house.recover() == 1
    house.admit()
    elsewhere = subprocess.run(
        [sys.executable, "-c", OTHER, database_url, str(house.settings.home), str(house.tenant), str(run)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    house.advance(run)

    here, there = [told(span) for span in exporter.get_finished_spans()], json.loads(elsewhere.stdout)
    by_name = {span["name"]: span for span in here}
    trace, root = ids_of(run)
    assert {span["trace"] for span in [*here, *there]} == {trace}
    assert (by_name["run"]["span"], by_name["run"]["parent"]) == (root, None)
    assert by_name["run"]["attributes"][names.OUTCOME] == "succeeded"
    assert by_name["step sort"]["parent"] == root
    assert by_name["inner"]["parent"] == by_name["step sort"]["span"]
    (second,) = [span for span in there if span["name"] == "step sort"]
    assert second["parent"] == root
    assert second["attributes"][names.STEP] == str(step_id(run, "b"))
    assert (second["attributes"][names.EPOCH], second["attributes"][names.TAKEN_OVER]) == (2, True)
    assert second["attributes"][names.OUTCOME] == "step_succeeded"
    assert SECRET not in json.dumps([*here, *there])


def test_a_failed_step_is_an_error_without_its_words(house, traced):
    def _break():
        raise ValueError(SECRET)

    run = house.start(Step(key="a", kind="script", script="broken"))
    house.deliver(run, "a", as_script(_break, "broken"))
    (span,) = traced[0].get_finished_spans()
    assert span.status.status_code.name == "ERROR"
    assert SECRET not in span.to_json()


def test_an_agent_and_its_tools_are_spans_with_the_names_of_the_genai_conventions(house, traced):
    def look(path: str) -> str:
        """Look at a file."""
        raise LookupError(SECRET)

    def reply(call, turn):
        return [
            agents.use("look", turn, path=SECRET) if turn == 0 else agents.use("submit_answer", turn, **agents.ANSWER)
        ]

    tools = {"look": make_tool(look, effect="pure")}
    run = agents.start(house, agents.agent("a"), tools=tools)
    agents.deliver(house, agents.shop(house, reply, tools), run, "a")

    found = {span.name: told(span) for span in traced[0].get_finished_spans()}
    assert list(found) == ["execute_tool look", "invoke_agent asker", "step asker"]
    assert found["execute_tool look"]["parent"] == found["invoke_agent asker"]["span"]
    assert found["invoke_agent asker"]["parent"] == found["step asker"]["span"]
    assert found["invoke_agent asker"]["attributes"][names.OPERATION] == "invoke_agent"
    assert found["invoke_agent asker"]["attributes"][names.AGENT_NAME] == "asker"
    assert found["execute_tool look"]["attributes"] == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look",
        "gen_ai.tool.call.id": "use-0",
        "chargehand.tool.effect": "pure",
        "error.type": "LookupError",
    }
    assert SECRET not in json.dumps(list(found.values()))


def test_the_trace_of_a_program_that_submits_goes_on_in_the_run(house, traced):
    exporter, provider = traced
    with provider.get_tracer("billing").start_as_current_span("checkout") as checkout:
        run = house.start(work("a"), traceparent=callers_traceparent())
    house.deliver(run, "a", sort)
    house.advance(run)
    found = {span.name: told(span) for span in exporter.get_finished_spans()}
    assert {span["trace"] for span in found.values()} == {checkout.get_span_context().trace_id}
    assert found["run"]["parent"] == checkout.get_span_context().span_id
    assert found["step sort"]["parent"] == found["run"]["span"]


def test_a_task_of_the_users_own_app_is_told_the_trace_of_its_run(house, traced):
    _, provider = traced
    task = Step(key="pay", kind="celery_task", celery_task=CeleryTask(task="billing.refund", queue="billing"))
    with provider.get_tracer("billing").start_as_current_span("checkout") as checkout:
        header = callers_traceparent()
        run = house.start(task, traceparent=header)
    [message] = dispatch.take_due(house.supervisor, CeleryBrokers(house.settings, "memory://"), run_id=run).messages
    version, trace_id, span_id, flags = message.headers()["traceparent"].split("-")
    assert (version, int(trace_id, 16)) == ("00", checkout.get_span_context().trace_id)
    assert int(flags, 16) & TraceFlags.SAMPLED
    assert int(span_id, 16) == ids_of(run)[1], "below the run, as its steps are"
    assert message.headers().items() >= message.labels.headers().items()


def test_a_task_is_told_the_trace_of_who_submitted_where_we_export_none_and_none_where_nobody_does(house):
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    task = Step(key="pay", kind="celery_task", celery_task=CeleryTask(task="billing.refund", queue="billing"))
    runs = [house.start(task, traceparent=header), house.start(task)]
    brokers = CeleryBrokers(house.settings, "memory://")
    [theirs], [nobodys] = (dispatch.take_due(house.supervisor, brokers, run_id=run).messages for run in runs)
    assert theirs.headers()["traceparent"] == header
    assert "traceparent" not in nobodys.headers()


def test_nobody_who_follows_nothing_pays_for_it(house):
    assert not spans.is_followed()
    run = house.start(work("a"))
    asked = []
    with spans.span("step", {}, RunTrace(run_id=run, traceparent=lambda: asked.append(1))):
        pass
    assert asked == []


def test_every_process_samples_the_same_runs():
    chosen = []
    for _ in range(2):
        exporter, provider = in_memory(sampler=ParentBased(TraceIdRatioBased(0.5)))
        tracer = OtelTracer(provider)
        for run in RUNS:
            with tracer.span("step", {}, RunTrace(run_id=run)):
                pass
        chosen.append({span.context.trace_id for span in exporter.get_finished_spans()})
    assert chosen[0] == chosen[1]
    assert 15 <= len(chosen[0]) <= 45
    exporter, provider = in_memory(sampler=ParentBased(ALWAYS_OFF))
    with OtelTracer(provider).span("step", {}, RunTrace(run_id=RUNS[0])):
        pass
    assert exporter.get_finished_spans() == ()
