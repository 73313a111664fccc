"""One claim of one step while it lasts: run it, record what it came to, hand it back."""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

from pydantic import JsonValue, TypeAdapter
from pydantic_core import PydanticSerializationError
from sqlalchemy import text
from sqlalchemy.orm import Session

from chargehand.memory.git import StorageFull
from chargehand.memory.procedural import Role
from chargehand.memory.state_changes import Author
from chargehand.orchestrator.approval import APPROVE_OR_REJECT, REFUSALS, guarded, is_approved, not_approved
from chargehand.orchestrator.control import escalated_from, rounds_before
from chargehand.orchestrator.counting import NOT_COUNTED, Counted
from chargehand.orchestrator.errors import ChargehandError, Fenced, LeaseLost, NewerVersion, StepPaused, Unavailable
from chargehand.orchestrator.facts import (
    SCHEMA_VERSION,
    ModelRequested,
    SignalReceived,
    StepClaimed,
    StepFact,
    StepFinished,
    StepRecovered,
    StepReleased,
    StepWaiting,
)
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.questions import expiring, of_role, of_settings, why_ended
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.shared_views import scope_of
from chargehand.orchestrator.steps import Claim, Ended, HeldStep, new_wait_id
from chargehand.orchestrator.storable import storable, storable_json
from chargehand.orchestrator.telemetry import span_attributes as names
from chargehand.orchestrator.telemetry import spans
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.agent import AgentTask, Drained, Failed, Finished, Outcome, Wait, run_agent
from chargehand.workers.blackboard import Blackboard
from chargehand.workers.bounded import CANCELLED
from chargehand.workers.context import READS_REPOSITORY
from chargehand.workers.conversation import last_commit
from chargehand.workers.held import Held
from chargehand.workers.inputs import Gathered, RunReader
from chargehand.workers.models.router import wish
from chargehand.workers.scripts.parameters import ArgumentsDoNotFit
from chargehand.workers.scripts.registry import ScriptContext, Workspace
from chargehand.workers.shop import Shop
from chargehand.workers.tools.colleagues import COLLEAGUE_TOOLS
from chargehand.workers.tools.finish import finish_tool
from chargehand.workers.tools.registry import Colleague, ToolContext, ToolOutput
from chargehand.workers.tools.request_replan import request_replan
from chargehand.workers.workspace import Clone, open_workspace

log = logging.getLogger(__name__)

# A result lives in the journal and is read by people and agents; what is larger belongs into an artifact.
MAX_RESULT_BYTES = 4_000_000
RETRY_BASE_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0
# Between two looks at a disk that is full.
STORAGE_WAIT_SECONDS = 5.0

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
_ANYTHING: TypeAdapter[object] = TypeAdapter(object)

