"""What people said in a run and what its agents concluded, each with whose word it is and what it rests on.

Read from the run's journal alone, so that it is the same whoever asks, and empty once the run was erased.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.beliefs import Trust
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.facts import (
    AnyFact,
    ModelRequested,
    RunSubmitted,
    RunTold,
    SignalReceived,
    StepFinished,
    StepForked,
    StepWaiting,
    ToolFinished,
    parse_fact,
)
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.questions import EXPIRY
from chargehand.orchestrator.tables import RunRow, StepRow

# What a small model reads in one go; what is beyond was said first or matters less.
MAX_STATEMENTS = 60
MAX_CHARACTERS = 2_000
MAX_CHARACTERS_IN_ALL = 24_000
# What these say is about the run, not about the world.
OF_THE_RUN = frozenset({"planner", "replanner", "chooser", "writer", "extractor", "arbiter"})
# Tools that bring in nothing which an outsider wrote; a recalled memory carries a trust of its own.
CLEAN_TOOLS = frozenset({"ask_person", "delegate", "hand_off", "recall", "request_replan"})
FINISH_PREFIX = "submit_"
NOT_PEOPLE = frozenset({EXPIRY, "colleague"})
# Arguments of tools that name what was read.
PLACES = ("path", "url", "file", "source")
# What a person who speaks so wants to be true tomorrow too.
_LASTING = re.compile(
    r"\b(remember|from now on|always|never|in future|in the future|prefer|note that|our (policy|rule|convention)|"
    r"do not ever|must not|make sure)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_READ_KINDS = (
    "run.submitted",
    "run.told",
    "step.finished",
    "step.forked",
    "step.waiting",
    "signal.received",
    "model.requested",
    "tool.finished",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One thing that was said."""

    id: str
    """`s1`, `s2`, … in this run."""
    text: str
    trust: Trust
    tool: str
    """What it came by: `goal`, `tell`, `answer`, or the finish tool's role."""
    step_id: UUID | None = None
    role_version: str | None = None
    memories: tuple[UUID, ...] = ()
    """What was recalled on the way to it."""
    rests_on: tuple[str, ...] = ()
    """What was read on the way to it."""
    lasting: str = ""
    """The sentences that are meant to hold beyond the run, by their own words; only of a person."""


@dataclass(kw_only=True, slots=True)
class _Touched:
    """What one step has read."""

    memories: set[UUID] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    tainted: bool = False


def statements_of(session: Session, run_id: UUID) -> tuple[Statement, ...]:
    """What was said in the run: people first, then its agents in plan order; as much as a small model reads at once."""
    run = session.get(RunRow, run_id)
    if run is None:
        return ()
    rows = session.scalars(select(StepRow).where(StepRow.run == run_id).order_by(StepRow.ordinal)).all()
    streams: dict[UUID, list[AnyFact]] = defaultdict(list)
    for entry in journal.read(session, run_id, kinds=_READ_KINDS):
        if entry.body is not None:
            streams[entry.step].append(parse_fact(entry.body, schema_version=entry.schema_version))
    steps = {row.id: Step.model_validate(row.spec) for row in rows}
    counting = [row.id for row in rows if row.status == "succeeded"]
    said = [*_of_people(streams, steps)]
    said += _of_agents(streams, steps, counting, versions=run.role_versions)
    return _bounded(said)


def lasting_sentences(text: str) -> str:
    """The sentences by which a person says how things are to be from now on."""
    return " ".join(one.strip() for one in _SENTENCE.split(text) if _LASTING.search(one))


def _of_people(streams: Mapping[UUID, Sequence[AnyFact]], steps: Mapping[UUID, Step]) -> list[Statement]:
    said: list[Statement] = []

    def says(text: str, tool: str, step_id: UUID | None = None, lasting: str = "") -> None:
        if text.strip():
            said.append(Statement(id="", text=text, trust="person", tool=tool, step_id=step_id, lasting=lasting))

    for fact in streams[RUN_STREAM]:
        if isinstance(fact, RunSubmitted):
            says(fact.goal, "goal", lasting=lasting_sentences(fact.goal))
        elif isinstance(fact, RunTold):
            says(fact.message, "tell", lasting=lasting_sentences(fact.message))
    for step_id in steps:
        questions: dict[UUID, str] = {}
        for fact in streams[step_id]:
            if isinstance(fact, StepWaiting):
                questions[fact.wait_id] = fact.question
            elif isinstance(fact, SignalReceived) and fact.by not in NOT_PEOPLE and isinstance(fact.body, str):
                answered = f"Asked: {questions.get(fact.wait_id, '')}\nAnswered: {fact.body}"
                says(answered, "answer", step_id, lasting=lasting_sentences(fact.body))
    return said


