"""The typed tools by which a role ends: each gives the step's result, or tells the model what is missing."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, Field, JsonValue, ValidationError

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.outputs import OUTPUTS
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, extend
from chargehand.orchestrator.replanning import effective
from chargehand.workers.findings import BY_HAND, Answer, FixAttempt, Frozen, HumanTask, Verdict
from chargehand.workers.lessons import ExtractedFacts, Judgements
from chargehand.workers.shards import assigned_findings
from chargehand.workers.tools.edit_file import EDITING_TOOLS, Edited, conflicts_left
from chargehand.workers.tools.registry import Tool, ToolContext, ToolOutput, ToolRetry, make_tool

# A finish tool of a role with an output model of its own.
CUSTOM_FINISH = "submit_result"
# They look at the workspace, or at where the steps stand: the journal alone does not tell what they would say.
LOOKING_OUTSIDE = frozenset({"submit_replan", "submit_resolution"})
# Models round.
ODDS_TOLERANCE = 0.02


class PlanProposal(Frozen):
    """What a planner hands in."""

    rationale: str = Field(min_length=1)
    """Why these steps, in two or three sentences."""
    steps: tuple[Step, ...] = Field(min_length=1)


class Again(Frozen):
    """A step that is to be done again."""

    step: str
    by: Step | None = None
    """The step that takes its place; left out: the same once more."""


class PlanChange(Frozen):
    """What a replanner hands in; all empty: the plan stays, and the run ends with the failure."""

    rationale: str = Field(min_length=1)
    """Why this change, and what the result will lack."""
    again: tuple[Again, ...] = ()
    drop: tuple[str, ...] = ()
    """Steps that are not wanted any more."""
    add: tuple[Step, ...] = ()


class Verdicts(Frozen):
    """What a triager hands in."""

    verdicts: tuple[Verdict, ...]


class ChosenFix(Frozen):
    """One applied fix that the coder stands by."""

    rule: str
    path: str


class ChosenFixes(Frozen):
    """What a coder hands in."""

    fixes: tuple[ChosenFix, ...]
    human_tasks: tuple[HumanTask, ...]


class Odds(Frozen):
    """How likely one way is the right one."""

    label: str
    probability: float = Field(ge=0, le=1)


class Choice(Frozen):
    """What a chooser hands in."""

    odds: tuple[Odds, ...] = Field(min_length=2)
    """Every label once; they add up to one."""
    reason: str = Field(min_length=1)


class ReportText(Frozen):
    """What a writer hands in; tables and figures are added by a script."""

    headline: str = Field(min_length=1)
    verdict_lines: Annotated[tuple[str, ...], Field(min_length=3, max_length=3)]
    notes: str


class Unresolved(Frozen):
    """A file whose conflicts stay."""

    path: str
    reason: str = Field(min_length=1)


class Resolution(Frozen):
    """What a resolver hands in."""

    resolved: tuple[str, ...]
    """Files that hold no conflict any more."""
    unresolved: tuple[Unresolved, ...]


def submit_plan(plan: PlanProposal, context: ToolContext) -> ToolOutput:
    """Finish: hand in the steps that are added to the run. An error says what to change."""
    patch = PlanPatch(add=plan.steps)
    _check_scripts(plan.steps, context)
    try:
        if context.plan is not None:
            extend(context.plan, patch, roles=context.roles)
        else:
            Plan.of(plan.steps, roles=context.roles)
    except InvalidPlan as error:
        raise ToolRetry(f"The plan is not valid. {error}") from error
    return _finished({"rationale": plan.rationale, "steps": [step.key for step in plan.steps]}, patch=patch)


def submit_replan(change: PlanChange, context: ToolContext) -> ToolOutput:
    """Finish: hand in how the plan changes. An error says what to correct."""
    named = [one.step for one in change.again]
    if twice := next((step for step, count in Counter(named).items() if count > 1), None):
        raise ToolRetry(f"Step {twice!r} is to be done again twice; name it once.")
    given = (*(one.by for one in change.again if one.by is not None), *change.add)
    if child := next((step for step in given if step.parent is not None), None):
        raise ToolRetry(f"Step {child.key!r} has a parent; leave `parent` out.")
    _check_scripts(given, context)
    patch = PlanPatch(again={one.step: one.by for one in change.again}, drop=change.drop, add=change.add)
    plan = context.plan or Plan(steps=())
    try:
        found = effective(plan, context.statuses, patch)
        counting = [step for step in plan.steps if context.statuses.get(step.key) != "superseded"]
        extend(Plan(steps=tuple(counting)), found.model_copy(update={"drop": ()}), roles=context.roles)
    except InvalidPlan as error:
        raise ToolRetry(f"The plan would not be valid. {error}") from error
    result: dict[str, JsonValue] = {
        "rationale": change.rationale,
        "again": [*named],
        "dropped": [*change.drop],
        "added": [step.key for step in change.add],
    }
    return _finished(result, patch=patch if named or change.drop or change.add else None)


def _check_scripts(steps: Iterable[Step], context: ToolContext) -> None:
    for step in steps:
        if step.kind == "script" and context.scripts is not None and step.script not in context.scripts:
            known = ", ".join(sorted(context.scripts))
            raise ToolRetry(f"Step {step.key!r} names unknown script {step.script!r}; known: {known}.")


def submit_answer(answer: Answer) -> ToolOutput:
    """Finish: hand in the answer with its verbatim quotes, or found=false when the repository does not tell."""
    if answer.found and not answer.quotes:
        raise ToolRetry("found is true, but there is no quote; quote the lines that show it, or set found to false.")
    for quote in answer.quotes:
        if not quote.text.strip():
            raise ToolRetry(f"The quote of {quote.path}:{quote.line} is empty; copy the line as it is in the file.")
    return _finished(answer.model_dump(mode="json"))


def submit_verdicts(verdicts: Verdicts, context: ToolContext) -> ToolOutput:
    """Finish: hand in one verdict for each of your findings, each exactly once."""
    expected = assigned_findings(context.arguments, context.inputs)
    counted = Counter(verdict.finding_id for verdict in verdicts.verdicts)
    problems = [f"{finding_id} is decided {count} times" for finding_id, count in counted.items() if count > 1]
    if expected is not None:
        problems += [f"{finding_id} has no verdict" for finding_id in expected if finding_id not in counted]
        problems += [f"{finding_id} is not yours" for finding_id in counted if finding_id not in set(expected)]
    if problems:
        raise ToolRetry(f"Decide each of your findings exactly once: {'; '.join(problems[:30])}.")
    blank = [verdict.finding_id for verdict in verdicts.verdicts if not verdict.reason.strip()]
    if blank:
        raise ToolRetry(f"A verdict needs a reason that names the code: {', '.join(blank)}.")
    return _finished(verdicts.model_dump(mode="json"))


def submit_fixes(fixes: ChosenFixes, context: ToolContext) -> ToolOutput:
    """Finish: hand in the fixes that you applied, and what a person has to decide."""
    applied = {(attempt.rule, attempt.path): attempt for attempt in applied_fixes(context)}
    missing = [fix for fix in fixes.fixes if (fix.rule, fix.path) not in applied]
    if missing:
        names = ", ".join(f"{fix.rule} in {fix.path}" for fix in missing)
        raise ToolRetry(f"Not applied: {names}. Apply them first, or leave them out.")
    left_out = applied.keys() - {(fix.rule, fix.path) for fix in fixes.fixes}
    if left_out:
        # An applied fix is a commit; leaving it unsaid would hide a change from the verification.
        names = ", ".join(f"{rule} in {path}" for rule, path in sorted(left_out))
        raise ToolRetry(f"Applied but not listed: {names}. List them; the verification reverts what breaks a test.")
    return _finished(
        {
            "fixes": [attempt.model_dump(mode="json") for attempt in applied.values()],
            "human_tasks": [task.model_dump(mode="json") for task in fixes.human_tasks],
        }
    )


def submit_report(report: ReportText) -> ToolOutput:
    """Finish: hand in the headline, the verdict in exactly three lines, and notes. Tables are added for you."""
    if any(not line.strip() or "\n" in line for line in report.verdict_lines):
        raise ToolRetry("verdict_lines needs three lines that are not empty and have no line break.")
    return _finished(report.model_dump(mode="json"))


def submit_choice(choice: Choice, context: ToolContext) -> ToolOutput:
    """Finish: hand in how likely each of the `labels` in your arguments is the right way; they add up to 1."""
    labels = context.arguments.get("labels")
    wanted = [str(label) for label in labels] if isinstance(labels, list) else []
    given = Counter(odds.label for odds in choice.odds)
    problems = [f"{label!r} has no probability" for label in wanted if label not in given]
    problems += [f"{label!r} is no label" for label in given if label not in wanted]
    problems += [f"{label!r} is given {count} times" for label, count in given.items() if count > 1]
    total = sum(odds.probability for odds in choice.odds)
    if abs(total - 1) > ODDS_TOLERANCE:
        problems.append(f"the probabilities add up to {total:g}, not 1")
    if problems:
        raise ToolRetry(f"Give each label a probability, once: {'; '.join(problems[:30])}.")
    return _finished({"odds": {one.label: one.probability for one in choice.odds}, "reason": choice.reason})


def submit_resolution(resolution: Resolution, context: ToolContext) -> ToolOutput:
    """Finish: hand in which of the files in your argument `conflicts` are resolved, and which are not and why."""
    given = context.arguments.get("conflicts")
    conflicts = [str(name) for name in given] if isinstance(given, list) else []
    counted = Counter([*resolution.resolved, *(one.path for one in resolution.unresolved)])
    problems = [f"{path!r} is not named" for path in conflicts if path not in counted]
    problems += [f"{path!r} had no conflict" for path in counted if path not in conflicts]
    problems += [f"{path!r} is named {count} times" for path, count in counted.items() if count > 1]
    workspace = context.open_workspace()
    for path in set(resolution.resolved).intersection(conflicts):
        left = conflicts_left(workspace, path)
        problems += [f"{path!r} still holds {left} of git's conflicts"] if left else []
    if problems:
        raise ToolRetry(f"Name each file once, as it is: {'; '.join(sorted(problems)[:30])}.")
    return _finished(
        {
            "resolved": list(resolution.resolved),
            "conflicts": [one.path for one in resolution.unresolved],
            "reasons": {one.path: one.reason for one in resolution.unresolved},
        }
    )


def submit_facts(facts: ExtractedFacts, context: ToolContext) -> ToolOutput:
    """Finish: hand in the facts that are worth knowing in later runs; an empty list when there are none."""
    known = set(_ids(context.inputs.get("gather"), "statements"))
    unknown = sorted({one for fact in facts.facts for one in fact.evidence if one not in known})
    if unknown:
        raise ToolRetry(f"There is no statement {', '.join(unknown)}; name ids of the statements in your inputs.")
    return _finished(facts.model_dump(mode="json"))


def submit_judgements(judgements: Judgements, context: ToolContext) -> ToolOutput:
    """Finish: hand in how the two statements of each pair stand to each other, each pair exactly once."""
    pairs = _ids(context.inputs.get("pair"), "pairs")
    counted = Counter(one.pair for one in judgements.judgements)
    problems = [f"{pair} is judged {count} times" for pair, count in counted.items() if count > 1]
    problems += [f"{pair} is not judged" for pair in pairs if pair not in counted]
    problems += [f"{pair} is no pair" for pair in counted if pair not in set(pairs)]
    if problems:
        raise ToolRetry(f"Judge each pair exactly once: {'; '.join(problems[:30])}.")
    return _finished(judgements.model_dump(mode="json"))


def _ids(result: JsonValue, name: str) -> list[str]:
    """The ids of the things that an input lists under this name."""
    listed = result.get(name) if isinstance(result, dict) else None
    return [str(one["id"]) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def applied_fixes(context: ToolContext) -> list[FixAttempt]:
    """The fixes that this step has applied, in order, read back from its recorded tool results.

    What it edited as a person answered is one too, by the rule `by hand`.
    """
    attempts: dict[tuple[str, str], FixAttempt] = {}
    answered = ""
    for fact in context.finished:
        if fact.outcome != "ok":
            continue
        if fact.tool == "ask_person":
            answered = fact.content
        try:
            if fact.tool == "apply_fix":
                attempt = FixAttempt.model_validate_json(fact.content)
            elif fact.tool in EDITING_TOOLS:
                attempt = _by_hand(Edited.model_validate_json(fact.content), answered, taken=attempts)
            else:
                continue
        except ValidationError:
            continue
        attempts[attempt.rule, attempt.path] = attempt
    return list(attempts.values())


def _by_hand(edited: Edited, answered: str, *, taken: Iterable[tuple[str, str]]) -> FixAttempt:
    count = sum(path == edited.path and rule.startswith(BY_HAND) for rule, path in taken)
    return FixAttempt(
        rule=BY_HAND if not count else f"{BY_HAND} {count + 1}",
        path=edited.path,
        description=f"as a person answered: {answered}" if answered else "edited",
        commit=edited.commit,
        status="applied",
    )


def _finished(result: Mapping[str, JsonValue], *, patch: PlanPatch | None = None) -> ToolOutput:
    value = dict(result)
    return ToolOutput(content=json.dumps(value, ensure_ascii=False), result=value, patch=patch)


def _finish_tool(function: Callable[..., object], model: type[BaseModel]) -> Tool:
    return make_tool(function, effect="pure", input_model=model)


_SUBMIT_ANSWER = _finish_tool(submit_answer, Answer)
# By the role's name: the finish tool also tells the offline server which rules to use.
_OF_ROLE: Mapping[str, Tool] = {
    "planner": _finish_tool(submit_plan, PlanProposal),
    "replanner": _finish_tool(submit_replan, PlanChange),
    "researcher": _SUBMIT_ANSWER,
    # A task is handed off only to who hands in the same.
    "lead": _SUBMIT_ANSWER,
    "triager": _finish_tool(submit_verdicts, Verdicts),
    "coder": _finish_tool(submit_fixes, ChosenFixes),
    "writer": _finish_tool(submit_report, ReportText),
    "chooser": _finish_tool(submit_choice, Choice),
    "resolver": _finish_tool(submit_resolution, Resolution),
    "extractor": _finish_tool(submit_facts, ExtractedFacts),
    "arbiter": _finish_tool(submit_judgements, Judgements),
}
FINISH_TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in _OF_ROLE.values()}


def output_names() -> frozenset[str]:
    """What front matter may call an output, beside those that users' modules register."""
    return frozenset(FINISH_TOOLS) | frozenset(name for name in _OF_ROLE if isinstance(name, str))


def finish_tool(output: type[BaseModel] | str) -> Tool:
    """The finish tool of a role, by what its front matter calls its output, or made from a user's own model.

    Raises `KeyError` for a name that no role of ours has and no module has registered.
    """
    if isinstance(output, str):
        if output in FINISH_TOOLS:
            return FINISH_TOOLS[output]
        if output not in OUTPUTS:
            return _OF_ROLE[output]
        output = OUTPUTS[output]

    def submit_result(result: BaseModel) -> ToolOutput:
        """Finish: hand in the result of your task."""
        value: JsonValue = result.model_dump(mode="json")
        return ToolOutput(content=json.dumps(value, ensure_ascii=False), result=value)

    return make_tool(submit_result, effect="pure", input_model=output, strict=False)