Delivery = Literal["go_on", "stop", "again"]
"""Whether the Celery chain that brought the message goes on to its next link, or the message itself is needed again."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One claim of one step while it lasts."""

    shop: Shop
    held: HeldStep
    lost: threading.Event = field(default_factory=threading.Event)
    clones: list[Clone] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    inherited_commit: str | None = None
    """What predecessors have made of the workspace; passed on by a step that does not edit."""
    has_spoken: bool = False
    """It has said what it is doing."""
    role: Role | None = None
    """Of an agent, once it is known."""
    may_repeat: bool = False
    """A person said that an effect of unknown outcome may happen again."""

    @property
    def claim(self) -> Claim:
        """The claim that all writes carry."""
        return self.held.claim

    def run(self) -> Delivery:
        """Gather, run, record."""
        reader = RunReader(self.shop.engine, self.claim.tenant, self.claim.run_id)
        return self.guarded(lambda: self.record(self.outcome(reader, reader.gather(self.claim.step))))

    def guarded(self, act: Callable[[], Delivery]) -> Delivery:
        """What `act` gives; what a lease, a drain or an outage interrupts is left in order."""
        try:
            return act()
        except Drained:
            paused = self._paused()
            if paused is None:
                return self.hand_back(StepReleased(reason="drain"))
            return self.hand_back(StepReleased(reason="pause", detail=paused.why))
        except StepPaused:
            return self.hand_back(StepReleased(reason="pause"))
        except NewerVersion as newer:
            # Of what it reads: nobody claims a step whose own stream is newer.
            return self.hand_back(StepReleased(reason="foreign", detail=str(newer)), needs=newer.version)
        except StorageFull as full:
            # Somebody has to make room, and the step is not to blame: no retry of its own, and no wait of an agent's.
            room = StepReleased(reason="storage", detail=str(full), run_after_seconds=STORAGE_WAIT_SECONDS)
            return self.hand_back(room)
        except Fenced as fenced:
            log.warning("fenced", extra={**self._fields(), "why": str(fenced)})
            return "stop"
        except Unavailable as outage:
            # Nothing can be recorded now: the lease runs out and the step is taken up where its journal ends.
            log.warning("outage", extra={**self._fields(), "why": str(outage)})
            return "stop"

    def outcome(self, reader: RunReader, gathered: Gathered) -> Outcome:
        """What the step came to; a mistake of ours fails it with its reason instead of passing for a crash.

        Nothing is recorded yet but what an agent does. Raises `Fenced`, `Unavailable`, `Drained`, `NewerVersion`
        and `StorageFull`.
        """
        if gathered.workspace is not None and gathered.start_commit != gathered.workspace.commit:
            self.inherited_commit = gathered.start_commit
        # What runs in a sandbox or under limits meanwhile is killed once the step is not ours any more.
        inherited = CANCELLED.set(self.lost.is_set)
        try:
            return self._decided_by_signal() or self._not_approved(reader, gathered) or self._outcome(reader, gathered)
        except (Fenced, Unavailable, Drained, NewerVersion, StorageFull):
            raise
        except Exception as error:
            log.exception("step broke", extra=self._fields())
            return Failed(error=f"{type(error).__name__}: {error}")
        finally:
            CANCELLED.reset(inherited)

    def begin(self) -> None:
        """Keep the lease from now on."""
        self.shop.heartbeat.hold(self.claim.step_id, self.claim.epoch, self.lost.set)

    def end(self) -> None:
        """Let go of the lease, and remove what nobody reads any more."""
        self.shop.heartbeat.drop(self.claim.step_id, self.claim.epoch)
        for clone in self.clones:
            clone.close()
        if self.has_spoken:
            self.shop.progress.clear(self.claim.run_id, self.claim.step.key)

    # --- run ----------------------------------------------------------------------------------------------------------

    def _outcome(self, reader: RunReader, gathered: Gathered) -> Outcome:
        if self.claim.step.kind == "script":
            return self._run_script(reader, gathered)
        if self.claim.step.kind == "agent":
            return self._run_agent(reader, gathered)
        return Failed(error=f"Steps of kind {self.claim.step.kind!r} are not run by workers of this version.")

    def _run_script(self, reader: RunReader, gathered: Gathered) -> Outcome:
        if self._paused() is not None:
            raise Drained("The fleet is paused; the step goes on later.")
        step = self.claim.step
        script = self.shop.scripts.get(step.script or "")
        if script is None:
            known = f"{', '.join(sorted(self.shop.scripts))}.{self.shop.not_loaded()}"
            return Failed(error=f"Step {step.key!r} names unknown script {step.script!r}; known: {known}")
        if script.effect == "effectful" and self.claim.taken_over and not self.may_repeat:
            return Wait(
                reason="human",
                question=f"The worker died while script {script.name!r} ran, and it cannot be told whether its effect "
                "happened. retry: run it again; skip: go on without a result; override: give the result; abort: fail.",
                options=("retry", "skip", "override", "abort"),
                evidence=(f"{self.claim.step_id}:{self.claim.seq}",),
            )
        context = ScriptContext(
            tenant=self.claim.tenant,
            run_id=self.claim.run_id,
            step_id=self.claim.step_id,
            step_key=step.key,
            goal=gathered.goal,
            inputs=gathered.inputs,
            results=reader.result,
            open_workspace=self._workspace_opener(gathered),
            put_artifact=self._put_artifact,
            report_progress=self._say,
            idempotency_key=str(self.claim.step_id),
            open_session=self._fenced_session,
            embedder=self.shop.embedder,
            workspace=gathered.workspace,
            step_keys=reader.step_keys,
            account=reader.account,
            commits=gathered.commits,
            blackboard=self._blackboard(),
        )
        try:
            value = script.run(context, step.arguments)
            result = _as_json(value)
        except (Fenced, Unavailable, NewerVersion, StorageFull):
            raise
        except ArgumentsDoNotFit as error:
            return Failed(error=str(error))
        except Exception as error:
            log.exception("script failed", extra=self._fields())
            return self._after_failure(f"{type(error).__name__}: {error}")
        # Only who has opened the workspace can have moved it: a user's result may have a `commit` of its own.
        return Finished(result=result, commit=_commit_of(value) if self.clones else None)

    def _after_failure(self, error: str) -> Outcome:
        if self.claim.retries >= self.claim.step.retries:
            return Failed(error=error)
        seconds = min(RETRY_BASE_SECONDS * 2.0**self.claim.retries, RETRY_CAP_SECONDS)
        return Wait(reason="retry", question=error, run_after_seconds=random.uniform(0.5, 1.0) * seconds)

    def _run_agent(self, reader: RunReader, gathered: Gathered) -> Outcome:
        step = self.claim.step
        role_hash = gathered.role_versions.get(step.role or "")
        if role_hash is None:
            return Failed(error=f"Step {step.key!r} has role {step.role!r}, which the run did not pin.")
        role = reader.role(role_hash)
        self.role = role
        wanted = wish(
            role.name,
            role.tier,
            step=(step.tier, step.model),
            run=gathered.wished,
            role_models=self.shop.settings.role_models,
        )
        plan = gathered.plan.steps if gathered.plan is not None else ()
        before = escalated_from(step, plan)
        role = replace(role, tier=wanted.tier)
        try:
            finish = finish_tool(role.output)
        except KeyError:
            return Failed(
                error=f"Role {role.name!r} ends with {role.output!r}, which this worker does not know; name the module "
                f"that registers it in CHARGEHAND_MODULES, or an entry point of its package.{self.shop.not_loaded()}"
            )
        unknown = [name for name in role.tools if name not in self.shop.tools]
        if unknown and self.shop.broken_packages:
            return Failed(error=f"Role {role.name!r} names unknown tool {unknown[0]!r}.{self.shop.not_loaded()}")
        recorder = self._recorder(counted=gathered.counted)
        gathered = _as_read_before(recorder.history, gathered)
        continued = gathered.continued
        task = AgentTask(
            goal=gathered.goal,
            role=role,
            instruction=step.instruction,
            repository=gathered.repository,
            conversation_id=continued.conversation_id if continued is not None else "",
            episodes=reader.recall(continued, self.shop.recollection) if continued is not None else (),
            finish=finish,
            context=ToolContext(
                run_id=self.claim.run_id,
                step_id=self.claim.step_id,
                step_key=step.key,
                arguments=step.arguments,
                inputs=gathered.inputs,
                results=reader.result,
                open_workspace=self._workspace_opener(gathered, resume_from=last_commit(recorder.history)),
                recall=self._recall,
                plan=gathered.plan,
                roles=frozenset(gathered.role_versions),
                scripts=frozenset(self.shop.scripts),
                colleagues=_colleagues(reader, gathered) if COLLEAGUE_TOOLS.intersection(role.tools) else {},
                ask_seconds=self.shop.settings.ask_seconds,
                statuses=gathered.statuses,
                replans=reader.replans() if request_replan.name in role.tools else 0,
                blackboard=self._blackboard(),
            ),
            window_tokens=self.shop.settings.window_tokens,
            max_turns=step.max_turns or role.max_turns or self.shop.settings.max_turns,
            on_budget=gathered.on_budget,
            model=wanted.model,
            routed_by=wanted.by if before is None else f"escalated from {before} (unsure)",
            urgent=step.urgent,
            cache_scope=str(self.claim.tenant),
            refuted=rounds_before(step, plan),
        )
        attributes = {
            names.OPERATION: names.INVOKE_AGENT,
            names.AGENT_NAME: role.name,
            names.AGENT_ID: role_hash,
            names.CONVERSATION: task.conversation_id or str(self.claim.run_id),
        }
        with spans.span(f"{names.INVOKE_AGENT} {role.name}", attributes):
            return self._run_agent_loop(task, recorder)

    def _run_agent_loop(self, task: AgentTask, recorder: StepRecorder) -> Outcome:
        try:
            return run_agent(
                task,
                recorder=recorder,
                models=self.shop.models,
                batches=self.shop.batches,
                tools=self.shop.tools,
                should_stop=lambda: self.shop.stopping.is_set() or self.lost.is_set() or self._paused() is not None,
                holds=self.shop.holds,
                used_percent=self._used_percent,
                # A streamed call costs twice the CPU of a plain one: only where somebody looks.
                on_delta=self._show_delta if self.shop.progress.is_watched(self.claim.run_id) else None,
            )
        finally:
            recorder.let_go()

    def _used_percent(self) -> int:
        thrift = self.shop.thrift
        return thrift.used_percent(self.claim.tenant, self.claim.run_id) if thrift is not None else 0

    def _paused(self) -> Held | None:
        """Why a step like this one must not go on now."""
        role = self.claim.step.role
        return self.shop.holds.role(role) if role is not None else self.shop.holds.everything()

    def _show_delta(self, piece: str) -> None:
        words = " ".join(piece.split())
        if words:
            self._say(words)

    def _say(self, line: str) -> None:
        self.has_spoken = True
        self.shop.progress.say(self.claim.run_id, self.claim.step.key, line)

    def _decided_by_signal(self) -> Outcome | None:
        """What a person answered to a step that is not an agent's; an agent's loop reads its own signals."""
        if self.claim.wait_id is None:
            return self._decided_before()
        signal = self.held.fold_signal(self.claim.wait_id)
        if signal is None or self.claim.step.kind == "agent":
            return None
        self.may_repeat = signal.choice == "retry"
        return _obey(signal)

    def _not_approved(self, reader: RunReader, gathered: Gathered) -> Outcome | None:
        """A question, when gates before the step have not approved exactly what it is given now; None: they have.

        What a person answers to it counts for these arguments only, and for this step.
        """
        if not gathered.approvals:
            return None
        shown = guarded(
            self.claim.step,
            results=reader.result,
            inputs={key: value for key, value in gathered.inputs.items() if key not in gathered.gates},
            commits={key: commit for key, commit in gathered.commits.items() if key not in gathered.gates},
        )
        if is_approved(shown, gathered.approvals):
            return None
        asked: UUID | None = None
        for fact in self._recorder().history:
            if isinstance(fact, StepWaiting) and [one.hash for one in fact.guards] == [shown.hash]:
                asked = fact.wait_id
            elif isinstance(fact, SignalReceived) and fact.wait_id == asked:
                return Failed(error=why_ended(fact)) if fact.choice in REFUSALS else None
        question = not_approved(shown, gathered.approvals)
        return Wait(reason="gate", question=question, options=APPROVE_OR_REJECT, guards=(shown,))

    def _recorder(self, *, counted: Counted = NOT_COUNTED) -> StepRecorder:
        lease_seconds = self.shop.settings.lease_seconds
        return StepRecorder(self.shop.connections, self.held, lease_seconds=lease_seconds, counted=counted)

    def _decided_before(self) -> Outcome | None:
        """What a person decided when the attempt that had heard it died before it could obey.

        "retry" is none of it: that attempt may have repeated the effect, and a person is asked again.
        """
        if self.claim.step.kind == "agent" or not self.claim.taken_over:
            return None
        recorder = self._recorder()
        for fact in reversed(recorder.history):
            if isinstance(fact, SignalReceived):
                return _obey(fact)
            if not isinstance(fact, StepClaimed | StepReleased | StepRecovered):
                return None
        return None

    # --- record -------------------------------------------------------------------------------------------------------

    def success(self, outcome: Finished) -> StepFinished:
        """The fact that ends the step."""
        return StepFinished(
            outcome="succeeded",
            result=outcome.result,
            commit=outcome.commit or self.inherited_commit,
            artifacts=self.artifacts,
            patch=outcome.patch,
        )

    def record(self, outcome: Outcome) -> Delivery:
        """Write what the step came to, and ring for what follows."""
        match outcome:
            case Finished():
                return self._finish(self.success(outcome))
            case Failed():
                error = storable(outcome.error)
                return self._finish(StepFinished(outcome="failed", error=error, artifacts=self.artifacts))
            case Wait(reason="retry") if self.claim.step.kind == "script":
                return self.hand_back(
                    StepReleased(
                        reason="retry",
                        detail=storable(outcome.question),
                        run_after_seconds=outcome.run_after_seconds or 0.0,
                    )
                )
            case Wait():
                asked = StepWaiting(
                    wait_id=new_wait_id(),
                    reason=outcome.reason,
                    question=storable(outcome.question),
                    options=outcome.options,
                    evidence=outcome.evidence,
                    child=outcome.child,
                    tool_use_id=outcome.tool_use_id,
                    guards=outcome.guards,
                    cause=outcome.cause,
                    wants_fix=outcome.wants_fix,
                )
                policies = (
                    self.claim.step.expires,
                    of_role(self.role),
                    outcome.expires,
                    of_settings(self.shop.settings),
                )
                self.held.wait(expiring(asked, *policies), after_seconds=outcome.run_after_seconds)
                log.info("step waits", extra={**self._fields(), "reason": outcome.reason})
                if outcome.child is not None:
                    # A supervisor appends the colleague; whoever asks a person has nothing to wait for from it.
                    self.shop.ring(self.claim.run_id)
                return "stop"

    def _finish(self, fact: StepFinished) -> Delivery:
        ended: Ended = self.held.finish(fact)
        log.info("step finished", extra={**self._fields(), "outcome": fact.outcome})
        if fact.outcome != "succeeded":
            self.shop.ring(self.claim.run_id)
            return "stop"
        # The chain's own next link was queued by the same commit; whatever else may start now is a supervisor's to see.
        if not ended.next_queued and self.held.a_join_is_open():
            self.shop.ring(self.claim.run_id)
        return "go_on"

    def hand_back(self, fact: StepReleased, *, needs: int = SCHEMA_VERSION) -> Delivery:
        """Let go of the step unfinished; `needs`: the schema version of whoever may take it up."""
        try:
            self.held.release(fact, needs=needs)
        except Fenced as fenced:
            log.info("nothing to hand back", extra={**self._fields(), "why": str(fenced)})
            return "stop"
        log.info("step handed back", extra={**self._fields(), "reason": fact.reason})
        self.shop.ring(self.claim.run_id)
        return "stop"

    # --- what scripts and tools are given -----------------------------------------------------------------------------

    def _workspace_opener(self, gathered: Gathered, *, resume_from: str | None = None) -> Callable[[], Workspace]:
        def opened() -> Workspace:
            if self.clones:
                return self.clones[0]
            start = resume_from or gathered.start_commit
            if gathered.workspace is None or start is None:
                raise ChargehandError("This run has no workspace; submit it with one.")
            clone = open_workspace(
                self.shop.artifacts.repository(self.claim.run_id),
                self.shop.workspaces,
                run_id=self.claim.run_id,
                step_id=self.claim.step_id,
                epoch=self.claim.epoch,
                commit=start,
                base_commit=gathered.workspace.commit,
            )
            self.clones.append(clone)
            return clone

        return opened

    def _put_artifact(self, name: str, content: bytes) -> str:
        digest = self.shop.artifacts.put(content)
        self.artifacts[name] = digest
        return digest

    @contextmanager
    def _fenced_session(self) -> Iterator[Session]:
        """One transaction that writes only while this attempt holds the step."""
        with self.shop.long_sessions, open_session(self.shop.engine, self.claim.tenant) as session:
            yield session
            # At the end, so that nothing long holds the lock; in the same transaction, so that it decides.
            mine = session.execute(
                text(
                    "SELECT 1 FROM steps WHERE id = :step AND epoch = :epoch AND status = 'running' FOR NO KEY UPDATE"
                ),
                {"step": self.claim.step_id, "epoch": self.claim.epoch},
            ).one_or_none()
            if mine is None:
                raise LeaseLost(f"Step {self.claim.step.key!r} is not this worker's any more; nothing was written.")

    def _blackboard(self) -> Blackboard:
        claimed = self.claim
        return Blackboard(
            open_session=self._fenced_session,
            tenant=claimed.tenant,
            scope=scope_of(claimed.run_id),
            author=Author(run=claimed.run_id, step=claimed.step_id, step_key=claimed.step.key, epoch=claimed.epoch),
            redlock=self.shop.redlock,
        )

    def _recall(self, query: str, limit: int) -> ToolOutput:
        with self.shop.long_sessions, open_session(self.shop.engine, self.claim.tenant) as session:
            return self.shop.recall(session, self.claim.tenant, self.claim.run_id, query, limit)

    def _fields(self) -> dict[str, object]:
        claimed = self.claim
        return {"run_id": str(claimed.run_id), "step": claimed.step.key, "epoch": claimed.epoch}


