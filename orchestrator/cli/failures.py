"""Errors as people read them: one line that says what, which value and what to do, and the exit code."""

import os
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pydantic
import redis
import typer
from rich.text import Text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import OperationalError as NoDatabase

from chargehand.memory.artifacts import ArtifactMissing
from chargehand.memory.git import GitFailed, StorageFull
from chargehand.memory.model_check import MixedModels
from chargehand.memory.procedural import InvalidRole, RoleNotFound
from chargehand.memory.sources import RepositoryUnreadable
from chargehand.memory.vectors import EmbeddingFailed, EmbeddingModelMissing
from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.terminal import notes, plain
from chargehand.orchestrator.errors import RunCancelled, RunFailed, Unavailable, UserError, WaitTimeout
from chargehand.orchestrator.settings import default_home

# An error of a server may quote a whole statement.
MAX_LINE = 600
NO_SCHEMA = "The database has no Chargehand schema, or an older one; `chargehand up` brings it up to date."


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An error that is somebody's to mend."""

    line: str
    exit_code: int


def report(error: Exception) -> int:
    """Tell the user on standard error; gives the exit code. `CHARGEHAND_DEBUG=1` shows the traceback as well."""
    failure = describe(error)
    if failure is None:
        log = write_traceback(error)
        where = f"the traceback is in {log}" if log else "set CHARGEHAND_DEBUG=1 to see the traceback"
        said = str(error).strip().splitlines() or [""]
        line = f"Chargehand made a mistake ({type(error).__name__}: {said[0]}); {where}."
        failure = Failure(line=line, exit_code=exits.BROKEN)
    if os.environ.get("CHARGEHAND_DEBUG", "") not in ("", "0"):
        notes().print(Text("".join(traceback.format_exception(error))), soft_wrap=True)
    if failure.line:
        notes().print(Text.assemble(("Error: ", "bold red"), plain(failure.line)), soft_wrap=True)
    return failure.exit_code


def describe(error: Exception) -> Failure | None:
    """The failure that an error stands for; None when nobody foresaw it."""
    if lacks_schema(error):
        return Failure(line=NO_SCHEMA, exit_code=exits.UNAVAILABLE)
    match error:
        case typer.Abort():
            return Failure(line="Aborted.", exit_code=exits.INTERRUPTED)
        case typer.TyperException():
            return Failure(line=_usage(error), exit_code=exits.WRONG_REQUEST)
        case UserError() | RepositoryUnreadable() | InvalidRole() | RoleNotFound() | MixedModels():
            return Failure(line=_one_line(error), exit_code=exits.WRONG_REQUEST)
        case RunFailed() | RunCancelled() | ArtifactMissing():
            return Failure(line=_one_line(error), exit_code=exits.FAILED)
        case WaitTimeout():
            return Failure(line=_one_line(error), exit_code=exits.TIMED_OUT)
        case Unavailable() | StorageFull() | EmbeddingModelMissing() | EmbeddingFailed():
            # The end of a log may follow; it is worth more than its line breaks.
            return Failure(line=str(error), exit_code=exits.UNAVAILABLE)
        case NoDatabase() | psycopg.OperationalError():
            why = _one_line(error.orig if isinstance(error, DBAPIError) and error.orig else error)
            return Failure(line=f"Postgres does not answer: {why}", exit_code=exits.UNAVAILABLE)
        case redis.ConnectionError() | redis.TimeoutError():
            return Failure(line=f"Redis does not answer: {_one_line(error)}", exit_code=exits.UNAVAILABLE)
        case pydantic.ValidationError() if error.title == "Settings":
            problem = error.errors()[0]
            name = f"CHARGEHAND_{'_'.join(map(str, problem['loc'])).upper()}"
            return Failure(line=f"{name} cannot be used: {problem['msg']}.", exit_code=exits.WRONG_REQUEST)
        case GitFailed():
            return Failure(line=_one_line(error), exit_code=exits.FAILED)
        case _:
            return None


def lacks_schema(error: BaseException | None) -> bool:
    """Whether a server that answers does not know our role or tables."""
    while error is not None:
        original = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(original, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            return True
        # A user who may not act as one of our roles has a schema, and is told so by whoever asked for the role.
        said = str(original)
        if isinstance(original, psycopg.OperationalError) and 'role "chargehand' in said and "permission" not in said:
            return True
        error = error.__cause__
    return False


def write_traceback(error: Exception) -> Path | None:
    """Keep the traceback for a bug report; gives the file, or None when none could be written."""
    home = Path(os.environ.get("CHARGEHAND_HOME") or default_home())
    for folder in (home / "logs", Path(tempfile.gettempdir())):
        log = folder / "chargehand-cli.log"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(log, "a", encoding="utf-8", errors="backslashreplace", opener=_private) as file:
                file.write("".join(traceback.format_exception(error)) + "\n")
        except OSError:
            continue
        return log
    return None


def _private(path: str, flags: int) -> int:
    # In /tmp somebody may have put a link there for us to follow.
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _usage(error: typer.TyperException) -> str:
    said = _one_line(Exception(error.format_message())).rstrip(".")
    if not said:
        return ""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "chargehand"
    return f"{said}; see `{command} --help`."


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"
