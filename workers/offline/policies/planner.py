"""Decomposes a goal into the steps of the job, sized by what the inventory found."""

import re
from typing import Any

from chargehand.workers.offline.conversation import Conversation
from chargehand.workers.offline.policies.moves import Move, finish

# The step whose patch this is; everything it adds comes after it.
PLAN_STEP = "plan"
# A triage step reads about this many findings within its turns.
FINDINGS_PER_SHARD = 8
MAX_SHARDS = 4
# Lines of Python for one finding; ruff S and bandit report about one in fifty on small services.
LINES_PER_FINDING = 50

_AUDIT = re.compile(r"\b(audit|review|scan|fix|repair|vulnerab\w*|security|secure)\b", re.IGNORECASE)
_QUESTION = re.compile(r"^\s*(where|how)\b|\?\s*$", re.IGNORECASE)

# What came again before has a number.
_CAME_AGAIN = re.compile(r"~\d+\Z")
_BY_CHANCE = re.compile(r"deadline|time(d|s)?[ -]?out|unavailable|connection|lost|temporar|try again", re.IGNORECASE)
# Without these there is no plan that could go on.
BEGINNING = frozenset({"inventory", "planner"})

Steps = list[dict[str, Any]]


def plan(conversation: Conversation) -> Move:
    """The plan for one of the two kinds of goal that it knows, or for passages only."""
    inventory = inventory_of(conversation)
    goal = conversation.goal
    if is_question(goal):
        steps = _question_steps(goal)
        rationale = "A where-or-how question: index the repository, answer from passages, check every quote."
    elif _AUDIT.search(goal):
        steps = _audit_steps(inventory)
        rationale = _audit_rationale(inventory, steps)
    else:
        steps = _question_steps(goal, title="Passages about the goal")
        rationale = (
            "The offline rules know two kinds of goal: 'audit and fix', and 'where or how is …?'. "
            "This goal is neither, so the report only gives passages of the repository that fit its words."
        )
    return finish("submit_plan", rationale, rationale=rationale, steps=steps)


def replan(conversation: Conversation) -> Move:
    """Once more what an agent did, or what failed by chance; without anything else, but for the beginning."""
    again: list[dict[str, Any]] = []
    drop: list[str] = []
    left: list[str] = []
    steps = {str(step.get("key")): step for step in _objects(conversation.arguments.get("steps"))}
    for reason in _objects(conversation.arguments.get("reasons")):
        key, error = str(reason.get("step")), str(reason.get("error"))
        step = steps.get(key)
        if step is None or step.get("status") != "failed":
            left.append(key)
        elif not _CAME_AGAIN.search(key) and (step.get("kind") == "agent" or _BY_CHANCE.search(error)):
            again.append({"step": key})
        elif step.get("does") in BEGINNING:
            left.append(key)
        else:
            drop.append(key)
    said = [
        f"once more: {', '.join(one['step'] for one in again)}" if again else "",
        f"without: {', '.join(drop)}" if drop else "",
        f"as it is, for the rules know no other way: {', '.join(left)}" if left else "",
    ]
    rationale = f"By rules, {'; '.join(part for part in said if part) or 'nothing is changed'}."
    return finish("submit_replan", rationale, rationale=rationale, again=again, drop=drop, add=[])


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def is_question(goal: str) -> bool:
    """Whether the goal asks where or how something is."""
    return bool(_QUESTION.search(goal)) and not re.match(r"\s*(please\s+)?(audit|fix|review)\b", goal, re.IGNORECASE)


def inventory_of(conversation: Conversation) -> dict[str, Any]:
    """The inventory's result, from the planner's inputs or the summary that all agents share."""
    result = conversation.inputs.get("inventory")
    return result if isinstance(result, dict) else conversation.repository


def _audit_steps(inventory: dict[str, Any]) -> Steps:
    python_lines = _python_lines(inventory)
    has_python = python_lines > 0
    has_tests = has_python and bool(inventory.get("test_command"))
    questions = research_questions(inventory)
    steps = [_script("index", "index", pool="research", after=[PLAN_STEP], title="Index the repository for search")]
    researches = [f"research-{number}" for number in range(1, len(questions) + 1)]
    for key, question in zip(researches, questions, strict=True):
        steps.append(_research(key, question, after=["index"]))
    steps.append(_check_answers(researches))

    triages = ["triage-secrets"]
    if has_python:
        steps.append(_script("scan", "scan", pool="audit", after=[PLAN_STEP], title="Run the analysers"))
        shards = shards_for(python_lines)
        triages = [f"triage-{number}" for number in range(1, shards + 1)] + triages
        steps += [_triage(f"triage-{shard + 1}", "scan", shard=shard, shards=shards) for shard in range(shards)]
    steps.append(_script("secrets", "secrets", pool="audit", after=[PLAN_STEP], title="Look for secrets"))
    steps.append(_triage("triage-secrets", "secrets", shard=0, shards=1))

    settled = [*triages, "check-answers"]
    if has_python:
        before = [PLAN_STEP]
        if has_tests:
            steps.append(
                _script(
                    "tests-before",
                    "tests",
                    pool="coding",
                    after=[PLAN_STEP],
                    title="Run the repository's tests as they are",
                    arguments={"label": "before"},
                )
            )
            before = ["tests-before"]
        steps += [
            {
                "key": "fix",
                "kind": "agent",
                "pool": "coding",
                "role": "coder",
                "after": before,
                "title": "Choose and apply safe fixes",
                "instruction": "Apply the fixes that are safe, one by one, and name what a person must decide.",
            },
            _script("tests-after", "verify_fixes", pool="coding", after=["fix"], title="Prove each fix by the tests"),
            _script("verify", "verify", pool="coding", after=["tests-after"], title="Check the patch"),
        ]
        # The writer is told what became of each fix by the one, and what became of the patch by the other.
        settled += ["tests-after", "verify"]
    return [*steps, *_report_steps(settled, steps)]


