"""What a person approves at a gate: the exact arguments of the steps behind it, each under its hash; pure.

An approval is for one step, one set of arguments, and what the steps before it gave it to read. A step that would be
given anything else (its plan was patched, a step before it was done again, or had not ended yet) is put before a person
anew.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from chargehand.orchestrator.plan import RESULT_OF, Step, references, resolved

# Answers that let nothing through.
REFUSALS = frozenset({"reject", "no", "abort"})
APPROVE_OR_REJECT = ("approve", "reject")
# A person reads no more of one value; the hash covers all of it.
SHOWN_CHARACTERS = 20_000
# Nor of more results of steps before.
SHOWN_INPUTS = 50

T = TypeVar("T")


class Guarded(BaseModel):
    """What a step behind a gate would do, as a person is shown it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    """Its key."""
    does: str
    """`script send_offer`, `agent researcher`, `map`."""
    instruction: str = ""
    arguments: dict[str, JsonValue]
    """Results of earlier steps filled in, as far as they are there; very long texts are cut."""
    inputs: dict[str, JsonValue] = {}
    """What else it may read: results of the steps before it that are not in its arguments, by key; cut like those."""
    commits: dict[str, str] = {}
    """Where the steps before it left the workspace, by key."""
    hash: str
    """Of all of the above but the key, uncut."""


def readable(step: Step) -> tuple[str, ...]:
    """The steps whose results it may read though its arguments do not name them: those that it waits for.

    A task of the user's own app is sent its arguments and nothing else.
    """
    return () if step.kind in {"gate", "celery_task"} else step.after


def guarded(
    step: Step,
    *,
    results: Callable[[str], JsonValue | None],
    known: Collection[str] | None = None,
    inputs: Mapping[str, JsonValue] | None = None,
    commits: Mapping[str, str] | None = None,
) -> Guarded:
    """What the step does with what it is given now.

    `results`: what a step gave, None if it did not succeed. `known`: keys of steps that have ended, None for all; what
    others will give stays a reference, so that it hashes differently from whatever comes. `inputs` and `commits`: what
    the steps before it gave, and where they left the workspace, but for gates; what is not there yet is left out, and
    hashes differently once it is there.
    """
    given: dict[str, JsonValue] = dict(step.arguments)
    if step.map is not None:
        given["items"] = step.map.items
    arguments = {name: _filled(value, results, known) for name, value in given.items()}
    does = " ".join(part for part in (step.kind, *_named(step)) if part)
    named = set(references(list(given.values())))
    read: dict[str, JsonValue] = {
        key: value for key, value in (inputs or {}).items() if value is not None and key not in named
    }
    left = dict(commits or {})
    whole: dict[str, JsonValue] = {"does": does, "instruction": step.instruction, "arguments": arguments}
    if read:
        whole["inputs"] = read
    if left:
        # A dict of texts is none of JSON values to the type checker.
        whole["commits"] = dict[str, JsonValue](left)
    return Guarded(
        step=step.key,
        does=does,
        instruction=step.instruction,
        arguments={name: _cut(value) for name, value in arguments.items()},
        inputs=_some({key: _cut(value) for key, value in read.items()}),
        commits=_some(left),
        hash=digest_of(whole),
    )


def tool_call(step_key: str, tool: str, arguments: Mapping[str, JsonValue]) -> Guarded:
    """One call of a tool that an agent wants to make."""
    does = f"tool {tool}"
    given = dict(arguments)
    digest = digest_of({"does": does, "instruction": "", "arguments": given})
    return Guarded(
        step=step_key, does=does, arguments={name: _cut(value) for name, value in given.items()}, hash=digest
    )


def stand_together(gate_key: str, step: Step) -> bool:
    """Whether a gate that the step waits for is about the step: both stand in the plan, or in one turn of a body.

    A body's first steps wait for what its owner waits for, and for the turn before; that gate is about the owner.
    """
    return step.parent is None or gate_key.rpartition("/")[0] == step.key.rpartition("/")[0]


def digest_of(value: JsonValue) -> str:
    """SHA-256 of the value's canonical JSON: sorted names, no blanks."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def is_approved(shown: Guarded, approvals: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether every gate before the step approved exactly this; `approvals`: gate → step → hash."""
    return all(approved.get(shown.step) == shown.hash for approved in approvals.values())


def not_approved(shown: Guarded, approvals: Mapping[str, Mapping[str, str]]) -> str:
    """The question when a step is given what no person has approved."""
    given = "arguments or results" if shown.inputs or shown.commits else "arguments"
    objecting = {gate: approved for gate, approved in approvals.items() if approved.get(shown.step) != shown.hash}
    gates = ", ".join(map(repr, objecting))
    if not any(shown.step in approved for approved in objecting.values()):
        return f"What step {shown.step!r} is given was not approved in this run at {gates}. May it go on with this?"
    return f"Step {shown.step!r} is given other {given} than were approved at {gates}. May it go on with these?"


def _filled(value: JsonValue, results: Callable[[str], JsonValue | None], known: Collection[str] | None) -> JsonValue:
    if known is None:
        return resolved(value, results)
    return resolved(value, lambda key: results(key) if key in known else {RESULT_OF: key})


def _named(step: Step) -> tuple[str, ...]:
    """What runs: by its name, where it has one that says all."""
    if name := step.script or step.role:
        return (name,)
    return (step.celery_task.task if step.celery_task is not None else "", _body_of(step))


def _body_of(step: Step) -> str:
    """The shape of what a control step runs, short: a change of it is a change of what was approved."""
    # The field is called like the kind.
    shape = getattr(step, step.kind, None)
    if not isinstance(shape, BaseModel):
        return ""
    return digest_of(shape.model_dump(mode="json", exclude={"items"}))[:12]


def _some(values: dict[str, T]) -> dict[str, T]:
    """No more than a person looks at; the hash covers all."""
    return dict(list(values.items())[:SHOWN_INPUTS])


def _cut(value: JsonValue) -> JsonValue:
    if len(text := json.dumps(value, ensure_ascii=False)) <= SHOWN_CHARACTERS:
        return value
    if isinstance(value, str):
        text = value
    return f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"
