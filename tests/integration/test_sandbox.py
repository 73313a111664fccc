"""Code in the sandbox is attacked from the inside: each test tries one way out, or one way to hurt the machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from chargehand.workers import sandbox
from chargehand.workers.bounded import HEAD_BYTES, TAIL_BYTES

PYTHON = [sys.executable, "-I", "-c"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    status = sandbox.available()
    if not status.ok:
        if "CI" in os.environ:
            pytest.fail(status.reason)
        pytest.skip(status.reason)
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "a.py").write_text("a = 1\n")
    return folder


def inside(
    workspace: Path, code: str, *, writable: bool = True, timeout_seconds: float = 60.0, memory_bytes: int = 1 << 30
) -> sandbox.SandboxResult:
    return sandbox.run(
        [*PYTHON, code],
        workspace=workspace,
        writable=writable,
        timeout_seconds=timeout_seconds,
        memory_bytes=memory_bytes,
    )


def wait_until(holds: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)


def processes_with(marker: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(marker in part for part in process.info["cmdline"] or ()) and process.pid != os.getpid()
    ]


def test_ordinary_code_runs_and_its_output_and_exit_code_come_back(workspace: Path) -> None:
    result = inside(workspace, "import sys, pytest; print(open('a.py').read()); sys.exit(3)")
    assert (result.exit_code, result.stdout, result.killed) == (3, b"a = 1\n\n", "")


def test_there_is_no_network(workspace: Path) -> None:
    code = """
import socket
for address in (("127.0.0.1", %d), ("1.1.1.1", 53), ("169.254.169.254", 80)):
    try:
        socket.create_connection(address, timeout=2)
        print("connected", address)
    except OSError as error:
        print(type(error).__name__)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = inside(workspace, code % server.getsockname()[1])
    assert b"connected" not in result.stdout
    assert result.stdout.count(b"\n") == 3


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_NETLINK", "AF_VSOCK", "AF_PACKET"])
def test_sockets_that_are_no_internet_sockets_are_refused(workspace: Path, family: str) -> None:
    result = inside(workspace, f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)")
    assert b"PermissionError" in result.stderr


def test_a_test_may_talk_to_its_own_server(workspace: Path) -> None:
    result = inside(
        workspace,
        "import socket as s; a = s.create_server(('localhost', 0)); s.create_connection(a.getsockname()); print('ok')",
    )
    assert result.stdout == b"ok\n"


