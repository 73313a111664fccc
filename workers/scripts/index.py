"""The script `index`: what the repository says, remembered so that researchers can ask for it."""

import time
from uuid import UUID

from pydantic import Field

from chargehand.memory.file_records import Library
from chargehand.memory.ingest import Ingested, ingest
from chargehand.memory.text_files import Listed
from chargehand.workers.findings import Frozen
from chargehand.workers.scripts.base_tree import list_files, read_files
from chargehand.workers.scripts.registry import ScriptContext, script

# What is more is not one question's repository; words alone cost a millisecond each.
MAX_PASSAGES = 20_000
# Embedding costs some 30 ms a passage: after this long the rest is found by its words only, and the report says so.
MAX_EMBEDDING_SECONDS = 30.0
# Between two lines in the live tree.
PROGRESS_SECONDS = 1.0


class IndexReport(Frozen):
    """What was remembered and what was left out."""

    files: int
    """Files with at least one passage."""
    passages: int
    embedded: int
    """Those that are found by their meaning too, not only by their words."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """Number of files left out, by reason."""
    scope: str
    """Where the passages are recalled from."""
    model_id: str
    duration_seconds: float


@script(name="index", effect="idempotent")
def index(
    context: ScriptContext,
    *,
    max_passages: int = MAX_PASSAGES,
    max_embedding_seconds: float = MAX_EMBEDDING_SECONDS,
) -> IndexReport:
    """Remember every text file of the base commit in passages; run again, it embeds only what is missing."""
    started = reported = time.monotonic()
    scope, embedder, workspace = run_scope(context.run_id), context.embedder(), context.open_workspace()
    files = {file.path: file for file in list_files(workspace)}

    def tell(done: Ingested) -> None:
        nonlocal reported
        if time.monotonic() - reported >= PROGRESS_SECONDS:
            reported = time.monotonic()
            context.report_progress(f"indexed {done.passages} passages of {done.seen} of {done.listed} files")

    done = ingest(
        Library(open_session=context.open_session, tenant=context.tenant, scope=scope, embedder=embedder),
        [Listed(source=file.path, size_bytes=file.size_bytes, blob=file.blob) for file in files.values()],
        lambda listed: zip(
            listed,
            (content for _, content in read_files(workspace, [files[file.source] for file in listed])),
            strict=True,
        ),
        details={"commit": workspace.base_commit},
        max_passages=max_passages,
        max_embedding_seconds=max_embedding_seconds,
        progress=tell,
    )
    context.report_progress(f"indexed {done.passages} passages of {done.files} files")
    return IndexReport(
        files=done.files,
        passages=done.passages,
        embedded=done.embedded,
        skipped=dict(done.skipped),
        scope=scope,
        model_id=embedder.model_id,
        duration_seconds=round(time.monotonic() - started, 3),
    )


def run_scope(run_id: UUID) -> str:
    """The scope that holds what one run has read."""
    return f"run:{run_id}"
