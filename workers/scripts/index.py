"""The script `index`: what the repository says, remembered so that researchers can ask for it."""

import re
import time
from collections import Counter
from pathlib import PurePosixPath
from uuid import UUID

from pydantic import Field

from chargehand.memory.beliefs import MemoryItem, remember
from chargehand.workers.findings import Frozen
from chargehand.workers.scripts.base_tree import lines_of, list_files, read_files, text_of
from chargehand.workers.scripts.passages import cut
from chargehand.workers.scripts.registry import ScriptContext, script

# A longer file is data or generated: nobody asks what it says, and embedding it would take minutes.
MAX_FILE_BYTES = 1024 * 1024
# Nobody writes such lines; minified code would fill passages that no model can read.
MAX_LINE_CHARACTERS = 2_000
# What is more is not one question's repository; words alone cost a millisecond each.
MAX_PASSAGES = 20_000
# Embedding costs some 30 ms a passage: after this long the rest is found by its words only, and the report says so.
MAX_EMBEDDING_SECONDS = 30.0
# One transaction embeds this many; it must end well within `idle_in_transaction_session_timeout`.
BATCH = 32
# Between two lines in the live tree.
PROGRESS_SECONDS = 1.0

VENDORED = frozenset(
    {
        "vendor",
        "vendored",
        "third_party",
        "thirdparty",
        "third-party",
        "node_modules",
        "bower_components",
        "site-packages",
        "dist",
        "build",
        ".venv",
        "venv",
        "__pycache__",
        ".tox",
        ".eggs",
        "_vendor",
    }
)
GENERATED = re.compile(
    r".*(\.min\.(js|css)|\.map|\.lock|-lock\.(json|yaml)|\.svg|\.csv|\.tsv|\.ipynb|_pb2\.py)", re.DOTALL
)
TESTS = re.compile(r"(.*/)?(tests?/|test_|conftest)", re.DOTALL)


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
    started = time.monotonic()
    scope, embedder = run_scope(context.run_id), context.embedder()
    items, files, skipped = collect(context, max_passages=max_passages)
    reported, embedded = started, 0
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        in_time = time.monotonic() - started < max_embedding_seconds
        with context.open_session() as session:
            remember(
                session,
                tenant=context.tenant,
                scope=scope,
                items=batch,
                embedder=embedder if in_time else None,
            )
        embedded += len(batch) if in_time else 0
        if time.monotonic() - reported >= PROGRESS_SECONDS:
            reported = time.monotonic()
            context.report_progress(f"indexed {min(start + BATCH, len(items))} of {len(items)} passages")
    context.report_progress(f"indexed {len(items)} passages of {files} files")
    return IndexReport(
        files=files,
        passages=len(items),
        embedded=embedded,
        skipped=dict(sorted(skipped.items())),
        scope=scope,
        model_id=embedder.model_id,
        duration_seconds=round(time.monotonic() - started, 3),
    )


def run_scope(run_id: UUID) -> str:
    """The scope that holds what one run has read."""
    return f"run:{run_id}"


def collect(context: ScriptContext, *, max_passages: int) -> tuple[list[MemoryItem], int, Counter[str]]:
    """The passages of the workspace, the number of files they come from, and why others were left out.

    Tests come last: if the index is full, they are what a researcher misses least.
    """
    workspace = context.open_workspace()
    skipped: Counter[str] = Counter()
    wanted = []
    for file in list_files(workspace):
        reason = unwanted(file.path, file.size_bytes)
        if reason is None:
            wanted.append(file)
        elif reason:
            skipped[reason] += 1
    wanted.sort(key=lambda file: (TESTS.match(file.path) is not None, file.path))
    items: list[MemoryItem] = []
    files = 0
    for file, content in read_files(workspace, wanted):
        text = text_of(content)
        lines = [] if text is None else lines_of(text)
        if text is None:
            skipped["binary"] += 1
        elif any(len(line) > MAX_LINE_CHARACTERS for line in lines):
            skipped["minified"] += 1
        elif len(items) >= max_passages:
            skipped["index full"] += 1
        else:
            passages = cut(file.path, lines)[: max_passages - len(items)]
            files += bool(passages)
            items.extend(
                MemoryItem(
                    source=file.path,
                    line_start=passage.line_start,
                    line_end=passage.line_end,
                    text=passage.text,
                    details={"commit": workspace.base_commit, "blob": file.blob},
                )
                for passage in passages
            )
    return items, files, skipped


def unwanted(path: str, size_bytes: int) -> str | None:
    """Why a file is not worth reading; "" for an empty one, which is no loss; None if it is."""
    if size_bytes == 0:
        return ""
    if size_bytes > MAX_FILE_BYTES:
        return "larger than 1 MB"
    if any(part.lower() in VENDORED for part in PurePosixPath(path).parts[:-1]):
        return "vendored"
    if GENERATED.fullmatch(path.lower()):
        return "generated or data"
    return None
