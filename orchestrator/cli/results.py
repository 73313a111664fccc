"""What a run came to: its verdict for people, and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import JsonValue
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from chargehand.orchestrator import views
from chargehand.orchestrator.cli.terminal import STATUS_STYLES, duration, money, one_line, plain, plural, short
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.views import Account

REPORT, SARIF, PATCH = "report.md", "findings.sarif", "changes.patch"
FILES = (REPORT, SARIF, PATCH)
# The step whose result holds the words that a person reads first.
REPORT_STEP = "report"
# A result of a plan of your own may be anything, and large.
MAX_RESULT_CHARACTERS = 2_000
# Steps that a run went on without are named up to so many; a map may tolerate hundreds.
MOST_MISSING = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A run that has ended, as it is told to people and programs."""

    run_id: UUID
    status: str
    reason: str
    headline: str
    verdict_lines: tuple[str, ...]
    result: JsonValue
    """Of the final steps; None unless the run succeeded."""
    partial: dict[str, JsonValue]
    """Of a run that did not: key → what its succeeded steps gave, as far as it came."""
    failed_steps: dict[str, str]
    """key → error."""
    account: Account
    files: dict[str, str]
    """name → path, of what was written."""


def outcome_of(client: Client, handle: RunHandle, *, files: dict[str, Path]) -> Outcome:
    """How the run ended; `files`: what `write_files` wrote."""
    run = handle.status()
    failed = {step.key: step.error for step in handle.steps() if step.status == "failed"}
    with client.session() as session:
        written = views.results(session, handle.run_id, [REPORT_STEP]).get(REPORT_STEP)
        account = views.account(session, handle.run_id)
        result = views.result_of(session, handle.run_id) if run.status == "succeeded" else None
        partial = {} if run.status == "succeeded" else views.partial_of(session, handle.run_id)
    words: Any = written.result if written is not None and isinstance(written.result, dict) else {}
    lines = words.get("verdict_lines")
    return Outcome(
        run_id=handle.run_id,
        status=run.status,
        reason=run.reason,
        headline=str(words.get("headline") or ""),
        verdict_lines=tuple(map(str, lines)) if isinstance(lines, list) else (),
        result=result,
        partial=partial,
        failed_steps=failed,
        account=account,
        files={name: str(path) for name, path in files.items()},
    )


def default_folder(run_id: UUID) -> Path:
    """Where a run's files go when nobody says."""
    return Path(f"chargehand-{short(run_id)}")


def check_folder(folder: Path) -> Path:
    """The folder, if files can be written there later; raises `InvalidSettings` before anything has begun."""
    for place in (folder, *folder.absolute().parents):
        if place.is_dir():
            return folder
        if place.exists() or place.is_symlink():
            raise InvalidSettings(f"--out {folder} cannot be made: {place} is a file; name another folder.")
    return folder


def write_files(handle: RunHandle, folder: Path, names: Sequence[str] = FILES) -> dict[str, Path]:
    """Write the named results that the run kept into `folder`; gives their paths by name."""
    kept = handle.artifacts()
    written: dict[str, Path] = {}
    for name in names:
        if name not in kept:
            continue
        content = handle.artifact(name)
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise InvalidSettings(
                f"{path} cannot be written ({error.strerror}); give another folder: "
                f"chargehand result {short(handle.run_id)} --out DIR"
            ) from error
        written[name] = path
    return written


def print_outcome(console: Console, outcome: Outcome) -> None:
    """The verdict in a few lines, then where the files are."""
    console.print()
    if outcome.headline:
        console.print(Text(one_line(outcome.headline, 300), style="bold"), soft_wrap=True)
    for line in outcome.verdict_lines:
        # A terminal breaks between words, a file keeps the line whole.
        indented = Padding(Text(one_line(line, 500)), (0, 0, 0, 2), expand=False)
        console.print(indented, soft_wrap=not console.is_terminal)
    if outcome.status != "succeeded":
        style = STATUS_STYLES.get(outcome.status, "")
        reason = f": {one_line(outcome.reason, 500)}" if outcome.reason else ""
        console.print(Text.assemble((f"The run {_has(outcome.status)}", style), reason, "."), soft_wrap=True)
        for key, error in outcome.failed_steps.items():
            console.print(Text(f"  {one_line(key)}: {one_line(error, 500)}"), soft_wrap=True)
        for key, given in outcome.partial.items():
            console.print(
                Text.assemble("  has  ", (one_line(key), "bold"), f"  {one_line(_shown(given), 200)}"), soft_wrap=True
            )
    elif outcome.failed_steps:
        _print_missing(console, outcome.failed_steps)
    if outcome.status == "succeeded" and not outcome.verdict_lines:
        console.print(Text(plain(_shown(outcome.result), MAX_RESULT_CHARACTERS)), soft_wrap=True)
    if outcome.files:
        console.print()
    width = max((len(name) for name in outcome.files), default=0)
    for name, path in outcome.files.items():
        console.print(Text.assemble((f"  {name:<{width}}  ", "bold"), plain(_near(path))), soft_wrap=True)
    console.print()
    console.print(Text(account_line(outcome.account), style="dim"), soft_wrap=True)


def _print_missing(console: Console, failed: Mapping[str, str]) -> None:
    """What a run that reached its end is without: its plan let it go on."""
    lacks = f"Incomplete: {plural(len(failed), 'step')} failed, and the run went on without:"
    console.print(Text(lacks, style=STATUS_STYLES.get("failed", "")), soft_wrap=True)
    for key, error in list(failed.items())[:MOST_MISSING]:
        console.print(Text(f"  {one_line(key)}: {one_line(error, 200)}"), soft_wrap=True)
    if len(failed) > MOST_MISSING:
        console.print(Text(f"  and {len(failed) - MOST_MISSING} more (chargehand status)"), soft_wrap=True)


def account_line(account: Account) -> str:
    """Calls, money, time and the head of the journal in one line."""
    models = f" to {', '.join(account.models)}" if account.models else ""
    return (
        f"{plural(account.calls, 'model call')}{models}, {money(account.cost_microusd)}, "
        f"{duration(account.duration_seconds)}; journal head {account.head_hash[:16] or 'none'}"
    )


def print_detached(console: Console, run_id: UUID, *, why: str) -> None:
    """How to come back to a run that goes on by itself."""
    name = short(run_id)
    console.print(Text(f"{why}; run {name} goes on."), soft_wrap=True)
    console.print(Text(f"  watch it:  chargehand status {name} --follow"), soft_wrap=True)
    console.print(Text(f"  its files: chargehand result {name}"), soft_wrap=True)
    console.print(Text(f"  end it:    chargehand cancel {name}"), soft_wrap=True)


def _near(path: str) -> str:
    """The path as one would type it here."""
    absolute, here = Path(path).absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _has(status: str) -> str:
    return "was cancelled" if status == "cancelled" else status


def _shown(result: JsonValue) -> str:
    if result is None:
        return "Done, without a result."
    return result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False)
