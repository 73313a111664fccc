"""The last script of an audit: writes `report.md` and `findings.sarif` from what the other steps left behind."""

import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from chargehand.memory.pathnames import shown
from chargehand.orchestrator.errors import InvalidWorkspace
from chargehand.orchestrator.prices import is_language_model
from chargehand.workers.findings import Frozen
from chargehand.workers.report.contents import ReportInput, RunFacts, TaintedInstruction
from chargehand.workers.report.document import compose_report
from chargehand.workers.report.gathering import gather_report
from chargehand.workers.report.instructions import find_instructions
from chargehand.workers.report.sarif import compose_sarif
from chargehand.workers.scripts.registry import ScriptContext, script

REPORT = "report.md"
SARIF = "findings.sarif"

DOCUMENT_SUFFIXES = frozenset({".md", ".rst", ".txt", ".mdc"})
DOCUMENT_NAMES = frozenset({"README", "AGENTS", "CLAUDE", "CONTRIBUTING", ".cursorrules"})
# Enough for the documents of a project; whoever hides an order in the 501st has no effect either.
DOCUMENTS = 500
DOCUMENT_BYTES = 256_000


class Rendered(Frozen):
    """What was written, by content hash."""

    report_sha256: str
    sarif_sha256: str
    findings: int
    gaps: tuple[str, ...]
    """What is missing from the report, one line each."""


@script(name="render", effect="idempotent", timeout_seconds=60.0)
def render(context: ScriptContext, *, steps: Sequence[str] = (), repository_uri: str = "") -> Rendered:
    """Write the report and the SARIF file of this run, and give their hashes.

    `steps` are the keys of the plan's steps, so that one without a result is reported as missing; by default all.
    """
    workspace = context.workspace
    report = gather(
        context,
        facts_of(context),
        steps=steps or [key for key in context.step_keys() if key != context.step_key],
        repository=name_of(workspace.source) if workspace is not None else "",
        repository_uri=repository_uri,
        uncommitted=workspace.uncommitted if workspace is not None else (),
    )
    context.report_progress(f"writing {REPORT} on {len(report.findings)} findings")
    markdown = compose_report(report).encode("utf-8", "backslashreplace")
    sarif = json.dumps(compose_sarif(report), indent=1).encode("ascii")
    return Rendered(
        report_sha256=context.put_artifact(REPORT, markdown),
        sarif_sha256=context.put_artifact(SARIF, sarif),
        findings=len(report.findings),
        gaps=report.gaps,
    )


def name_of(source: str) -> str:
    """What people call the repository at a path or URL."""
    return source.rstrip("/").rpartition("/")[2].removesuffix(".git") or source


def facts_of(context: ScriptContext) -> RunFacts:
    """What the run itself cost and did until now, counted from its journal."""
    account = context.account()
    return RunFacts(
        run_id=str(context.run_id),
        language_model_used=any(is_language_model(model) for model in account.models),
        models=account.models,
        calls=account.calls,
        input_tokens=account.input_tokens,
        output_tokens=account.output_tokens,
        cache_read_tokens=account.cache_read_tokens,
        cost_microusd=account.cost_microusd,
        duration_seconds=account.duration_seconds,
        journal_head=account.head_hash,
    )


def gather(
    context: ScriptContext,
    facts: RunFacts,
    *,
    steps: Sequence[str],
    repository: str,
    repository_uri: str,
    uncommitted: Sequence[str],
) -> ReportInput:
    """Everything that this run's steps left behind, and the orders to reviewers that the repository contains."""
    commit = ""
    instructions: tuple[TaintedInstruction, ...] = ()
    gaps: tuple[str, ...] = ()
    try:
        workspace = context.open_workspace()
        commit = workspace.base_commit
        instructions = tuple(read_instructions(workspace.path))
    except (InvalidWorkspace, OSError) as error:
        gaps = (f"The repository could not be read again, so nobody looked for orders to reviewers: {error}",)
    return gather_report(
        goal=context.goal,
        commit=commit,
        results=lambda key: context.inputs[key] if key in context.inputs else context.results(key),
        steps=steps or tuple(context.inputs),
        repository=repository,
        repository_uri=repository_uri,
        uncommitted=tuple(uncommitted),
        tool_version=version("chargehand"),
        instructions=instructions,
        gaps=gaps,
        facts=facts,
    )


def read_instructions(root: Path) -> Iterator[TaintedInstruction]:
    """Orders to reviewers in the documents of a work tree; links are not followed, so nothing outside is read."""
    for path in list(_documents(root))[:DOCUMENTS]:
        with path.open("rb") as document:
            text = document.read(DOCUMENT_BYTES).decode("utf-8", "replace")
        label = shown(str(path.relative_to(root)))
        yield from find_instructions(label, text)


def _documents(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            path = Path(folder, name)
            wanted = path.suffix.lower() in DOCUMENT_SUFFIXES or path.stem in DOCUMENT_NAMES
            if wanted and path.is_file() and not path.is_symlink():
                yield path
