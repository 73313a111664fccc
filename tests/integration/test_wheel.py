"""The wheel, installed beside a project that has its own `workers` and `memory`."""

import json
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("orchestrator", "workers", "memory", "migrations")
# mypy reads SQLAlchemy without a cache; on a busy machine that takes a while.
COMMAND_TIMEOUT_SECONDS = 170.0
# A program that writes plans pays for none of these; the driver and the broker come with `Client`.
HEAVY = ("anthropic", "onnxruntime", "tokenizers", "sqlalchemy", "psycopg", "celery", "numpy")


def run(argv: Sequence[str | Path], *, cwd: Path) -> str:
    """What the command prints; its whole output when it fails."""
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        cwd=folder,
    )
    [built] = folder.glob("chargehand-*.whl")
    return built


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the packages that it depends on lent by this one."""
    folder = tmp_path_factory.mktemp("venv") / "v"
    run([sys.executable, "-m", "venv", "--without-pip", folder], cwd=folder.parent)
    python = folder / "bin" / "python"
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=folder).strip())
    # A path in a .pth file does not run the .pth files there: the editable install of this repository stays outside.
    (own / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", python]
    run([*pip, "install", "-q", "--no-deps", "--no-index", "--force-reinstall", wheel], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose own packages have the names of our folders."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("workers", "memory", "orchestrator"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("OWNER = 'the project'\n")
    return folder


def ask(venv: Path, project: Path, program: str) -> Any:
    """What a program of the project prints as JSON."""
    (project / "program.py").write_text(textwrap.dedent(program))
    return json.loads(run([venv / "bin" / "python", "-W", "error", "program.py"], cwd=project))


def test_the_wheel_holds_every_file_of_the_rooms_and_no_other_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"chargehand"}
    ours = {
        f"chargehand/{file.relative_to(ROOT)}"
        for room in ROOMS
        for file in (ROOT / room).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert ours <= names
    for kind in ("workers/roles/triager.md", "migrations/script.py.mako", "orchestrator/laptop/flowerconfig.py"):
        assert f"chargehand/{kind}" in names
    assert "chargehand/py.typed" in names
    assert not [name for name in names if name.startswith(("chargehand/tests", "chargehand/examples"))]


def test_a_projects_own_packages_and_ours_live_side_by_side(venv: Path, project: Path) -> None:
    answer = ask(
        venv,
        project,
        """
        import json, memory, orchestrator, workers
        import chargehand.memory.git, chargehand.orchestrator.plan, chargehand.workers.tools.catalogue
        print(json.dumps({
            "owners": [memory.OWNER, orchestrator.OWNER, workers.OWNER],
            "ours": [one.__file__ for one in (chargehand.memory, chargehand.orchestrator, chargehand.workers)],
        }))
        """,
    )

    assert answer["owners"] == ["the project"] * 3
    assert all(file.startswith(str(venv)) for file in answer["ours"])


def test_importing_the_facade_loads_nothing_that_a_plan_does_not_need(venv: Path, project: Path) -> None:
    answer = ask(
        venv,
        project,
        f"""
        import json, sys
        import chargehand
        bare = [name for name in (*{HEAVY!r}, "pydantic") if name in sys.modules]
        from chargehand import Plan, RunFailed, gate, script, tool
        writing = [name for name in {HEAVY!r} if name in sys.modules]
        from chargehand import *
        missing = [name for name in chargehand.__all__ if name not in globals()]
        everything = [name for name in ("anthropic", "onnxruntime") if name in sys.modules]
        print(json.dumps([bare, writing, missing, everything]))
        """,
    )

    assert answer == [[], [], [], []]


def test_the_installed_command_explains_itself(venv: Path, project: Path) -> None:
    assert "Usage: chargehand" in run([venv / "bin" / "chargehand", "--help"], cwd=project)


def test_migrations_and_roles_come_with_the_wheel(venv: Path, project: Path, empty_database_url: str) -> None:
    answer = ask(
        venv,
        project,
        f"""
        import json
        from chargehand import Settings
        from chargehand.memory.procedural import load_roles
        from chargehand.orchestrator import schema
        schema.migrate({empty_database_url!r})
        roles = load_roles(*Settings().role_folders)
        print(json.dumps([sorted(roles), len(schema.differences({empty_database_url!r}))]))
        """,
    )

    assert answer == [
        [
            "arbiter",
            "chooser",
            "coder",
            "extractor",
            "lead",
            "planner",
            "replanner",
            "researcher",
            "resolver",
            "triager",
            "writer",
        ],
        0,
    ]


@pytest.mark.long
@pytest.mark.timeout(COMMAND_TIMEOUT_SECONDS + 30)
def test_a_users_program_is_checked_strictly_against_the_facade(venv: Path, project: Path) -> None:
    (project / "refunds.py").write_text((ROOT / "examples" / "refunds.py").read_text())
    (project / "wrong.py").write_text(
        "from refunds import load\nload('seven')\nreveal_type(load(7))\nreveal_type(load.step(7))\n"
    )
    argv = [sys.executable, "-m", "mypy", "--strict", "--python-executable", venv / "bin" / "python"]

    checked = subprocess.run(
        [str(part) for part in (*argv, "refunds.py", "wrong.py")],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )

    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, checked.stdout + checked.stderr
    assert errors[0].startswith("wrong.py:2")
    assert 'has incompatible type "str"; expected "int"' in errors[0]
    assert 'Revealed type is "refunds.Order"' in checked.stdout
    assert 'Revealed type is "chargehand.orchestrator.drafts.Draft"' in checked.stdout
