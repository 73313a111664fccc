"""The file that says where the running laptop is."""

import os
import subprocess
import sys

import pytest

from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.laptop.services import Endpoints
from chargehand.orchestrator.laptop.state import (
    LaptopState,
    exclusive,
    process_started_at,
    remove_state,
    running_laptop,
    write_state,
)


def state_of(pid, started_at):
    endpoints = Endpoints(database_url="postgresql://x", redis_url="redis://y")
    return LaptopState(
        pid=pid,
        started_at=started_at,
        endpoints=endpoints,
        flower_url="http://127.0.0.1:1",
        api_url="http://127.0.0.1:1",
        pids={"audit": 7},
    )


def test_what_is_written_is_what_is_found(tmp_path):
    state = state_of(os.getpid(), process_started_at(os.getpid()))
    write_state(tmp_path, state)
    assert running_laptop(tmp_path) == state
    remove_state(tmp_path)
    assert running_laptop(tmp_path) is None


def test_only_its_owner_can_read_the_passwords_in_it_and_nothing_else_is_left(tmp_path):
    write_state(tmp_path, state_of(os.getpid(), process_started_at(os.getpid())))
    assert [(file.name, file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == [("laptop.json", 0o600)]


def test_a_dead_laptop_is_forgotten(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_state(tmp_path, state_of(process.pid, process_started_at(process.pid)))
    assert running_laptop(tmp_path) is not None
    process.communicate(b"\n")
    assert running_laptop(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_another_program_with_the_old_pid_is_not_the_laptop(tmp_path):
    write_state(tmp_path, state_of(os.getpid(), process_started_at(os.getpid()) - 60))
    assert running_laptop(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": 1, "from": "the future"}'])
def test_a_file_that_cannot_be_understood_is_removed(tmp_path, content):
    (tmp_path / "laptop.json").write_text(content)
    assert running_laptop(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_second_up_is_told_who_has_the_home_and_what_to_do(tmp_path):
    write_state(tmp_path, state_of(os.getpid(), process_started_at(os.getpid())))
    with (
        exclusive(tmp_path),
        pytest.raises(UserError, match=rf"already up in {tmp_path} \(pid {os.getpid()}\).*set CHARGEHAND_HOME"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass
