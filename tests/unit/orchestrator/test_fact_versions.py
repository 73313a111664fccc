"""What the facts of each schema version may hold, and that nobody changes it without a higher version.

Run this file to write down what the facts of an unreleased version hold now.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from chargehand.orchestrator.facts import SCHEMA_VERSION, AnyFact

ROOT = Path(__file__).parents[3]
FIELDS = ROOT / "tests" / "data" / "facts"
# SHA-256 of what released versions hold. A release adds the version that it is the first to write.
RELEASED: dict[int, str] = {}
# Of a JSON schema, what is said about a field and not what may stand in it.
_WORDS = {"title", "description", "default"}


def fields() -> dict[str, dict[str, Any]]:
    """What the facts hold now: every fact and every value in one, its fields, and what may stand in each."""
    known = TypeAdapter[Any](AnyFact).json_schema()["$defs"]
    return {
        name: {field: _bare(schema) for field, schema in known[name].get("properties", {}).items()}
        for name in sorted(known)
    }


def _bare(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in sorted(schema.items()) if key not in _WORDS}
    return [_bare(one) for one in schema] if isinstance(schema, list) else schema


def written(version: int) -> Path:
    return FIELDS / f"{version}.json"


def as_text() -> str:
    """As JSON, a line a field, so that a change is seen in its own line."""
    facts = [
        f'"{name}": {{\n' + ",\n".join(f' "{field}": {json.dumps(of)}' for field, of in held.items()) + "\n}"
        for name, held in fields().items()
    ]
    return "{\n" + ",\n".join(facts) + "\n}\n"


def test_facts_hold_what_is_written_down_for_their_version() -> None:
    known = written(SCHEMA_VERSION)
    remedy = (
        "raise SCHEMA_VERSION in orchestrator/facts.py and run this file"
        if SCHEMA_VERSION in RELEASED
        else f"run this file (python {Path(__file__).relative_to(ROOT)})"
    )
    assert known.exists(), f"Nothing says what facts of version {SCHEMA_VERSION} hold: {remedy}."
    before, now = json.loads(known.read_text()), fields()
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    assert not changed, f"Facts of version {SCHEMA_VERSION} hold something else in {', '.join(changed)}: {remedy}."


def test_what_a_released_version_holds_stays() -> None:
    assert {version: hashlib.sha256(written(version).read_bytes()).hexdigest() for version in RELEASED} == RELEASED


def test_a_release_fixes_the_version_that_it_writes() -> None:
    releases = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    if not releases[0].endswith("unreleased"):
        assert SCHEMA_VERSION in RELEASED, f"{releases[0]} is the first to write version {SCHEMA_VERSION}: add it here."


def test_a_field_a_kind_and_a_value_more_are_each_seen() -> None:
    now = fields()
    assert now["StepReleased"]["reason"]["enum"] == ["drain", "pause", "retry", "foreign", "storage", "approved"]
    assert {"StepRecovered", "Plan", "Step", "Usage"} <= now.keys()
    assert "cut_off" in now["StepRecovered"]


if __name__ == "__main__":
    if SCHEMA_VERSION in RELEASED:
        raise SystemExit(f"Version {SCHEMA_VERSION} was released; raise SCHEMA_VERSION first.")
    written(SCHEMA_VERSION).write_text(as_text())
