"""The roles that come with Chargehand: they load, and what they name exists."""

import re
from pathlib import Path

import pytest

import chargehand.workers
from chargehand.memory.procedural import Role, load_roles
from chargehand.orchestrator.plan import POOLS
from chargehand.workers.context import Role as LoopRole
from chargehand.workers.tools.catalogue import registered_tools
from chargehand.workers.tools.finish import finish_tool

ROLES = load_roles(Path(chargehand.workers.__file__).parent / "roles")


def test_the_roles_are_there_with_their_tiers() -> None:
    assert {name: role.tier for name, role in ROLES.items()} == {
        "planner": "large",
        "researcher": "medium",
        "triager": "medium",
        "coder": "medium",
        "writer": "large",
        "chooser": "small",
        "resolver": "medium",
        "replanner": "large",
        "lead": "medium",
        "extractor": "small",
        "arbiter": "small",
    }


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES.keys())
def test_a_role_names_only_what_exists(role: Role) -> None:
    assert set(role.tools) <= registered_tools().keys()
    assert finish_tool(role.output) is finish_tool(role.name)
    assert role.pool in POOLS


def test_who_works_on_the_workspace_for_research_coding_or_audit_may_ask_for_another_plan() -> None:
    assert {name for name, role in ROLES.items() if "request_replan" in role.tools} == {
        "researcher",
        "coder",
        "triager",
    }
    assert {ROLES[name].pool for name in ("researcher", "coder", "triager")} == set(POOLS)


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES.keys())
def test_instructions_are_a_stable_prefix_and_say_what_data_is(role: Role) -> None:
    assert "data" in role.instructions
    # A date would break the prompt cache of every run that pins another version of the day.
    assert re.search(r"\b20[0-9]{2}\b", role.instructions) is None
    assert len(role.instructions) < 8_000


def test_a_loaded_role_is_what_the_loop_needs() -> None:
    needed: LoopRole = ROLES["triager"]

    assert needed.blob_hash
    assert needed.instructions.startswith("# Triager")