def test_nothing_of_the_machine_is_seen(workspace: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("s3cret")
    code = f"""
import os
for path in ("/etc/shadow", "/etc/ssh", "/home", "/var", "/sys", "/run", {str(secret)!r}, "/root/.ssh"):
    print(path, os.path.exists(path))
print(sorted(p for p in os.listdir("/proc") if p.isdigit())[:9])
print([k for k in os.environ if "CHARGEHAND" in k or "KEY" in k or "TOKEN" in k])
"""
    os.environ["CHARGEHAND_TEST_TOKEN"] = "s3cret"
    try:
        result = inside(workspace, code)
    finally:
        del os.environ["CHARGEHAND_TEST_TOKEN"]
    assert b"True" not in result.stdout
    assert result.stdout.splitlines()[-1] == b"[]"
    assert len(result.stdout.splitlines()[-2].split(b",")) <= 3


def test_nothing_outside_the_workspace_can_be_written(workspace: Path) -> None:
    code = """
import os, sys
python = (sys.prefix + "/x", sys.base_prefix + "/x")
for path in ("/usr/bin/x", "/etc/x", "/x", "/ws/../x", *python, "/proc/sys/kernel/hostname"):
    try:
        open(path, "w").write("x")
        print("wrote", path)
    except OSError:
        pass
open("/ws/ok", "w").write("x")
open("/tmp/ok", "w").write("x")
"""
    result = inside(workspace, code)
    assert result.stdout == b""
    assert result.exit_code == 0, result.stderr
    assert (workspace / "ok").exists()


def test_a_read_only_workspace_and_every_git_folder_cannot_be_written(workspace: Path) -> None:
    (workspace / ".git").mkdir()
    (workspace / ".git" / "config").write_text("[core]\n")
    assert inside(workspace, "open('/ws/new', 'w')", writable=False).exit_code == 1
    attack = "import os\nopen('/ws/.git/config', 'a').write('x')"
    assert b"Error" in inside(workspace, attack).stderr
    assert b"Error" in inside(workspace, "import os; os.rename('/ws/.git', '/ws/moved')").stderr
    assert (workspace / ".git" / "config").read_text() == "[core]\n"


def test_a_link_out_of_the_workspace_leads_nowhere(workspace: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("s3cret")
    (workspace / "link").symlink_to(secret)
    (workspace / "up").symlink_to("../../..")
    code = f"import os; print(os.path.exists('link'), os.path.exists('up' + {str(secret)!r}))"
    assert inside(workspace, code).stdout == b"False False\n"
    assert secret.stat().st_uid == os.geteuid()


def test_new_namespaces_mounts_and_tracing_are_refused(workspace: Path) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, number):
    print(name, number, ctypes.get_errno())
tried("unshare", libc.unshare(0x10000000))
tried("mount", libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
tried("ptrace", libc.ptrace(16, 1, 0, 0))
tried("clone", libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the number of clone is that of x86_64")
    lines = inside(workspace, code).stdout.decode().splitlines()
    assert [line.split()[1:] for line in lines] == [["-1", "1"]] * 4


def test_a_fork_bomb_ends_and_leaves_nothing(workspace: Path) -> None:
    code = """
import os, time
marker = "chargehand-fork-bomb"
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(.05)
"""
    result = inside(workspace, code, timeout_seconds=3.0)
    assert result.timed_out
    wait_until(lambda: not processes_with("chargehand-fork-bomb"))


def test_a_memory_bomb_in_one_process_is_refused(workspace: Path) -> None:
    result = inside(workspace, "x = bytearray(3 << 30)", memory_bytes=1 << 30)
    assert b"MemoryError" in result.stderr


def test_a_memory_bomb_over_many_processes_is_killed(workspace: Path) -> None:
    code = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(os.urandom(1 << 20) * 60)
        time.sleep(90)
time.sleep(90)
"""
    result = inside(workspace, code, memory_bytes=300 << 20)
    assert result.killed == "memory"


def test_a_child_left_in_the_background_dies_with_the_command(workspace: Path) -> None:
    code = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(90)  # chargehand-lingerer"], start_new_session=True)
print("started")
"""
    started = time.monotonic()
    result = inside(workspace, code)
    assert result.stdout == b"started\n"
    assert time.monotonic() - started < 60
    wait_until(lambda: not processes_with("chargehand-lingerer"))


def test_a_command_that_does_not_end_is_killed_with_all_it_started(workspace: Path) -> None:
    code = """
import subprocess, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # chargehand-sleeper"], start_new_session=True)
time.sleep(60)
"""
    result = inside(workspace, code, timeout_seconds=2.0)
    assert result.timed_out
    assert result.exit_code == 128 + signal.SIGKILL
    wait_until(lambda: not processes_with("chargehand-sleeper"))


def test_a_flood_of_output_is_cut_in_the_middle(workspace: Path) -> None:
    code = """
import os
os.write(1, b"first\\n")
chunk = b"x" * (1 << 20)
for _ in range(1024):
    os.write(1, chunk)
os.write(1, b"last\\n")
"""
    result = inside(workspace, code, timeout_seconds=60)
    assert result.exit_code == 0
    assert result.stdout.startswith(b"first\n")
    assert result.stdout.endswith(b"last\n")
    assert b"bytes left out" in result.stdout
    assert len(result.stdout) < HEAD_BYTES + TAIL_BYTES + 100


def test_a_huge_file_is_refused(workspace: Path) -> None:
    result = inside(workspace, "import os\nf = os.open('big', os.O_CREAT | os.O_WRONLY)\nos.truncate(f, 1 << 30)")
    assert result.exit_code != 0
    assert not (workspace / "big").exists() or (workspace / "big").stat().st_size == 0


def test_cancelling_kills_the_sandbox(workspace: Path) -> None:
    result = sandbox.run(
        [*PYTHON, "import time; time.sleep(60)"],
        workspace=workspace,
        writable=False,
        timeout_seconds=60,
        cancelled=lambda: True,
    )
    assert result.killed == "cancelled"
    assert result.duration_seconds < 45


def test_the_sandbox_dies_with_the_worker_that_made_it(workspace: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from chargehand.workers import sandbox
sandbox.run([sys.executable, "-c", "import time; print('up'); time.sleep(90)  # chargehand-orphan"],
            workspace=Path({str(workspace)!r}), writable=True, timeout_seconds=90)
"""
    worker = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: len(set(processes_with("chargehand-orphan")) - {worker.pid}) > 1)
    finally:
        worker.kill()
        worker.wait()
    wait_until(lambda: not processes_with("chargehand-orphan"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a user to give up")
def test_roots_code_runs_as_an_ordinary_user(workspace: Path) -> None:
    result = inside(workspace, "import os; print(os.getuid(), os.getgroups())")
    assert result.stdout.split()[0] == str(sandbox.SANDBOX_UID).encode()


def test_without_a_sandbox_nothing_runs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_probed", None)
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: Path("/bin/false"))
    with pytest.raises(sandbox.SandboxUnavailable, match="user namespaces"):
        inside(workspace, "open('/ws/ran', 'w')")
    monkeypatch.setattr(sandbox, "_probed", None)
    assert not (workspace / "ran").exists()


def test_an_analyser_is_stopped_when_its_time_is_up(tmp_path: Path) -> None:
    result = sandbox.limited(
        [sys.executable, "-I", "-c", "import time; time.sleep(60)"], folder=tmp_path, timeout_seconds=1
    )
    assert result.timed_out


def test_an_analyser_reads_its_input_and_keeps_its_memory(tmp_path: Path) -> None:
    echo = [sys.executable, "-I", "-c", "import sys; print(len(sys.stdin.read()))"]
    result = sandbox.limited(echo, folder=tmp_path, timeout_seconds=60, stdin=b"x" * 3_000_000)
    assert result.stdout == b"3000000\n"
