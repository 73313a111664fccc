"""The tool `ask_person`: a question that the agent cannot decide, put before a person; the step waits without a worker.

Nobody has to answer: after `CHARGEHAND_ASK_SECONDS` the agent is told so, and says in its result what stays open.
"""

from typing import Annotated

from pydantic import Field

from chargehand.orchestrator.facts import SKIPPED
from chargehand.orchestrator.line_fixes import FORM
from chargehand.workers.tools.registry import Question, ToolContext, ToolOutput, ToolRetry, make_tool

# Whoever asks more has not understood the task.
MAX_QUESTIONS = 5
MAX_CHARACTERS = 4_000
MAX_FILES = 20
ANSWER = "answer"
SKIP = "skip"
OPTIONS = (ANSWER, SKIP, "abort")


def _ask_person(
    question: Annotated[
        str,
        Field(
            min_length=1, max_length=MAX_CHARACTERS, description="With all that a person needs to answer it at once."
        ),
    ],
    context: ToolContext,
    files: Annotated[
        list[str],
        Field(max_length=MAX_FILES, description="Files that you may change by the answer; none: leave it out."),
    ] = [],  # noqa: B006 - read by a schema, and never changed
    wants_fix: Annotated[bool, Field(description="The answer is to be one corrected line of code.")] = False,
) -> ToolOutput:
    """Ask a person what you cannot decide, and wait for the answer. An error says that nobody answered: go on without.

    Say what is wrong and what you have seen: the lines at path:line, the message, and what you would need to know.
    """
    asked = [fact for fact in context.finished if fact.tool == "ask_person"]
    if any(fact.error_type == SKIPPED for fact in asked):
        raise ToolRetry("Nobody answered before; go on without, and name the question in your result.")
    if len(asked) >= MAX_QUESTIONS:
        raise ToolRetry(f"You have asked {MAX_QUESTIONS} questions; go on with the answers you have.")
    text = question.strip()
    if files:
        text += f"\nWith an answer these may be changed: {', '.join(files)}."
    if wants_fix:
        text += f"\nAnswer with {FORM}."
    raise Question(text, options=OPTIONS, unanswered=SKIP, wants_fix=wants_fix)


ask_person = make_tool(_ask_person, name="ask_person", effect="pure")
