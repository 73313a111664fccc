"""Procedural memory: roles, each a Markdown file whose front matter says what it may do and whose text says how."""

import hashlib
import math
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chargehand.memory.role_files import Patience, Problem, Tier, read_role
from chargehand.memory.semantic_tables import RoleVersion

# A role is a page of instructions; more is somebody's data.
MAX_ROLE_BYTES = 64 * 1024

# Path, time of change and size of a role's file → its commit, and until when that is believed.
_COMMITS: dict[tuple[Path, int, int], tuple[str | None, float]] = {}
# A file of no commit may be committed as it is; until that is seen, its text is pinned without one.
NO_COMMIT_SECONDS = 30.0
# Parsing a role's YAML takes a millisecond, and each submission needs all of them.
PARSED_ROLES = 256


class InvalidRole(ValueError):
    """A role's file cannot be used; the message names the file, the field and the remedy."""


class RoleNotFound(LookupError):
    """No role of that name or hash."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedRole:
    """A role and where it is from."""

    role: Role
    path: Path
    overrides: tuple[Path, ...] = ()
    """Files of the same name in later folders, which nobody uses."""


def load_roles(*folders: Path) -> dict[str, Role]:
    """Every role of these folders by name, of one name that of the first folder; raises `InvalidRole` for a wrong one.

    A role is a `*.md` file; those in capitals (`README.md`) are about the roles.
    """
    return {name: placed.role for name, placed in place_roles(*folders).items()}


def place_roles(*folders: Path) -> dict[str, PlacedRole]:
    """As `load_roles`, each with its file and with what it takes the place of."""
    placed: dict[str, PlacedRole] = {}
    for folder in folders:
        own: dict[str, Path] = {}
        for path in role_paths(folder):
            role = parse_role(read_text(path), origin=str(path), commit=commit_of(path))
            if role.name in own:
                raise InvalidRole(f"{path}: a second role is named {role.name!r}; give each its own name.")
            own[role.name] = path
            first = placed.get(role.name)
            if first is None:
                placed[role.name] = PlacedRole(role=role, path=path)
            else:
                placed[role.name] = replace(first, overrides=(*first.overrides, path))
    return dict(sorted(placed.items()))


def role_paths(folder: Path) -> list[Path]:
    """The files of a folder that are roles; raises `InvalidRole` when there is no such folder."""
    if not folder.is_dir():
        raise InvalidRole(f"{folder} is not a directory; give the folder that holds the roles' .md files.")
    return sorted(path for path in folder.glob("*.md") if not path.stem.isupper())


def parse_role(text: str, *, origin: str, commit: str | None = None) -> Role:
    """A role from the text of its file; `origin` names it in errors."""
    role, problems = _parsed(text)
    if role is None:
        # What is wrong is told in one line, where it is wrong by `roles check`.
        raise InvalidRole(f"{origin}: {'; '.join(problem.what for problem in problems)}.")
    return role if commit is None else replace(role, commit=commit)


@lru_cache(maxsize=PARSED_ROLES)
def _parsed(text: str) -> tuple[Role | None, tuple[Problem, ...]]:
    """The role of a text, or all that is wrong with it: the same for the same text."""
    fields, instructions, problems = read_role(text)
    if fields is None or problems:
        return None, problems
    role = Role(**dict(fields), instructions=instructions, text=text, blob_hash=git_blob_hash(text.encode()))
    return role, ()


def pinned_role(session: Session, *, tenant: UUID, name: str, beginning: str) -> Role:
    """The version of a role that some run pinned, by a beginning of its hash; raises `RoleNotFound`."""
    rows = session.execute(
        select(RoleVersion.hash)
        .where(
            RoleVersion.tenant == tenant,
            RoleVersion.name == name,
            RoleVersion.hash.startswith(beginning, autoescape=True),
        )
        .order_by(RoleVersion.hash)
        .limit(2)
    ).all()
    if len(rows) != 1:
        found = "More than one version" if rows else "No version"
        raise RoleNotFound(
            f"{found} of role {name!r} that a run has pinned begin with {beginning!r}; give more digits."
        )
    return role_at(session, tenant=tenant, role_hash=rows[0].hash)


def pin_roles(session: Session, *, tenant: UUID, roles: Iterable[Role]) -> dict[str, str]:
    """Keep the text of the roles for as long as the run can be replayed, and give their hashes by name."""
    chosen = sorted(roles, key=lambda role: role.blob_hash)
    hashes = [role.blob_hash for role in chosen]
    kept = RoleVersion.tenant == tenant, RoleVersion.hash.in_(hashes)
    # All but the first run of a version find it: their texts need not be sent.
    known = set(session.scalars(select(RoleVersion.hash).where(*kept))) if chosen else set()
    if missing := [role for role in chosen if role.blob_hash not in known]:
        session.execute(
            insert(RoleVersion).on_conflict_do_nothing(index_elements=["tenant", "hash"]),
            [
                {"tenant": tenant, "hash": role.blob_hash, "name": role.name, "text": role.text, "commit": role.commit}
                for role in missing
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

    Git is asked once for each version of a file that it knows, and now and then for one that it does not: a
    submission reads every role.
    """
    stat = path.stat()
    version = (path, stat.st_mtime_ns, stat.st_size)
    known, until = _COMMITS.get(version, (None, 0.0))
    if time.monotonic() < until:
        return known
    commit = _ask_git(path)
    _COMMITS[version] = commit, math.inf if commit is not None else time.monotonic() + NO_COMMIT_SECONDS
    return commit


def _ask_git(path: Path) -> str | None:
    try:
        unchanged = git(path, "diff", "--quiet", "HEAD", "--", path.name)
        last = git(path, "log", "-1", "--format=%H", "--", path.name)
    except OSError:
        return None
    if unchanged.returncode != 0 or last.returncode != 0:
        return None
    return last.stdout.strip() or None


def git(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Git's answer about a file, asked in its folder."""
    return subprocess.run(
        ["git", "-C", str(path.parent), *arguments], capture_output=True, text=True, timeout=10, check=False
    )
