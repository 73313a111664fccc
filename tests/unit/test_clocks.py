"""No process decides anything by what its own clock says: Postgres and Redis know what time it is."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("memory", "orchestrator", "workers")
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
# Each with the reason why a wrong clock does no harm there.
HARMLESS = {
    "orchestrator/runs.py": "in the id of a run, by which nothing is decided",
    "orchestrator/cron.py": "to try an expression, which any moment does for",
    "orchestrator/transport.py": "compared with Redis's first",
    "orchestrator/cli/diagnosis.py": "compared with that of Postgres, to tell people",
    "orchestrator/cli/following.py": "only when Postgres has not told the time",
    "orchestrator/cli/terminal.py": "words for people: 5 min ago",
    "orchestrator/laptop/machine.py": "compared with the start of a process of the same machine",
    "workers/offline/faults.py": "the stand-in's own record of calls",
}


def clocks_in(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    # Under another name it would not be seen.
    imported = {
        f"time.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
    }
    return (calls | imported) & CLOCKS


def test_clocks_are_looked_at_only_where_a_wrong_one_does_no_harm() -> None:
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert {str(file.relative_to(ROOT)) for file in files if clocks_in(file)} == HARMLESS.keys()