def _of_agents(
    streams: Mapping[UUID, Sequence[AnyFact]],
    steps: Mapping[UUID, Step],
    counting: Sequence[UUID],
    *,
    versions: Mapping[str, str],
) -> list[Statement]:
    by_key = {step.key: step_id for step_id, step in steps.items()}
    touched = {step_id: _touched(step, streams[step_id]) for step_id, step in steps.items()}
    rests = _rests_on(steps, by_key)
    said: list[Statement] = []
    for step_id in counting:
        step = steps[step_id]
        end = next((fact for fact in reversed(streams[step_id]) if isinstance(fact, StepFinished)), None)
        if step.kind != "agent" or step.role in OF_THE_RUN or end is None or end.patch is not None:
            continue
        text = in_words(end.result)
        if not text:
            continue
        whole = [touched[one] for one in _reached(step_id, rests)]
        said.append(
            Statement(
                id="",
                text=text,
                trust="content" if any(one.tainted for one in whole) else "conclusion",
                tool=step.role or "",
                step_id=step_id,
                role_version=versions.get(step.role or ""),
                memories=tuple(sorted({memory for one in whole for memory in one.memories})),
                rests_on=tuple(sorted({place for one in whole for place in one.places})),
            )
        )
    return said


def _touched(step: Step, stream: Sequence[AnyFact]) -> _Touched:
    """What a step has read; whatever may bring in what an outsider wrote taints it."""
    # A script, or a task of somebody else, may have read anything.
    found = _Touched(tainted=step.kind in {"script", "celery_task"})
    facts: list[AnyFact] = []
    for fact in stream:
        facts += [fact, *fact.facts] if isinstance(fact, StepForked) else [fact]
    for fact in facts:
        if isinstance(fact, ModelRequested | ToolFinished):
            for read in fact.reads:
                kind, _, name = read.partition(":")
                if kind == "memory":
                    found.memories.add(UUID(name.partition("@")[0]))
                elif kind in {"repository", "episode"}:
                    found.tainted = True
        if isinstance(fact, ToolFinished):
            if fact.tool not in CLEAN_TOOLS and not fact.tool.startswith(FINISH_PREFIX):
                found.tainted = True
            named = (fact.arguments.get(name) for name in PLACES)
            found.places |= {place for place in named if isinstance(place, str) and place}
    return found


def _rests_on(steps: Mapping[UUID, Step], by_key: Mapping[str, UUID]) -> dict[UUID, set[UUID]]:
    """What each step was given: its predecessors' results, and its children's."""
    rests: dict[UUID, set[UUID]] = defaultdict(set)
    for step_id, step in steps.items():
        rests[step_id] |= {by_key[key] for key in step.after if key in by_key}
        if step.parent is not None and step.parent in by_key:
            rests[by_key[step.parent]].add(step_id)
    return rests


def _reached(step_id: UUID, rests: Mapping[UUID, set[UUID]]) -> set[UUID]:
    reached, left = {step_id}, [step_id]
    while left:
        fresh = rests.get(left.pop(), set()) - reached
        reached |= fresh
        left += fresh
    return reached


def in_words(result: JsonValue) -> str:
    """What a result says: its answer, its headline, or all of it; nothing when nothing was found."""
    if result is None or result == "" or result == {}:
        return ""
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        if result.get("found") is False:
            return ""
        if isinstance(answer := result.get("answer"), str):
            return answer
        if isinstance(headline := result.get("headline"), str):
            lines = result.get("verdict_lines")
            return " ".join(
                [headline, *(str(line) for line in lines if line)] if isinstance(lines, list) else [headline]
            )
    return json.dumps(result, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _bounded(said: Sequence[Statement]) -> tuple[Statement, ...]:
    kept: list[Statement] = []
    room = MAX_CHARACTERS_IN_ALL
    for one in said[:MAX_STATEMENTS]:
        text = one.text.strip()
        text = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} …"
        if len(text) > room:
            break
        room -= len(text)
        kept.append(
            Statement(
                id=f"s{len(kept) + 1}",
                text=text,
                trust=one.trust,
                tool=one.tool,
                step_id=one.step_id,
                role_version=one.role_version,
                memories=one.memories,
                rests_on=one.rests_on,
                lasting=one.lasting[:MAX_CHARACTERS],
            )
        )
    return tuple(kept)
