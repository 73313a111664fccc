"""The typed tools by which a role ends: each gives the step's result, or tells the model what is missing."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import BaseModel, Field, JsonValue, ValidationError

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.outputs import OUTPUTS
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, extend
from chargehand.workers.findings import Answer, FixAttempt, Frozen, HumanTask, Verdict
from chargehand.workers.shards import assigned_findings
from chargehand.workers.tools.registry import Tool, ToolContext, ToolOutput, ToolRetry, make_tool

# A finish tool of a role with an output model of its own.
CUSTOM_FINISH = "submit_result"
# Models round.
ODDS_TOLERANCE = 0.02


class PlanProposal(Frozen):
    """What a planner hands in."""

    rationale: str = Field(min_length=1)
    """Why these steps, in two or three sentences."""
    steps: tuple[Step, ...] = Field(min_length=1)


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


def submit_plan(plan: PlanProposal, context: ToolContext) -> ToolOutput:
    """Finish: hand in the steps that are added to the run. An error says what to change."""
    patch = PlanPatch(add=plan.steps)
    for step in plan.steps:
        if step.kind == "script" and context.scripts is not None and step.script not in context.scripts:
            known = ", ".join(sorted(context.scripts))
            raise ToolRetry(f"Step {step.key!r} names unknown script {step.script!r}; known: {known}.")
    try:
        if context.plan is not None:
            extend(context.plan, patch, roles=context.roles)
        else:
            Plan.of(plan.steps, roles=context.roles)
    except InvalidPlan as error:
        raise ToolRetry(f"The plan is not valid. {error}") from error
    return _finished({"rationale": plan.rationale, "steps": [step.key for step in plan.steps]}, patch=patch)


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
        raise ToolRetry(f"Not applied: {names}. Apply them first with apply_fix, or leave them out.")
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


def applied_fixes(context: ToolContext) -> list[FixAttempt]:
    """The fixes that this step has applied, in order, read back from its recorded tool results."""
    attempts: dict[tuple[str, str], FixAttempt] = {}
    for fact in context.finished:
        if fact.tool != "apply_fix" or fact.outcome != "ok":
            continue
        try:
            attempt = FixAttempt.model_validate_json(fact.content)
        except ValidationError:
            continue
        attempts[attempt.rule, attempt.path] = attempt
    return list(attempts.values())


def _finished(result: Mapping[str, JsonValue], *, patch: PlanPatch | None = None) -> ToolOutput:
    value = dict(result)
    return ToolOutput(content=json.dumps(value, ensure_ascii=False), result=value, patch=patch)


def _finish_tool(function: Callable[..., object], model: type[BaseModel]) -> Tool:
    return make_tool(function, effect="pure", input_model=model)


# By the role's name: the finish tool also tells the offline server which rules to use.
_OF_ROLE: Mapping[str, Tool] = {
    "planner": _finish_tool(submit_plan, PlanProposal),
    "researcher": _finish_tool(submit_answer, Answer),
    "triager": _finish_tool(submit_verdicts, Verdicts),
    "coder": _finish_tool(submit_fixes, ChosenFixes),
    "writer": _finish_tool(submit_report, ReportText),
    "chooser": _finish_tool(submit_choice, Choice),
}
FINISH_TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in _OF_ROLE.values()}


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
