"""What a role's file may say, and what is wrong with one, each problem with its line; pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Tier = Literal["small", "medium", "large"]
# More than twenty turns without an answer is a loop, not diligence.
MAX_TURNS_CEILING = 20
DEFAULT_MAX_TURNS = 15

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class Patience(BaseModel):
    """How long questions of an agent wait for a person, and what they come to then."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after_seconds: float = Field(gt=0)
    then: Literal["fail", "skip", "retry"] = "fail"


class FrontMatter(BaseModel):
    """The fields between the two `---` lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Slug
    description: str = Field(min_length=1)
    pool: Slug
    tier: Tier
    tools: tuple[Slug, ...] = ()
    approve: tuple[Slug, ...] = ()
    max_turns: int = Field(default=DEFAULT_MAX_TURNS, ge=1, le=MAX_TURNS_CEILING)
    output: Slug
    expires: Patience | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that is wrong with a role's file."""

    line: int
    """1-based."""
    what: str
    """The field and the remedy."""


def read_role(text: str) -> tuple[FrontMatter | None, str, tuple[Problem, ...]]:
    """The fields, the instructions, and all that is wrong, in the order of lines."""
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if line.strip() == "---"]
    if len(marks) < 2 or marks[0] != 0:
        what = "no front matter; begin the file with '---', the fields, and '---'"
        return None, "", (Problem(line=1, what=what),)
    fields, problems = _read_fields(lines[1 : marks[1]])
    instructions = "\n".join(lines[marks[1] + 1 :]).strip()
    if not instructions:
        problems.append(Problem(line=len(lines), what="no instructions; write them below the front matter"))
    return fields, instructions, tuple(sorted(problems, key=lambda problem: problem.line))


def line_of(text: str, field: str) -> int:
    """The line on which a field of the front matter stands; 1 when it is not there."""
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if line.strip() == "---"]
    try:
        node = yaml.compose("\n".join(lines[1 : marks[1]]), Loader=yaml.SafeLoader)
    except (IndexError, yaml.YAMLError):
        return 1
    return next((key.start_mark.line + 2 for key, _ in _pairs(node) if key.value == field), 1)


def _read_fields(lines: Sequence[str]) -> tuple[FrontMatter | None, list[Problem]]:
    written = "\n".join(lines)
    try:
        node = yaml.compose(written, Loader=yaml.SafeLoader)
        values = yaml.safe_load(written) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = " ".join(str(error).split())
        return None, [Problem(line=mark.line + 2 if mark else 1, what=f"the front matter is not YAML: {said}")]
    problems = [
        Problem(line=key.start_mark.line + 2, what=f"{key.value}: written twice; the second one would count, keep one")
        for number, (key, _) in enumerate(_pairs(node))
        if key.value in [earlier.value for earlier, _ in list(_pairs(node))[:number]]
    ]
    try:
        fields = FrontMatter.model_validate(values)
    except ValidationError as error:
        problems += [
            Problem(
                line=_line_at(node, problem["loc"]),
                what=f"{'.'.join(map(str, problem['loc'])) or 'front matter'}: {problem['msg']}",
            )
            for problem in error.errors()
        ]
        return None, problems
    for name in fields.approve:
        if name not in fields.tools:
            what = f"approve names {name!r}, which is none of its tools; add it to tools"
            problems.append(Problem(line=_line_at(node, ("approve",)), what=what))
    return fields, problems


def _pairs(node: Any) -> Iterator[tuple[Any, Any]]:
    yield from node.value if isinstance(node, yaml.MappingNode) else ()


def _line_at(node: Any, place: tuple[int | str, ...]) -> int:
    """The line of a value, or of the nearest thing around it that is there; the first `---` for what is missing."""
    line = 1
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 2
            continue
        found = next(((key, value) for key, value in _pairs(node) if key.value == part), None)
        if found is None:
            break
        node = found[1]
        line = found[0].start_mark.line + 2
    return line
