"""`python -m chargehand.workers.replay RUN`: a run done again from its journal, without models, tools or writes.

What a model was asked is built again from the recorded facts by the loop's own code and compared by its hash; arguments
of tool calls are checked again, and typed results are handed in again.
"""

import gc
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

from pydantic import JsonValue, ValidationError
from sqlalchemy.orm import Session

from chargehand.memory import journal, procedural
from chargehand.memory.database import APP_ROLE, open_engine
from chargehand.memory.procedural import Role
from chargehand.orchestrator import endpoints, views
from chargehand.orchestrator.episodes import Episode, continued_by, episodes
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import (
    ModelRequested,
    RunSubmitted,
    StepFact,
    StepFinished,
    StepForked,
    ToolFinished,
)
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, step_id
from chargehand.orchestrator.replay import MOST_DIVERGENCES, NOT_FOUND, Replay
from chargehand.orchestrator.retracing import Retraced, Row, facts_of, retrace
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.settings import MAX_TURNS_CEILING, load_settings
from chargehand.workers.context import READS_REPOSITORY, AgentTask, GrowingPrompt, reads_of
from chargehand.workers.conversation import Conversation, as_said, fold
from chargehand.workers.models.interface import Block
from chargehand.workers.recollection import newest
from chargehand.workers.scripts.registry import Workspace
from chargehand.workers.summary import summary_request
from chargehand.workers.tool_turn import arguments_of
from chargehand.workers.tools.catalogue import registered_tools
from chargehand.workers.tools.fetch_output import fetch_output
from chargehand.workers.tools.finish import LOOKING_OUTSIDE, finish_tool
from chargehand.workers.tools.registry import Tool, ToolContext, ToolOutput, describe_invalid, run_tool
from chargehand.workers.user_code import load_user_code

INVENTORY = "inventory"


def replay(session: Session, tenant: UUID, run_id: UUID, tools: Mapping[str, Tool]) -> Replay:
    """Do the run again from its journal; `tools`: all that are registered. Raises `NotFound`."""
    views.view_run(session, run_id)
    started = time.monotonic()
    with _without_collector():
        run = retrace(run_id, journal.scan(session, run_id))
        agents = _Agents(run=run, session=session, tenant=tenant, tools=tools)
        agents.check()
    divergences = [one.divergence for one in sorted(run.found, key=lambda one: one.at)]
    return Replay(
        run_id=run_id,
        rows=run.rows,
        streams=len(run.step_rows) + bool(run.run_rows),
        erased=len(run.erased),
        requests=agents.requests,
        tool_calls=agents.tool_calls,
        decisions=run.decisions,
        seconds=time.monotonic() - started,
        digest=run.digest,
        divergences=tuple(divergences[:MOST_DIVERGENCES]),
    )