def _colleagues(reader: RunReader, gathered: Gathered) -> dict[str, Colleague]:
    roles = {name: reader.role(version) for name, version in gathered.role_versions.items()}
    return {name: Colleague(pool=role.pool, output=role.output) for name, role in roles.items() if role.pool in POOLS}  # type: ignore[arg-type]


def _as_read_before(history: Sequence[StepFact], gathered: Gathered) -> Gathered:
    """What an agent was given when it was first asked: other steps may have ended since, its prompt stays the same."""
    asked = next((fact for fact in history if isinstance(fact, ModelRequested)), None)
    if asked is None:
        return gathered
    return replace(
        gathered,
        inputs={key: value for key, value in gathered.inputs.items() if f"result:{key}" in asked.reads},
        repository=gathered.repository if READS_REPOSITORY in asked.reads else None,
    )


def _obey(signal: SignalReceived) -> Outcome | None:
    match signal.choice:
        case "abort":
            return Failed(error=why_ended(signal))
        case "skip":
            return Finished(result=None)
        case "override":
            return Finished(result=signal.body)
        case _:
            return None


def _as_json(value: object) -> JsonValue:
    try:
        plain = storable_json(_JSON.validate_python(_ANYTHING.dump_python(value, mode="json")))
        size = len(_JSON.dump_json(plain))
        if size > MAX_RESULT_BYTES:
            raise TypeError(
                f"The script's result has {size:,} bytes, at most {MAX_RESULT_BYTES:,} are kept; "
                "keep it with context.put_artifact and return its name."
            )
        return plain
    except PydanticSerializationError as error:
        raise TypeError(
            f"The script gave a {type(value).__name__}, which JSON cannot hold; return a pydantic model, a dataclass "
            "or JSON values."
        ) from error


def _commit_of(value: object) -> str | None:
    """A script that moved its workspace says where it ended."""
    commit = getattr(value, "commit", None)
    return commit if isinstance(commit, str) and commit else None
