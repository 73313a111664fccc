"""The end of a demo: the result, what a kill did to it, and that the journal is whole."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from chargehand.orchestrator.auditing import Audit
from chargehand.orchestrator.cli.audit import describe
from chargehand.orchestrator.cli.killing import Killed, Resumption
from chargehand.orchestrator.cli.results import PATCH, Outcome, print_outcome
from chargehand.orchestrator.cli.terminal import one_line, plain, plural, short
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.facts import SKIPPED, ToolFinished


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A demo that has ended."""

    outcome: Outcome
    audit: Audit
    resumptions: tuple[Resumption, ...]
    unjudged: tuple[str, ...]
    """Findings without a verdict."""
    as_before: bool | None
    """Whether the findings are those of the result that was in the folder; None: there was none."""
    wanted_kill: bool
    killed: Killed | None
    kill_story: str
    unanswered: tuple[str, ...] = ()
    """Steps whose question nobody answered in time."""

    @property
    def ended_well(self) -> bool:
        """The run succeeded, the journal is whole, and nothing was paid for twice."""
        asked_again = sum(one.recorded_answers_asked_again for one in self.resumptions)
        missed = self.wanted_kill and self.killed is None
        return self.outcome.status == "succeeded" and not self.audit.objections and not asked_again and not missed


def unanswered_in(handle: RunHandle) -> tuple[str, ...]:
    """Keys of the steps that asked a person, and went on without an answer."""
    keys = {step.step_id: step.key for step in handle.steps()}
    silent = (
        event.step_id
        for event in handle.events(follow=False)
        if isinstance(event.fact, ToolFinished) and (event.fact.tool, event.fact.error_type) == ("ask_person", SKIPPED)
    )
    return tuple(dict.fromkeys(keys[step] for step in silent if step is not None))


def print_story(console: Console, told: Told) -> None:
    """Everything for a person."""
    print_outcome(console, told.outcome)
    if told.wanted_kill:
        console.print()
        _print_kill(console, told)
    for verified in told.audit.runs:
        verdict = ("chain BROKEN", "bold red") if told.audit.objections else ("chain OK", "green")
        rest = f", {plural(verified.rows, 'row')}, head {verified.head_hash[:16]}"
        console.print(Text.assemble("  " if told.wanted_kill else "", verdict, rest), soft_wrap=True)
    for objection in told.audit.objections:
        console.print(Text(f"  ✗ {one_line(describe(objection))}", style="red"), soft_wrap=True)


def _print_kill(console: Console, told: Told) -> None:
    console.print(Text("What the kill did", style="bold"))
    if told.killed is None:
        why = "no triage step was caught in the middle; a model that answers more slowly makes it easier"
        console.print(Text(f"  Nothing was killed: {why}.", style="yellow"), soft_wrap=True)
        return
    console.print(Text(plain(f"  {told.kill_story}")), soft_wrap=True)
    for one in told.resumptions:
        again = one.recorded_answers_asked_again
        console.print(
            Text.assemble(
                f"  {one_line(one.step)}: {plural(one.answers_before, 'answer')} recorded before, "
                f"{one.resumed_words}, recorded answers asked again: ",
                (str(again), "green" if again == 0 else "bold red"),
            ),
            soft_wrap=True,
        )
    verdicts = "every finding has a verdict"
    if told.unjudged:
        verdicts = f"{plural(len(told.unjudged), 'finding')} without a verdict"
    compared = {
        None: "no earlier result in the folder to compare them with",
        True: "findings and verdicts identical to the result before",
        False: "findings or verdicts DIFFER from the result before",
    }[told.as_before]
    console.print(Text(f"  {verdicts}; {compared}"), soft_wrap=True)


def print_next(console: Console, told: Told, *, workspace: str | None, home: Path) -> None:
    """What a person may want to do now."""
    lines = []
    if workspace is not None and PATCH in told.outcome.files:
        patch = Path(told.outcome.files[PATCH]).absolute()
        lines.append(f"Apply the changes with: git -C {workspace} apply {patch}")
    lines += [
        f"Nobody answered the question of {step}; it waits for you with: chargehand demo --patience 300"
        for step in told.unanswered
    ]
    name = short(told.outcome.run_id)
    lines.append(f"The run stays in {home}; look at it with: CHARGEHAND_HOME={home} chargehand up")
    lines.append(f"and in another terminal: CHARGEHAND_HOME={home} chargehand logs {name}")
    for line in lines:
        console.print(Text(plain(line), style="dim"), soft_wrap=True)
