"""The real agent loop, roles, tools and SDK against the offline server, on the demo's repository."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import JsonValue

from chargehand.memory.passages import cut
from chargehand.memory.procedural import load_roles
from chargehand.orchestrator.facts import ModelRequested, ModelResponded, StepClaimed, StepFact
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.spending import Peers
from chargehand.workers.agent import AgentTask, Finished, run_agent
from chargehand.workers.findings import Answer
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.profiles import PROFILES
from chargehand.workers.models.router import Tiers
from chargehand.workers.models.wire import open_client
from chargehand.workers.offline import MODEL, NOTICE
from chargehand.workers.offline.server import OfflineServer
from chargehand.workers.scripts.inventory import take_stock
from chargehand.workers.scripts.scan import scan_tree
from chargehand.workers.tools.catalogue import registered_tools
from chargehand.workers.tools.finish import FINISH_TOOLS
from chargehand.workers.tools.registry import ToolContext

REPOSITORY = Path(__file__).parents[2]
TIERS = Tiers(small="claude-haiku-5-5", medium="claude-sonnet-5-5", large="claude-opus-5-5")
GOAL = "Audit this repository, fix what is safe to fix, prove it by its tests, and report"

# How every job begins; the planner's patch hangs on its second step.
BEGINNING = Plan.of(
    [
        Step(key="inventory", kind="script", script="inventory"),
        Step(key="plan", kind="agent", role="planner", after=("inventory",)),
    ]
)


@dataclass
class LocalClone:
    """An attempt's clone that belongs to this test alone."""

    path: Path
    base_commit: str = ""

    @classmethod
    def of(cls, source: Path, target: Path) -> "LocalClone":
        """A new repository with the files of a folder."""
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        clone = cls(path=target)
        clone.git("init", "-q")
        clone.base_commit = clone.commit("Begin")
        return clone

    @property
    def head_commit(self) -> str:
        """Where it is."""
        return self.git("rev-parse", "HEAD")

    def commit(self, message: str) -> str:
        """Commit everything."""
        self.git("add", "-A")
        self.git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", message)
        return self.head_commit

    def reset(self, commit: str) -> None:
        """Go back."""
        self.git("reset", "-q", "--hard", commit)

    def git(self, *arguments: str) -> str:
        """One git command."""
        done = subprocess.run(["git", *arguments], cwd=self.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()


@dataclass
class Journal:
    """The recorder in memory."""

    facts: list[StepFact] = field(default_factory=lambda: [StepClaimed(holder="test")])

    @property
    def history(self) -> tuple[StepFact, ...]:
        """What was recorded."""
        return tuple(self.facts)

    def request(self, finished: Sequence[StepFact], requested: StepFact) -> None:
        """Commit 1."""
        self.facts += [*finished, requested]

    def respond(self, fact: StepFact) -> None:
        """Commit 2, and any other."""
        self.facts.append(fact)

    abandon = tool_started = tool_finished = trip = told = respond

    def hear(self) -> None:
        """Nobody says anything."""

    def recent_failures(self) -> Sequence[Any]:
        """Nobody else runs."""
        return ()

    hand_offs = recent_failures

    def peers(self) -> Peers:
        """Nobody else runs."""
        return Peers()


@pytest.fixture
def clone(tmp_path: Path) -> LocalClone:
    """The parcel desk as a repository."""
    return LocalClone.of(REPOSITORY / "examples" / "parcel_desk", tmp_path / "clone")


@pytest.fixture
def models() -> Iterator[AnthropicModels]:
    """Our models over a running offline server."""
    with OfflineServer(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        with open_client(threads=2, base_url=server.base_url, api_key="offline") as client:
            yield AnthropicModels(client, tiers=TIERS, profile=PROFILES["anthropic"])
        server.shutdown()
        thread.join(timeout=5)


def recall_of(path: Path) -> Any:
    """Passages that share words with the query, shown as the real tool shows them."""

    def recall(query: str, limit: int) -> str:
        words = {word.lower().rstrip("?s") for word in query.split() if len(word) > 3}
        found = []
        for file in sorted([*path.rglob("*.py"), *path.rglob("*.md")]):
            name = file.relative_to(path).as_posix()
            for passage in cut(name, file.read_text().split("\n")):
                score = sum(word in passage.text.lower() for word in words)
                lines = enumerate(passage.text.split("\n"), start=passage.line_start)
                place = f"{name}:{passage.line_start}-{passage.line_end}"
                found.append((score, "\n".join([place, *[f"{number}: {line}" for number, line in lines]])))
        found.sort(key=lambda item: -item[0])
        return "\n\n".join(text for _, text in found[:limit])

    return recall


def run(
    name: str,
    clone: LocalClone,
    models: AnthropicModels,
    *,
    goal: str = GOAL,
    arguments: Mapping[str, JsonValue] | None = None,
    inputs: Mapping[str, JsonValue] | None = None,
) -> tuple[Any, Journal]:
    """Run a role's step to its end and give its result."""
    role = load_roles(REPOSITORY / "workers" / "roles")[name]
    context = ToolContext(
        run_id=uuid4(),
        step_id=uuid4(),
        step_key=name,
        arguments=arguments or {},
        inputs=inputs or {},
        results=lambda key: None,
        open_workspace=lambda: clone,
        recall=recall_of(clone.path),
        plan=BEGINNING,
        roles=frozenset(load_roles(REPOSITORY / "workers" / "roles")),
    )
    journal = Journal()
    outcome = run_agent(
        AgentTask(
            goal=goal,
            role=role,
            instruction="Do your part.",
            repository=json.loads(take_stock(clone.path).model_dump_json()),
            finish=FINISH_TOOLS[role.output],
            context=context,
            max_turns=role.max_turns,
        ),
        recorder=journal,  # type: ignore[arg-type]
        models=models,
        tools=registered_tools(),
    )
    assert isinstance(outcome, Finished), outcome
    answers = [fact for fact in journal.facts if isinstance(fact, ModelResponded)]
    assert answers
    assert {fact.model for fact in answers} == {MODEL}
    assert all(NOTICE in json.dumps(fact.content) and fact.cost_microusd == 0 for fact in answers)
    return outcome, journal


def test_planner_makes_the_plan_of_an_audit(clone: LocalClone, models: AnthropicModels) -> None:
    outcome, journal = run("planner", clone, models)

    assert outcome.patch is not None
    assert {"scan", "tests-before", "fix", "verify", "report", "render"} <= {step.key for step in outcome.patch.add}
    assert sum(isinstance(fact, ModelRequested) for fact in journal.facts) == 1


def test_triager_judges_what_the_real_scan_found(clone: LocalClone, models: AnthropicModels) -> None:
    scan = json.loads(scan_tree(clone.path).model_dump_json())
    place = {finding["finding_id"]: (finding["path"], finding["category"]) for finding in scan["findings"]}

    outcome, _ = run("triager", clone, models, arguments={"shard": 0, "shards": 1}, inputs={"scan": scan})

    verdicts = outcome.result["verdicts"]
    assert {verdict["finding_id"] for verdict in verdicts} == place.keys()
    dismissed = {place[one["finding_id"]] for one in verdicts if one["verdict"] == "dismissed"}
    assert dismissed == {("parcel_desk/store.py", "sql-injection"), ("parcel_desk/documents.py", "weak-hash")}
    assert not [one for one in verdicts if one["verdict"] == "needs_person"]


def test_instruction_in_the_readme_changes_no_verdict(
    clone: LocalClone, models: AnthropicModels, tmp_path: Path
) -> None:
    quiet = LocalClone.of(REPOSITORY / "examples" / "parcel_desk", tmp_path / "quiet")
    (quiet.path / "README.md").write_text("# Parcel desk\n")
    quiet.commit("Say nothing")

    results = []
    for one in (clone, quiet):
        scan = json.loads(scan_tree(one.path).model_dump_json())
        results.append(
            run("triager", one, models, arguments={"shard": 0, "shards": 1}, inputs={"scan": scan})[0].result
        )

    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("question", "path"),
    [
        ("Where are HTTP routes registered?", "parcel_desk/app.py"),
        ("How are labels printed?", "parcel_desk/labels.py"),
    ],
)
def test_researcher_quotes_the_repository(clone: LocalClone, models: AnthropicModels, question: str, path: str) -> None:
    outcome, _ = run("researcher", clone, models, arguments={"question": question})

    answer = Answer.model_validate(outcome.result)
    for quote in answer.quotes:
        lines = (clone.path / quote.path).read_text().split("\n")
        quoted = quote.text.split("\n")
        assert lines[quote.line - 1 : quote.line - 1 + len(quoted)] == quoted
    assert answer.found
    assert path in {quote.path for quote in answer.quotes}


def test_coder_applies_the_planted_fixes_and_hands_over_the_slice(clone: LocalClone, models: AnthropicModels) -> None:
    outcomes = {
        "tests/test_billing.py::test_parcel_is_settled_once_its_invoice_is_paid": "failed",
        "tests/test_timeline.py::test_newest_events_come_first": "failed",
    }
    before: JsonValue = {"command": ["pytest"], "runnable": True, "outcomes": {**outcomes}, "output_tail": ""}

    outcome, _ = run("coder", clone, models, inputs={"tests-before": before})

    fixes = {(fix["rule"], fix["path"]) for fix in outcome.result["fixes"]}
    assert {("F632", "parcel_desk/billing.py"), ("F401", "parcel_desk/app.py")} <= fixes
    subjects = [task["subject"] for task in outcome.result["human_tasks"]]
    assert len(subjects) == 1
    assert subjects[0].startswith("tests/test_timeline.py::test_newest_events_come_first")
    assert outcome.commit == clone.head_commit != clone.base_commit


def test_writer_ends_in_one_turn(clone: LocalClone, models: AnthropicModels) -> None:
    verdict = {"finding_id": "f", "verdict": "confirmed", "reason": "r", "advice": ""}

    outcome, _ = run("writer", clone, models, inputs={"triage-1": {"verdicts": [verdict]}})

    assert outcome.result["headline"].startswith("1 problem confirmed")
    assert NOTICE in outcome.result["notes"]