@contextmanager
def _without_collector() -> Iterator[None]:
    """A journal in memory is a million objects in no circle, which the collector would walk again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(slots=True, kw_only=True)
class _Agents:
    """The agents of one run, each from its own stream."""

    run: Retraced
    session: Session
    tenant: UUID
    tools: Mapping[str, Tool]
    requests: int = 0
    tool_calls: int = 0
    _roles: dict[str, Role | None] = field(default_factory=dict)
    _finishes: dict[str, Tool] = field(default_factory=dict)
    _endings: dict[tuple[str, bool, bool], bytes] = field(default_factory=dict)
    _episodes: tuple[Episode, ...] | None = None

    def check(self) -> None:
        """All of them, in plan order."""
        submitted = self.run.submitted
        if submitted is None:
            return
        for identity, step in self.run.planned.items():
            rows = self.run.step_rows.get(identity, [])
            asked = next((row for row in rows if isinstance(row.fact, ModelRequested)), None)
            if step.kind == "agent" and asked is not None and not self._rests_on_erased(identity, asked):
                task = self._task(submitted, identity, step, asked)
                if task is not None:
                    self._check_step(task, rows)

    def _rests_on_erased(self, identity: UUID, asked: Row) -> bool:
        reads = asked.fact.reads if isinstance(asked.fact, ModelRequested) else ()
        keys = [read.removeprefix("result:") for read in reads if read.startswith("result:")]
        keys += [INVENTORY] if READS_REPOSITORY in reads else []
        return not self.run.erased.isdisjoint({identity, *(step_id(self.run.run_id, key) for key in keys)})

    def _task(self, submitted: RunSubmitted, identity: UUID, step: Step, asked: Row) -> AgentTask | None:
        """What the step's attempts started from, by what its first request says that it read."""
        reads = set(asked.fact.reads) if isinstance(asked.fact, ModelRequested) else set()
        role = self._role(asked, submitted.role_versions.get(step.role or "", ""))
        if role is None:
            return None
        try:
            if role.output not in self._finishes:
                self._finishes[role.output] = finish_tool(role.output)
        except KeyError:
            self.run.diverges(asked.entry, "output", expected=role.output, found="no module registers it")
            return None
        missing = sorted(set(role.tools) - self.tools.keys())
        if missing:
            self.run.diverges(asked.entry, "tools", expected=missing, found="no module registers them")
            return None
        return AgentTask(
            goal=submitted.goal,
            role=role,
            instruction=step.instruction,
            repository=self._result(INVENTORY) if READS_REPOSITORY in reads else None,
            finish=self._finishes[role.output],
            context=ToolContext(
                run_id=self.run.run_id,
                step_id=identity,
                step_key=step.key,
                arguments=step.arguments,
                inputs={key: self._result(key) for key in step.after if f"result:{key}" in reads},
                results=self._result,
                open_workspace=_open_no_workspace,
                recall=_recall_nothing,
                plan=self._plan_before(identity),
                roles=frozenset(submitted.role_versions),
            ),
            max_turns=max(1, min(step.max_turns or role.max_turns, MAX_TURNS_CEILING)),
            conversation_id=submitted.conversation_id or "",
            episodes=self._told() if any(one.startswith("episode:") for one in reads) else (),
        )

    def _role(self, asked: Row, version: str) -> Role | None:
        if version not in self._roles:
            try:
                role = procedural.role_at(self.session, tenant=self.tenant, role_hash=version)
            except (procedural.RoleNotFound, procedural.InvalidRole) as error:
                self.run.diverges(asked.entry, "role", expected=version, found=str(error))
                self._roles[version] = None
                return None
            self._roles[version] = role
            if role.blob_hash != version:
                self.run.diverges(asked.entry, f"text of role {role.name}", expected=version, found=role.blob_hash)
        return self._roles[version]

    def _told(self) -> tuple[Episode, ...]:
        if self._episodes is None:
            continued = continued_by(self.session, self.run.run_id)
            self._episodes = () if continued is None else newest(episodes(self.session, continued.runs))
        return self._episodes

    def _result(self, key: str) -> JsonValue | None:
        for row in reversed(self.run.step_rows.get(step_id(self.run.run_id, key), [])):
            if isinstance(row.fact, StepFinished):
                return row.fact.result if row.fact.outcome == "succeeded" else None
        return None

    def _plan_before(self, identity: UUID) -> Plan | None:
        """The graph that a planner extended; no other result depends on it."""
        end = self.run.step_rows[identity][-1].fact
        patch = end.patch if isinstance(end, StepFinished) else None
        if patch is None:
            return None
        added = {one.key for one in patch.add}
        return Plan(steps=tuple(one for one in self.run.planned.values() if one.key not in added))

    def _check_step(self, task: AgentTask, rows: list[Row]) -> None:
        tools = [self.tools[name] for name in task.role.tools]
        prompt = GrowingPrompt(task, tools, self._endings)
        known = {tool.name: tool for tool in (*tools, fetch_output, task.finish)}
        conversation = Conversation()
        by_tools: set[str] = set()
        for position, (row, fact) in enumerate(_with_what_was_taken_over(rows)):
            if isinstance(fact, ModelRequested):
                self._check_request(task, prompt, conversation, by_tools, row, fact)
            elif isinstance(fact, ToolFinished):
                by_tools.update(fact.reads)
                if not isinstance(row.fact, StepForked):
                    self._check_call(known, conversation, row, fact)
            elif isinstance(fact, StepFinished):
                self._check_result(task, conversation, row, fact)
            conversation = fold((fact,), onto=conversation, from_position=position)

    def _check_request(
        self,
        task: AgentTask,
        prompt: GrowingPrompt,
        conversation: Conversation,
        by_tools: set[str],
        row: Row,
        fact: ModelRequested,
    ) -> None:
        self.requests += 1
        turn = conversation.turns + 1
        if turn != fact.turn:
            self.run.diverges(row.entry, "turn", expected=fact.turn, found=turn)
        reads = reads_of(task, by_tools, conversation.view)
        if reads != fact.reads:
            self.run.diverges(row.entry, "reads", expected=fact.reads, found=reads)
        try:
            if fact.summarises:
                hashed = summary_request(task, conversation, fact.summarises).prompt_hash
            else:
                hashed = prompt.next_hash(conversation)
        except ValueError as error:
            hashed = str(error)
        if hashed != fact.prompt_hash:
            self.run.diverges(row.entry, "prompt_hash", expected=fact.prompt_hash, found=hashed)

    def _check_call(self, known: Mapping[str, Tool], conversation: Conversation, row: Row, fact: ToolFinished) -> None:
        self.tool_calls += 1
        use = _call_of(conversation, fact.tool_use_id)
        if use is None:
            self.run.diverges(row.entry, "tool_use_id", expected=fact.tool_use_id, found="no answer has such a call")
            return
        if use.get("name") != fact.tool:
            self.run.diverges(row.entry, "tool", expected=fact.tool, found=use.get("name"))
        if arguments_of(use) != fact.arguments:
            self.run.diverges(row.entry, "arguments", expected=fact.arguments, found=arguments_of(use))
        tool = known.get(fact.tool)
        if tool is None or (fact.outcome == "error" and fact.error_type != "InvalidArguments"):
            return
        try:
            tool.input_model.model_validate(use.get("input"))
        except ValidationError as error:
            if fact.error_type != "InvalidArguments":
                found = describe_invalid(tool.name, error)
                self.run.diverges(row.entry, "outcome", expected=fact.outcome, found=found)
            return
        if fact.error_type == "InvalidArguments":
            self.run.diverges(row.entry, "outcome", expected=fact.content, found="the arguments are valid")

    def _check_result(self, task: AgentTask, conversation: Conversation, row: Row, fact: StepFinished) -> None:
        """Hand the result in again, if it was the model that did; a person's is what the person said."""
        if fact.outcome != "succeeded" or fact.copied_from is not None or not conversation.exchanges:
            return
        if task.finish.name in LOOKING_OUTSIDE:
            return
        handed_in = [use for use in conversation.exchanges[-1].unresolved if use.get("name") == task.finish.name]
        if not handed_in:
            return
        context = replace(task.context, finished=conversation.tool_facts)
        given = [run_tool(task.finish, use.get("input"), context=context, idempotency_key="") for use in handed_in]
        taken = next((one for one in given if one.outcome == "ok"), None)
        if taken is None:
            self.run.diverges(row.entry, "result", expected=fact.result, found=given[-1].output.content)
            return
        if taken.output.result != fact.result:
            self.run.diverges(row.entry, "result", expected=fact.result, found=taken.output.result)
        if taken.output.patch != fact.patch:
            self.run.diverges(row.entry, "patch", expected=_dumped(fact.patch), found=_dumped(taken.output.patch))