def _audit_rationale(inventory: dict[str, Any], steps: Steps) -> str:
    shards = sum(step["key"].startswith("triage-") and step["key"] != "triage-secrets" for step in steps)
    lines = _python_lines(inventory)
    if not lines:
        return "No Python was found: secrets are looked for in every file, and three questions are answered; no fixes."
    tests = "the tests prove each fix" if inventory.get("test_command") else "no tests: fixes stay unproven"
    return f"{lines} lines of Python: {shards} triage shard{'s' if shards > 1 else ''}; {tests}; secrets apart."


def shards_for(python_lines: int) -> int:
    """How many triage steps share the expected findings."""
    expected = max(1, python_lines // LINES_PER_FINDING)
    return max(1, min(MAX_SHARDS, -(-expected // FINDINGS_PER_SHARD)))


def research_questions(inventory: dict[str, Any]) -> list[str]:
    """Three questions that a reader of an audit would ask about this repository."""
    questions = []
    if inventory.get("routes"):
        questions.append("Where are HTTP routes registered?")
        questions.append("How is user input validated and how are passwords checked?")
    elif inventory.get("entry_points"):
        questions.append("Where does the program start and how are its arguments parsed?")
        questions.append("How is input from outside read and validated?")
    else:
        questions.append("How is this package installed and imported?")
        questions.append("Where are files or network resources read?")
    questions.append("Where is configuration read?")
    return questions


def _question_steps(goal: str, *, title: str = "") -> Steps:
    question = " ".join(goal.split())[:2_000]
    steps = [
        _script("index", "index", pool="research", after=[PLAN_STEP], title="Index the repository for search"),
        _research("research-1", question, after=["index"], title=title),
        _check_answers(["research-1"]),
    ]
    return [*steps, *_report_steps(["check-answers"], steps)]


def _script(
    key: str, script: str, *, pool: str, after: list[str], title: str, arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    step = {"key": key, "kind": "script", "script": script, "pool": pool, "after": after, "title": title}
    return {**step, "arguments": arguments} if arguments else step


def _research(key: str, question: str, *, after: list[str], title: str = "") -> dict[str, Any]:
    return {
        "key": key,
        "kind": "agent",
        "pool": "research",
        "role": "researcher",
        "after": after,
        "title": title or question[:100],
        "instruction": "Answer the question from the repository, with verbatim quotes, or say that it is not there.",
        "arguments": {"question": question},
    }


def _check_answers(researches: list[str]) -> dict[str, Any]:
    step = _script(
        "check-answers", "check_answers", pool="research", after=researches, title="Compare every quote with the file"
    )
    return {**step, "join": "settled"}


def _triage(key: str, source: str, *, shard: int, shards: int) -> dict[str, Any]:
    return {
        "key": key,
        "kind": "agent",
        "pool": "audit",
        "role": "triager",
        "after": [source],
        "title": f"Judge findings of {source}" + (f", {shard + 1} of {shards}" if shards > 1 else ""),
        "instruction": "Judge each finding of your shard by the code around it.",
        "arguments": {"shard": shard, "shards": shards},
    }


def _report_steps(settled: list[str], steps: Steps) -> Steps:
    # The report names every planned step that gave no result, so it must know which were planned.
    planned = ["inventory", *(step["key"] for step in steps), "report"]
    return [
        {
            "key": "report",
            "kind": "agent",
            "pool": "research",
            "role": "writer",
            "after": settled,
            "join": "settled",
            "title": "Write the verdict",
            "instruction": "Say in a headline and three lines what was found, fixed and left open.",
        },
        _script(
            "render",
            "render",
            pool="research",
            after=["report"],
            title="Render the report",
            arguments={"steps": planned},
        ),
    ]


def _python_lines(inventory: dict[str, Any]) -> int:
    """Lines of Python; a fair guess from the number of files when the inventory gives no lines."""
    counted = inventory.get("python_lines")
    if isinstance(counted, int):
        return max(counted, 1) if inventory.get("has_python") else counted
    languages = inventory.get("languages")
    lines: Any = None
    if isinstance(languages, dict):
        lines = next((value for name, value in languages.items() if str(name).lower() == "python"), None)
    elif isinstance(languages, list):
        for entry in languages:
            if isinstance(entry, dict) and str(entry.get("name", entry.get("language", ""))).lower() == "python":
                lines = entry
            elif isinstance(entry, list) and len(entry) > 1 and str(entry[0]).lower() == "python":
                lines = entry[1]
    if isinstance(lines, dict):
        lines = lines.get("lines", lines.get("files"))
    if isinstance(lines, int) and lines > 0:
        return lines
    files = inventory.get("python_files")
    count = files if isinstance(files, int) else len(files) if isinstance(files, list) else 0
    return count * 100
