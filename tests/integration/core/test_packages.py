"""Packages of users: their entry points are found, used by plans and roles, and told when they are broken."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from chargehand.memory import journal
from chargehand.memory.procedural import load_roles
from chargehand.orchestrator.checking import check_folders
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.offers import Offers
from chargehand.orchestrator.outputs import OUTPUTS
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.plan_files import load_plan
from chargehand.orchestrator.plan_hints import hints_of
from chargehand.orchestrator.settings import Settings
from chargehand.workers.scripts.registry import SCRIPTS
from chargehand.workers.tools.catalogue import registered_tools
from chargehand.workers.tools.registry import TOOLS
from chargehand.workers.user_code import load_entry_points, load_user_code
from tests.integration.core.agents import FunctionModel, deliver, use

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

EXAMPLE = Path(__file__).parents[3] / "examples" / "post_office"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has put the example."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--no-compile"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(target), str(EXAMPLE)], check=True
    )
    return target


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three packages of which each is wrong in its way."""
    target = tmp_path_factory.mktemp("broken")
    (target / "raising.py").write_text("raise RuntimeError('the licence has\\nrun out')\n")
    (target / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    (target / "plain.py").write_text("def helper(): ...\n")
    for name, group, value in (
        ("raising", "chargehand.scripts", "raising:run"),
        ("leaving", "chargehand.tools", "leaving"),
        ("plain", "chargehand.tools", "plain:helper"),
        ("absent", "chargehand.scripts", "nowhere.at_all:run"),
    ):
        folder = target / f"{name}-2.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\nthing = {value}\n")
    return target


def chargehand(*arguments: str, path: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHARGEHAND")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, "PYTHONPATH": str(path), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def loaded(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's script, tool and output in this process, until the test ends."""
    before = [dict(registry) for registry in (SCRIPTS, TOOLS, OUTPUTS)]
    monkeypatch.syspath_prepend(str(installed))
    assert load_user_code(Settings()) == ()
    yield
    for registry, kept in zip((SCRIPTS, TOOLS, OUTPUTS), before, strict=True):
        registry.clear()
        registry.update(kept)  # type: ignore[arg-type]
    for name in [name for name in sys.modules if name.split(".")[0] == "post_office"]:
        del sys.modules[name]


def test_a_plan_of_the_package_runs_with_its_script_its_role_and_its_tool(
    house: "House", loaded: None, installed: Path
) -> None:
    text = (installed / "post_office" / "roles" / "postmaster.md").read_text()
    plan = load_plan(EXAMPLE / "plan.yaml", roles={"postmaster"})
    house.open_pool("research")
    run_id = house.start(*plan.steps, role_texts={"postmaster": text})

    def reply(call: Any, turn: int) -> list[dict[str, Any]]:
        said = json.dumps(call.messages)
        grams = 2_550 if "2550" in said else 0
        match turn:
            case 0:
                return [use("postage", turn, service="letter", grams=grams)]
            case 1:
                assert "letter takes at most 1000 g, not 2550" in said
                return [use("postage", turn, service="parcel", grams=grams)]
        assert '\\"cents\\":749' in said
        return [use("submit_result", turn, service="parcel", cents=749, reason="A letter may weigh 1,000 g.")]

    shop = replace(house.shop(), models=FunctionModel(reply), tools=registered_tools(), scripts=SCRIPTS)
    deliver(house, shop, run_id, "weigh")
    house.advance(run_id)
    house.admit()
    deliver(house, shop, run_id, "advise")

    assert end_of(house, run_id, "weigh").result == {"grams": 2_550}
    advice = end_of(house, run_id, "advise").result
    assert advice == {"service": "parcel", "cents": 749, "reason": "A letter may weigh 1,000 g."}


def test_workers_offer_what_an_installed_package_brings_and_its_role_and_plan_are_right(
    installed: Path, tmp_path: Path
) -> None:
    done = chargehand("-m", "chargehand.workers.offers", path=installed, CHARGEHAND_HOME=str(tmp_path))
    offers = Offers.model_validate_json(done.stdout.rpartition("\n")[2])
    folder = installed / "post_office" / "roles"

    assert (offers.broken, "advice" in offers.outputs) == ((), True)
    assert offers.tools["postage"].parameters == ("service", "grams")
    assert check_folders([folder], offers) == (1, ())
    roles = load_roles(folder)
    assert hints_of(load_plan(EXAMPLE / "plan.yaml", roles=roles.keys()), roles=roles, offers=offers) == []


def test_each_broken_entry_point_is_told_with_its_package(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(broken))
    found = [one for dist in distributions(path=[str(broken)]) for one in dist.entry_points]

    wrong = load_entry_points(found)

    assert wrong == (
        "package absent 2.0 has a broken entry point: thing = 'nowhere.at_all:run' of chargehand.scripts: "
        "ModuleNotFoundError: No module named 'nowhere'",
        "package raising 2.0 has a broken entry point: thing = 'raising:run' of chargehand.scripts: "
        "RuntimeError: the licence has run out",
        "package leaving 2.0 has a broken entry point: thing = 'leaving' of chargehand.tools: SystemExit: 3",
        "package plain 2.0 has a broken entry point: thing = 'plain:helper' of chargehand.tools: "
        "that is a function, not a function under @tool or a module",
    )


def test_a_worker_starts_beside_broken_packages_and_logs_them(broken: Path, tmp_path: Path) -> None:
    program = (
        "from chargehand.workers import app; print(len(app.broken_packages), 'inventory' in app.registered_scripts())"
    )
    done = chargehand(
        "-c", program, path=broken, CHARGEHAND_HOME=str(tmp_path), CHARGEHAND_REDIS_URL="redis://127.0.0.1:1/0"
    )

    assert done.stdout.split() == ["4", "True"], done.stderr
    assert "package raising 2.0" in done.stderr


def test_a_step_that_needs_a_broken_package_fails_with_its_name(house: "House") -> None:
    run_id = house.start(Step(key="weigh", kind="script", script="post_office.weigh"))
    shop = replace(house.shop(), broken_packages=("package raising 2.0 has a broken entry point",))
    deliver(house, shop, run_id, "weigh")

    error = end_of(house, run_id, "weigh").error
    assert "names unknown script 'post_office.weigh'" in error
    assert "What could not be loaded: package raising 2.0 has a broken entry point." in error


def end_of(house: "House", run_id: UUID, key: str) -> StepFinished:
    with house.as_tenant() as session:
        last = list(journal.read(session, run_id, step=step_id(run_id, key)))[-1]
    assert last.kind == "step.finished"
    return StepFinished.model_validate_json(last.body or "")