def _with_what_was_taken_over(rows: list[Row]) -> Iterator[tuple[Row, StepFact]]:
    """Each fact with its row; those that a fork took over stand in one."""
    for row, fact in zip(rows, facts_of(rows), strict=True):
        if isinstance(fact, StepForked):
            yield from ((row, one) for one in as_said([fact]))
        else:
            yield row, fact


def _call_of(conversation: Conversation, tool_use_id: str) -> Block | None:
    uses = conversation.exchanges[-1].tool_uses if conversation.exchanges else ()
    return next((use for use in uses if str(use.get("id")) == tool_use_id), None)


def _dumped(patch: PlanPatch | None) -> JsonValue:
    return None if patch is None else patch.model_dump(mode="json")


def _open_no_workspace() -> Workspace:
    raise RuntimeError("A replay touches no workspace.")


def _recall_nothing(query: str, limit: int) -> ToolOutput:
    raise RuntimeError(f"A replay recalls nothing ({query!r}, {limit}).")


def main(name: str) -> int:
    """Print the replay of a run as JSON."""
    settings = load_settings()
    load_user_code(settings)
    engine = open_engine(endpoints.database_url(settings), role=APP_ROLE)
    try:
        # One snapshot: a run under way grows meanwhile.
        snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
        with open_session(snapshot, settings.tenant) as session:
            found = replay(session, settings.tenant, UUID(name), registered_tools())
    except NotFound as error:
        sys.stderr.write(f"{error}\n")
        return NOT_FOUND
    finally:
        engine.dispose()
    sys.stdout.write(f"\n{found.model_dump_json()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
