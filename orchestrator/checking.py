"""Everything that is wrong with files of roles: what they say, and what they name that nobody here knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chargehand.memory.procedural import InvalidRole, read_text, role_paths
from chargehand.memory.role_files import FrontMatter, line_of, read_role
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.offers import Offers
from chargehand.orchestrator.plan import POOLS


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """Something that is wrong, and where."""

    path: Path
    line: int
    """1-based."""
    what: str


def check_folders(folders: Sequence[Path], offers: Offers | None) -> tuple[int, tuple[FileProblem, ...]]:
    """How many roles these folders (or files) hold, and what is wrong with them, file by file and line by line.

    Without `offers` it is not asked whether somebody knows their tools and outputs. Raises `UserError` for a path that
    is not there.
    """
    checked = 0
    problems: list[FileProblem] = []
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder} does not exist; name a role's file or a folder of roles.")
        names: dict[str, Path] = {}
        for path in [folder] if folder.is_file() else role_paths(folder):
            checked += 1
            try:
                text = read_text(path)
            except (InvalidRole, OSError) as error:
                problems.append(FileProblem(path=path, line=1, what=str(error).removeprefix(f"{path}: ")))
                continue
            fields, _, wrong = read_role(text)
            found = [(problem.line, problem.what) for problem in wrong]
            if fields is not None:
                found += _unknown(fields, text, offers)
                if fields.name in names:
                    what = f"name: a second role is named {fields.name!r}, after {names[fields.name].name}"
                    found.append((line_of(text, "name"), what))
                names.setdefault(fields.name, path)
            problems += [FileProblem(path=path, line=line, what=what) for line, what in sorted(found)]
    return checked, tuple(problems)


def _unknown(fields: FrontMatter, text: str, offers: Offers | None) -> list[tuple[int, str]]:
    found = []
    if fields.pool not in POOLS:
        found.append((line_of(text, "pool"), f"pool: {fields.pool!r} is none of {', '.join(POOLS)}"))
    if offers is None:
        return found
    known = f"known: {', '.join(sorted(offers.tools))}"
    if offers.broken:
        known = f"{known}; {'; '.join(offers.broken)}"
    found += [
        (line_of(text, "tools"), f"tools: no worker here knows {tool!r}; {known}")
        for tool in fields.tools
        if tool not in offers.tools
    ]
    if fields.output not in offers.outputs:
        outputs = ", ".join(sorted(offers.outputs))
        found.append((line_of(text, "output"), f"output: no worker here knows {fields.output!r}; known: {outputs}"))
    return found
