"""Procedural memory: roles, each a Markdown file whose front matter says what it may do and whose text says how."""

import hashlib
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.memory.semantic_tables import RoleVersion

Tier = Literal["small", "medium", "large"]
# More than twenty turns without an answer is a loop, not diligence.
MAX_TURNS_CEILING = 20
DEFAULT_MAX_TURNS = 15
# A role is a page of instructions; more is somebody's data.
MAX_ROLE_BYTES = 64 * 1024

# Path, time of change and size of a role's file → its commit.
_COMMITS: dict[tuple[Path, int, int], str] = {}

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class InvalidRole(ValueError):
    """A role's file cannot be used; the message names the file, the field and the remedy."""


class RoleNotFound(LookupError):
    """No role of that name or hash."""


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
class Role:
    """What an agent of this role may do, and its instructions."""

    name: str
    description: str
    pool: str
    """Which workers run it: `research`, `coding`, `audit`, ..."""
    tier: Tier
    """The size of model it starts with."""
    tools: tuple[str, ...]
    max_turns: int
    output: str
    """The typed tool that it finishes with."""
    instructions: str
    text: str
    """The whole file."""
    blob_hash: str
    """git's blob hash of the file's text: the same in a checkout and in an installed package."""
    commit: str | None = None
    """The commit that the file is at, if it is in git and unchanged."""
    expires: Patience | None = None
    """None: its questions wait as the step or the settings say."""
    approve: tuple[str, ...] = ()
    """Tools each call of which a person approves before it is made."""


def load_roles(directory: Path) -> dict[str, Role]:
    """Every `*.md` of `directory` as a role, by name; raises `InvalidRole` for the first that cannot be used."""
    if not directory.is_dir():
        raise InvalidRole(f"{directory} is not a directory; give the folder that holds the roles' .md files.")
    roles: dict[str, Role] = {}
    for path in sorted(directory.glob("*.md")):
        role = parse_role(read_text(path), origin=str(path), commit=commit_of(path))
        if role.name in roles:
            raise InvalidRole(f"{path}: a second role is named {role.name!r}; give each its own name.")
        roles[role.name] = role
    return roles


def parse_role(text: str, *, origin: str, commit: str | None = None) -> Role:
    """A role from the text of its file; `origin` names it in errors."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        raise InvalidRole(f"{origin}: no front matter; begin the file with '---', the fields, and '---'.")
    end = next(number for number, line in enumerate(lines[1:], start=1) if line.strip() == "---")
    try:
        fields = FrontMatter.model_validate(yaml.safe_load("\n".join(lines[1:end])) or {})
    except yaml.YAMLError as error:
        raise InvalidRole(f"{origin}: the front matter is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'front matter'}: {problem['msg']}" for problem in error.errors()
        )
        raise InvalidRole(f"{origin}: {problems}.") from error
    not_its_own = [name for name in fields.approve if name not in fields.tools]
    if not_its_own:
        raise InvalidRole(f"{origin}: approve names {not_its_own[0]!r}, which is none of its tools; add it to tools.")
    instructions = "\n".join(lines[end + 1 :]).strip()
    if not instructions:
        raise InvalidRole(f"{origin}: no instructions; write them below the front matter.")
    return Role(
        **dict(fields),
        instructions=instructions,
        text=text,
        blob_hash=git_blob_hash(text.encode()),
        commit=commit,
    )


def pin_roles(session: Session, *, tenant: UUID, roles: Iterable[Role]) -> dict[str, str]:
    """Keep the text of the roles for as long as the run can be replayed, and give their hashes by name."""
    chosen = sorted(roles, key=lambda role: role.blob_hash)
    if chosen:
        session.execute(
            insert(RoleVersion).on_conflict_do_nothing(index_elements=["tenant", "hash"]),
            [
                {"tenant": tenant, "hash": role.blob_hash, "name": role.name, "text": role.text, "commit": role.commit}
                for role in chosen
            ],
        )
    return {role.name: role.blob_hash for role in chosen}


def role_at(session: Session, *, tenant: UUID, role_hash: str) -> Role:
    """The role as it was pinned, whatever the file says by now."""
    row = session.execute(
        select(RoleVersion.text, RoleVersion.commit).where(RoleVersion.tenant == tenant, RoleVersion.hash == role_hash)
    ).one_or_none()
    if row is None:
        raise RoleNotFound(f"No role with hash {role_hash!r} was pinned; submit the run again.")
    return parse_role(row.text, origin=f"role {role_hash}", commit=row.commit)


def choose(roles: Mapping[str, Role], name: str) -> Role:
    """The role of that name, or `RoleNotFound` with the names there are."""
    try:
        return roles[name]
    except KeyError:
        raise RoleNotFound(f"No role is named {name!r}; there are: {', '.join(sorted(roles)) or 'none'}.") from None


def git_blob_hash(content: bytes) -> str:
    """What `git hash-object` gives."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def read_text(path: Path) -> str:
    """The file's text, if it is UTF-8 and no longer than a role can be."""
    content = path.read_bytes()
    if len(content) > MAX_ROLE_BYTES:
        raise InvalidRole(f"{path}: {len(content)} bytes; a role holds at most {MAX_ROLE_BYTES}.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRole(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8.") from error


def commit_of(path: Path) -> str | None:
    """The commit that last touched the file, if it is tracked and unchanged since; None without git.

    Git is asked once for each version of a file that it knows: a submission reads every role, twice.
    """
    stat = path.stat()
    version = (path, stat.st_mtime_ns, stat.st_size)
    if version in _COMMITS:
        return _COMMITS[version]
    try:
        unchanged = git(path, "diff", "--quiet", "HEAD", "--", path.name)
        last = git(path, "log", "-1", "--format=%H", "--", path.name)
    except OSError:
        return None
    if unchanged.returncode != 0 or last.returncode != 0:
        return None
    commit = last.stdout.strip() or None
    if commit is not None:
        _COMMITS[version] = commit
    return commit


def git(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Git's answer about a file, asked in its folder."""
    return subprocess.run(
        ["git", "-C", str(path.parent), *arguments], capture_output=True, text=True, timeout=10, check=False
    )
