"""The demo repository holds exactly what its manifest claims, by the real analysers and its own tests."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
MANIFEST = json.loads((EXAMPLES / "parcel_desk.manifest.json").read_text())
Place = tuple[str, int]


def items(*kinds: str) -> list[Any]:
    """Those of one kind, as parameters of a test that is named after them."""
    return [pytest.param(item, id=item["id"]) for item in MANIFEST["items"] if item["kind"] in kinds]


def place_of(item: dict[str, Any]) -> Place:
    """The one line of the example that holds the item's text."""
    lines = (EXAMPLES / "parcel_desk" / item["path"]).read_text().splitlines()
    numbers = [number for number, line in enumerate(lines, start=1) if item["line_text"] in line]
    assert len(numbers) == 1, f"{item['line_text']!r} is on lines {numbers} of {item['path']}"
    return item["path"], numbers[0]


def run(folder: Path, *arguments: str) -> str:
    """Standard output of a Python module, which may object by its exit code."""
    finished = subprocess.run(
        [sys.executable, "-B", "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode in (0, 1), finished.stderr
    return finished.stdout


def outcomes(folder: Path) -> dict[str, str]:
    """Test id → outcome of the example's own suite."""
    output = run(folder, "pytest", "-p", "no:cacheprovider", "-rA", "-q", "--no-header", "--color=no")
    return {test: word.lower() for word, test in re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", output, re.MULTILINE)}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A copy of the example that a test may change."""
    return shutil.copytree(EXAMPLES / "parcel_desk", tmp_path / "desk", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outcomes of the example as it is."""
    desk = tmp_path_factory.mktemp("as_it_is") / "desk"
    return outcomes(shutil.copytree(EXAMPLES / "parcel_desk", desk, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[Place, set[str]]:
    """Place → rules of bandit, ruff S and detect-secrets that object to it."""
    desk = tmp_path_factory.mktemp("scan") / "desk"
    shutil.copytree(EXAMPLES / "parcel_desk", desk, ignore=shutil.ignore_patterns("__pycache__"))
    hits = [
        (hit["filename"], hit["line_number"], hit["test_id"])
        for hit in json.loads(run(desk, "bandit", "-q", "-r", ".", "-f", "json"))["results"]
    ]
    ruff = ("ruff", "check", "-n", "--isolated", "--ignore-noqa", "--select", "S", "--output-format", "json", ".")
    hits += [(hit["filename"], hit["location"]["row"], hit["code"]) for hit in json.loads(run(desk, *ruff))]
    secrets = json.loads(run(desk, "detect_secrets", "scan", "--all-files", "."))["results"]
    hits += [(name, hit["line_number"], hit["type"]) for name, found in secrets.items() for hit in found]
    places: dict[Place, set[str]] = {}
    for name, line, rule in hits:
        places.setdefault(((desk / name).relative_to(desk).as_posix(), line), set()).add(rule)
    return places


@pytest.mark.parametrize("item", items("found", "decoy"))
def test_planted_item_is_reported_by_an_analyser(item: dict[str, Any], reports: dict[Place, set[str]]) -> None:
    assert reports.get(place_of(item), set()) - set(MANIFEST["incidental"]["rules"])


@pytest.mark.parametrize("item", items("undetectable"))
def test_undetectable_item_is_reported_by_none(item: dict[str, Any], reports: dict[Place, set[str]]) -> None:
    assert place_of(item) not in reports


def test_analysers_report_nothing_that_the_manifest_does_not_list(reports: dict[Place, set[str]]) -> None:
    planted = {place_of(item) for item in MANIFEST["items"] if item["kind"] in {"found", "decoy"}}
    incidental = set(MANIFEST["incidental"]["rules"])
    assert {place for place, rules in reports.items() if rules - incidental} == planted


def test_own_suite_starts_in_the_states_that_the_manifest_claims(before: dict[str, str]) -> None:
    claimed = {item["test"]: item["before"] for item in MANIFEST["items"] if item["kind"] == "test"}
    assert {test: before[test] for test in claimed} == claimed
    assert {test for test, outcome in before.items() if outcome != "passed"} == {
        test for test, outcome in claimed.items() if outcome == "failed"
    }


@pytest.mark.parametrize("item", items("test"))
def test_safe_fix_of_one_rule_has_exactly_the_claimed_effect(
    item: dict[str, Any], desk: Path, before: dict[str, str]
) -> None:
    rule = item["category"]
    text_before = {path: path.read_text() for path in desk.rglob("*.py")}

    if rule != "logic":
        run(desk, "ruff", "check", "-n", "-q", "--isolated", "--no-unsafe-fixes", "--select", rule, "--fix", ".")

    after = outcomes(desk)
    changed = {path.relative_to(desk).as_posix() for path, text in text_before.items() if path.read_text() != text}
    assert changed == (set() if rule == "logic" else {item["path"]})
    assert after == before | {item["test"]: item["after_fix"]}


def test_no_lint_rule_of_ruff_knows_the_wrong_slice(desk: Path) -> None:
    item = next(item for item in MANIFEST["items"] if item["category"] == "logic")
    found = json.loads(run(desk, "ruff", "check", "-n", "--isolated", "--output-format", "json", item["path"]))
    assert found == []


def test_example_brings_no_configuration_of_ruff() -> None:
    assert not [*EXAMPLES.glob("parcel_desk/**/ruff.toml"), *EXAMPLES.glob("parcel_desk/**/.ruff.toml")]
    assert "tool.ruff" not in (EXAMPLES / "parcel_desk" / "pyproject.toml").read_text()


def test_readme_holds_the_planted_instruction_once() -> None:
    injection = MANIFEST["injection"]
    assert (EXAMPLES / "parcel_desk" / injection["path"]).read_text().count(injection["line_text"]) == 1
