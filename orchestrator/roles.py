"""A program's own roles: instructions in a Markdown file, output and tools in Python."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import yaml
from pydantic import BaseModel

from chargehand.memory import procedural
from chargehand.memory.procedural import InvalidRole, Role
from chargehand.orchestrator.drafts import Chainable, Draft, holds_drafts
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.outputs import OUTPUTS, register_output
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.requests import microusd


class Named(Protocol):
    """A tool, of which only the name travels."""

    @property
    def name(self) -> str:
        """Under which workers have registered it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenRole(Role):
    """A role that a program brings; `step` lets an agent work in it."""

    output_model: type[BaseModel] | None = None
    """What its agents give; None when the file names the output."""

    def step(
        self,
        instruction: str,
        *,
        inputs: Chainable = (),
        max_turns: int | None = None,
        budget_usd: str | Decimal | None = None,
        urgent: bool = True,
        **facts: object,
    ) -> Draft:
        """An agent's task. It waits for `inputs` and is shown their results; `facts` are handed over with it.

        `budget_usd`: the part of the run's budget that it may spend, with the colleagues it asks. `urgent=False`: its
        calls may take hours, and go through the batch API at half price.
        """
        if not instruction.strip():
            raise InvalidPlan(f"A step of role {self.name!r} has no instruction; say what the agent is to do.")
        passed = [name for name, value in facts.items() if holds_drafts(value)]
        if passed:
            raise InvalidPlan(f"{passed[0]!r} is a step; agents are shown results with `inputs=[…]`.")
        return Draft(
            name=self.name,
            fields={
                "kind": "agent",
                "role": self.name,
                "pool": self.pool,
                "instruction": instruction,
                "max_turns": max_turns,
                "urgent": urgent,
                "budget_microusd": None if budget_usd is None else microusd(budget_usd),
            },
            arguments=facts,
            gives=self.output_model,
            inputs=inputs,
            role=self,
        )


def role(
    path: str | Path, *, output: type[BaseModel] | None = None, tools: Iterable[Named | str] | None = None
) -> WrittenRole:
    """The role of a Markdown file, `output` and `tools` taking the place of what its front matter says.

    A relative path is looked up beside the file that calls this, so that workers, which import the same module
    elsewhere, find it too. Raises `InvalidRole`.
    """
    file = _beside_caller(Path(path))
    if not file.is_file():
        raise InvalidRole(f"{file} is no file; give the path of a role's .md file.")
    overrides: dict[str, object] = {}
    if output is not None:
        overrides["output"] = register_output(output)
    if tools is not None:
        overrides["tools"] = sorted({tool if isinstance(tool, str) else tool.name for tool in tools})
    text = procedural.read_text(file)
    parsed = procedural.parse_role(
        _with_front_matter(text, overrides), origin=str(file), commit=procedural.commit_of(file)
    )
    if parsed.pool not in POOLS:
        raise InvalidRole(f"{file}: pool {parsed.pool!r} is none of {', '.join(POOLS)}; name one of them.")
    values = {field.name: getattr(parsed, field.name) for field in fields(Role)}
    return WrittenRole(**values, output_model=output or OUTPUTS.get(parsed.output))


def _with_front_matter(text: str, overrides: dict[str, object]) -> str:
    """The text with other fields; unchanged when there are none, or when it has no front matter to change."""
    lines: Sequence[str] = text.splitlines()
    marks = [number for number, line in enumerate(lines) if line.strip() == "---"]
    if not overrides or len(marks) < 2 or marks[0] != 0:
        return text
    try:
        known = yaml.safe_load("\n".join(lines[1 : marks[1]])) or {}
    except yaml.YAMLError:
        return text
    if not isinstance(known, dict):
        return text
    front = yaml.safe_dump({**known, **overrides}, sort_keys=False, allow_unicode=True, width=1_000)
    return "\n".join(["---", front.rstrip("\n"), "---", *lines[marks[1] + 1 :], ""])


def _beside_caller(path: Path) -> Path:
    frame = inspect.currentframe()
    caller = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
    # A prompt has no file: there it is the working directory.
    file = caller.f_globals.get("__file__") if caller is not None else None
    return path if path.is_absolute() or not file else Path(file).resolve().parent / path
