"""Inventory, scan, tests, fixes and verification on small repositories, with the real tools and the sandbox."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue

from chargehand.memory.artifacts import Artifacts
from chargehand.workers import sandbox
from chargehand.workers.findings import FixAttempt, TestRun
from chargehand.workers.scripts.fixes import FixRefused, apply_fix, candidates
from chargehand.workers.scripts.inventory import inventory, take_stock
from chargehand.workers.scripts.registry import SCRIPTS, ScriptContext
from chargehand.workers.scripts.scan import scan, scan_secrets, scan_tree, secrets_in_tree
from chargehand.workers.scripts.tests import compare_tests, run_tests
from chargehand.workers.scripts.verify import judge, verify, verify_commit, verify_fixes_of_step
from chargehand.workers.workspace import Clone, open_workspace

Files = dict[str | bytes, str | bytes]
MakeClone = Callable[[Files], Clone]


@pytest.fixture
def make_clone(tmp_path: Path) -> MakeClone:
    def make(files: Files) -> Clone:
        source = tmp_path / f"source-{uuid4()}"
        source.mkdir()
        write(source, files)
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Start", "--allow-empty"]):
            identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
            subprocess.run(["git", *identity, *command], cwd=source, check=True, capture_output=True)
        run_id = uuid4()
        imported = Artifacts(tmp_path / "artifacts").import_repository(str(source), run_id=run_id)
        return open_workspace(
            imported.repository, tmp_path / "work", run_id=run_id, step_id=uuid4(), epoch=1, commit=imported.commit
        )

    return make


@pytest.fixture
def needs_sandbox() -> None:
    status = sandbox.available()
    if not status.ok:
        if "CI" in os.environ:
            pytest.fail(status.reason)
        pytest.skip(status.reason)


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)


def context_of(clone: Clone, results: dict[str, JsonValue] | None = None) -> tuple[ScriptContext, dict[str, bytes]]:
    kept: dict[str, bytes] = {}

    def refused(*_: object) -> NoReturn:
        raise AssertionError("this script needs no database and no embedder")

    def put(name: str, content: bytes) -> str:
        kept[name] = content
        return "0" * 64

    return (
        ScriptContext(
            tenant=UUID(int=1),
            run_id=UUID(int=2),
            step_id=UUID(int=3),
            step_key="step",
            goal="Audit",
            inputs={},
            results=(results or {}).get,
            open_workspace=lambda: clone,
            put_artifact=put,
            open_session=refused,
            embedder=refused,
            report_progress=lambda line: None,
            idempotency_key="key",
            workspace=None,
            step_keys=tuple,
            account=refused,
        ),
        kept,
    )


# --- inventory ---------------------------------------------------------------------------------------------------


def test_inventory_of_a_repository_without_python(make_clone: MakeClone) -> None:
    context, _ = context_of(make_clone({"main.go": "package main\n\nfunc main() {}\n", "go.mod": "module x\n"}))
    found = inventory(context)
    assert (found.has_python, found.test_command, found.languages["Go"]) == (False, None, 3)
    assert found.manifests == ("go.mod",)


def test_inventory_of_awkward_files(make_clone: MakeClone, tmp_path: Path) -> None:
    clone = make_clone(
        {
            b"caf\xe9.py": "x = 1\n",
            "new\nline.txt": "x",
            "two words.py": "def test_x(): pass\n",
            "picture.bin": bytes(range(256)) * 10,
            "large.csv": b"a,b\n" * 2_600_000,
            "broken.py": "def (:\n",
            "empty.py": "",
            "node_modules/x/index.js": "x\n",
            "tests/test_a.py": "def test_a(): pass\nasync def test_b(): pass\n",
            "pyproject.toml": '[project]\nname = "x"\n[project.scripts]\nrun-x = "x:main"\n',
        }
    )
    (clone.path / "link").symlink_to("/etc/passwd")
    clone.commit("Add a link")
    context, _ = context_of(clone)
    found = inventory(context)
    assert found.odd_names == ("caf\\xe9.py", "new\\nline.txt")
    assert [file.path for file in found.large_files] == ["large.csv"]
    assert (found.binary_files, found.links, found.skipped_dirs) == (1, 1, ("node_modules",))
    assert found.not_parsed == ("broken.py",)
    assert (found.test_command, found.test_count_estimate) == (("python", "-m", "pytest"), 2)
    assert found.entry_points == ("command run-x",)
    found.model_dump_json()


def test_inventory_of_an_empty_commit(make_clone: MakeClone) -> None:
    context, _ = context_of(make_clone({}))
    assert inventory(context).files == 0


# --- scan --------------------------------------------------------------------------------------------------------

VULNERABLE = """import subprocess
from flask import Flask, request
app = Flask(__name__)
@app.route("/run", methods=["POST"])
def run_it():
    return helper(request.args["x"])
def helper(x):
    subprocess.run("ls " + x, shell=True)  # nosec
def unused(x):
    subprocess.run("ls " + x, shell=True)
"""


def test_scan_merges_ranks_and_lists_suppressions_apart(make_clone: MakeClone) -> None:
    context, _ = context_of(make_clone({"app.py": VULNERABLE}))
    report = scan(context)
    first, second = [finding for finding in report.findings if finding.category == "command-injection"]
    assert (first.line, first.tools, first.reachable_from) == (8, ("bandit", "ruff"), ("POST /run",))
    assert (second.line, second.reachable_from) == (10, ())
    assert {(found.line, found.suppressed_by) for found in report.suppressions} == {(8, "# nosec")}
    assert set(report.tool_versions) == {"bandit", "ruff"}
    assert any("path traversal" in line for line in report.not_covered)


def test_a_repository_cannot_silence_or_take_over_the_analysers(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    planted = f"open({str(witness)!r}, 'w')\n"
    root = tmp_path / "tree"
    write(
        root,
        {
            "app.py": VULNERABLE,
            ".bandit": "[bandit]\nskips = B602\nexclude = /\n",
            "pyproject.toml": '[tool.ruff]\nexclude = ["*"]\n[tool.bandit]\nskips = ["B602"]\n',
            "bandit.py": planted,
            "ast.py": planted,
            "json.py": planted,
            "chargehand/__init__.py": planted,
            "sitecustomize.py": planted,
        },
    )
    report = scan_tree(root)
    assert [finding.tools for finding in report.findings if finding.line == 10] == [("bandit", "ruff")]
    assert not witness.exists()


def test_scan_of_awkward_files_says_what_it_did_not_cover(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    write(
        root,
        {
            b"caf\xe9.py": VULNERABLE,
            "two words.py": VULNERABLE,
            "new\nline.py": VULNERABLE,
            "-dash.py": VULNERABLE,
            "broken.py": "def (:\n",
            "large.py": "x = 1\n" * 400_000,
            "vendor/lib.py": VULNERABLE,
            "nul.py": b"x = 1\0\n",
        },
    )
    report = scan_tree(root)
    assert {finding.path for finding in report.findings} == {"two words.py", "new\\nline.py", "-dash.py"}
    text = "\n".join(report.not_covered)
    for name in ("caf\\xe9.py", "broken.py", "large.py", "vendor/", "nul.py"):
        assert name in text
    report.model_dump_json()


def test_scan_of_a_repository_without_python_finds_nothing_and_fails_not(tmp_path: Path) -> None:
    write(tmp_path / "tree", {"a.js": "eval(x)\n"})
    assert scan_tree(tmp_path / "tree").findings == ()


def test_a_hash_declared_harmless_is_a_suppressed_finding(tmp_path: Path) -> None:
    write(
        tmp_path / "tree", {"a.py": "import hashlib\ndef etag(b):\n    return hashlib.md5(b, usedforsecurity=False)\n"}
    )
    (finding,) = scan_tree(tmp_path / "tree").findings
    assert (finding.category, finding.suppressed_by) == ("weak-hash", "usedforsecurity=False")


def test_secrets_are_found_outside_python_and_never_shown(make_clone: MakeClone) -> None:
    key = "AKIA" + "Q3EGRIFZTQ7XVWYJ"
    # An empty file makes detect-secrets crash when it looks for allow-listed lines.
    clone = make_clone(
        {"empty.py": "", "deploy/settings.ini": f"[aws]\nkey = {key}\nother = {key}  # pragma: allowlist secret\n"}
    )
    context, _ = context_of(clone)
    report = scan_secrets(context)
    assert [(finding.path, finding.line, finding.cwe) for finding in report.findings] == [
        ("deploy/settings.ini", 2, 798),
        ("deploy/settings.ini", 3, 798),
    ]
    assert [found.line for found in report.suppressions] == [3]
    assert key not in report.findings[0].snippet.split("\n")[1]
    assert secrets_in_tree(clone.path, paths=["elsewhere"]).findings == ()


def test_the_demo_repository_gives_what_its_manifest_lists_and_nothing_else() -> None:
    examples = Path(__file__).resolve().parents[2] / "examples"
    expected = set()
    for item in json.loads((examples / "parcel_desk.manifest.json").read_text())["items"]:
        if item["kind"] in ("found", "decoy"):
            lines = (examples / "parcel_desk" / item["path"]).read_text().split("\n")
            (line,) = [number for number, text in enumerate(lines, start=1) if item["line_text"] in text]
            expected.add((item["category"], item["cwe"], item["path"], line))
    findings = scan_tree(examples / "parcel_desk").findings
    assert {(found.category, found.cwe, found.path, found.line) for found in findings} == expected
    assert all(found.reachable_from for found in findings)


# --- tests -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_sandbox")
def test_outcomes_are_told_apart_by_test_id(make_clone: MakeClone) -> None:
    clone = make_clone(
        {
            "src/pkg/__init__.py": "def one():\n    return 1\n",
            "tests/test_a.py": (
                "import unittest, pytest\nfrom pkg import one\n"
                "def test_good(): assert one() == 1\n"
                "def test_bad(): assert one() == 2\n"
                "@pytest.mark.skip\ndef test_skipped(): pass\n"
                "@pytest.mark.parametrize('x', ['a b', 'ü'])\ndef test_each(x): pass\n"
                "@pytest.fixture\ndef broken(): raise OSError('no')\ndef test_error(broken): pass\n"
                "class TestUnit(unittest.TestCase):\n    def test_unit(self): self.assertTrue(True)\n"
            ),
        }
    )
    run = run_tests(clone.path, clone.head_commit)
    assert run.runnable
    assert run.outcomes == {
        "tests/test_a.py::test_good": "passed",
        "tests/test_a.py::test_bad": "failed",
        "tests/test_a.py::test_skipped": "skipped",
        "tests/test_a.py::test_each[a b]": "passed",
        "tests/test_a.py::test_each[\\xfc]": "passed",
        "tests/test_a.py::test_error": "error",
        "tests/test_a.py::TestUnit::test_unit": "passed",
    }
    assert "assert 1 == 2" in run.messages["tests/test_a.py::test_bad"]


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"tests/test_a.py": "import no_such_package_here\ndef test_a(): pass\n"}, "missing no_such_package_here"),
        ({"tests/conftest.py": "import no_such.part\n", "tests/test_a.py": "def test_a(): pass\n"}, "missing no_such"),
        ({"a.py": "x = 1\n"}, "no tests found"),
        ({"README": "x"}, "no tests found"),
    ],
)
def test_what_cannot_run_says_why(make_clone: MakeClone, files: Files, reason: str) -> None:
    clone = make_clone(files)
    run = run_tests(clone.path, clone.head_commit)
    assert (run.runnable, run.reason) == (False, reason)


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("", "stopped before any test ended, after 4 s"),
        ("def test_a():\n    pass\n", "stopped before its end, after 4 s; 1 tests had run"),
    ],
)
def test_a_suite_that_hangs_is_stopped_and_says_when(
    make_clone: MakeClone, monkeypatch: pytest.MonkeyPatch, first: str, reason: str
) -> None:
    monkeypatch.setattr("chargehand.workers.scripts.tests.TEST_TIMEOUT_SECONDS", 4.0)
    clone = make_clone({"test_a.py": f"{first}def test_b():\n    while True:\n        pass\n"})
    run = run_tests(clone.path, clone.head_commit)
    assert not run.runnable
    assert run.reason == reason


@pytest.mark.usefixtures("needs_sandbox")
def test_options_of_plugins_that_are_missing_do_not_stop_the_tests(make_clone: MakeClone) -> None:
    clone = make_clone(
        {"pytest.ini": "[pytest]\naddopts = --no-such-plugin-option=3\n", "test_a.py": "def test_a(): pass\n"}
    )
    assert run_tests(clone.path, clone.head_commit).outcomes == {"test_a.py::test_a": "passed"}


@pytest.mark.usefixtures("needs_sandbox")
def test_what_tests_do_leaves_no_trace_in_the_clone(make_clone: MakeClone) -> None:
    attack = """
import os, shutil
def test_a():
    for path in ("/ws/a.py", "/run/out/outcomes.jsonl"):
        os.unlink(path)
        os.symlink("/etc/passwd", path)
    open("/ws/new.py", "w").write("x")
    os.makedirs("/ws/locked/in"); os.chmod("/ws/locked", 0)
"""
    clone = make_clone({"a.py": "a = 1\n", "tests/test_a.py": attack})
    run = run_tests(clone.path, clone.head_commit)
    assert run.outcomes == {}
    assert (clone.path / "a.py").read_text() == "a = 1\n"
    assert clone.commit("Nothing") == clone.base_commit
    assert [entry.name for entry in clone.path.parent.iterdir()] == [clone.path.name]


def test_comparison_is_by_test_id() -> None:
    before = TestRun(
        command=("p",), runnable=True, outcomes={"a": "failed", "b": "passed", "c": "failed", "d": "passed"}
    )
    after = TestRun(command=("p",), runnable=True, outcomes={"a": "passed", "b": "failed", "c": "error", "e": "failed"})
    delta = compare_tests(before, after)
    assert (delta.turned_green, delta.broke, delta.still_failing, delta.vanished) == (
        ("a",),
        ("b", "e"),
        ("c",),
        ("d",),
    )


# --- fixes -------------------------------------------------------------------------------------------------------

SHOP: Files = {
    "shop/__init__.py": "import os\n",
    "shop/hooks.py": "REGISTERED = []\ndef tell():\n    return len(REGISTERED)\n",
    "shop/sms.py": "from shop import hooks\nhooks.REGISTERED.append('sms')\n",
    "shop/app.py": "from shop import sms\nfrom shop import hooks\ndef deliver():\n    return hooks.tell()\n",
    "shop/bill.py": "import json\ndef paid(status):\n    return status is 'paid'  # noqa: S999\n",
    "shop/page.py": "def page(items):\n    return items[1:3]\n",
    "shop/text.py": "def greet():\n    return f'hello'\n",
    "tests/test_shop.py": (
        "from shop import app, bill, page, text\n"
        "def test_told(): assert app.deliver() == 1\n"
        "def test_paid(): assert bill.paid(''.join(['pa', 'id']))\n"
        "def test_page(): assert page.page([1, 2, 3, 4]) == [1, 2, 3]\n"
        "def test_text(): assert text.greet() == 'hello'\n"
    ),
    "tests/conftest.py": "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent.parent))\n",
}


def test_candidates_leave_package_interfaces_and_comments_alone(make_clone: MakeClone) -> None:
    clone = make_clone(SHOP)
    found = {(candidate.rule, candidate.path) for candidate in candidates(clone.path)}
    assert found == {
        ("F401", "shop/app.py"),
        ("F401", "shop/bill.py"),
        ("F632", "shop/bill.py"),
        ("F541", "shop/text.py"),
    }


def test_a_fix_is_one_rule_in_one_file_in_one_commit(make_clone: MakeClone) -> None:
    clone = make_clone(SHOP)
    attempt = apply_fix(clone, "F632", "shop/bill.py")
    assert (clone.path / "shop/bill.py").read_text() == (
        "import json\ndef paid(status):\n    return status == 'paid'  # noqa: S999\n"
    )
    assert (attempt.commit, attempt.status) == (clone.head_commit, "applied")


@pytest.mark.parametrize(
    ("rule", "path", "said"),
    [
        ("F401", "shop/__init__.py", "never applied"),
        ("RUF100", "shop/bill.py", "never applied"),
        ("F632", "shop/text.py", "no safe fix"),
        ("F632", "../etc/passwd", "not a path inside"),
        ("F632", ".git/config", "not a path inside"),
        ("F632", "nowhere.py", "not a file"),
        ("--config=x", "shop/text.py", "ruff"),
    ],
)
def test_a_refused_fix_says_why_and_changes_nothing(make_clone: MakeClone, rule: str, path: str, said: str) -> None:
    clone = make_clone(SHOP)
    with pytest.raises(FixRefused, match=said):
        apply_fix(clone, rule, path)
    assert clone.commit("Nothing") == clone.base_commit


def test_the_repositorys_own_configuration_chooses_the_rules(make_clone: MakeClone) -> None:
    configuration = '[tool.ruff]\nfix = true\nunsafe-fixes = true\nlint.select = ["F541", "RUF100"]\n'
    clone = make_clone({**SHOP, "pyproject.toml": configuration})
    assert {(candidate.rule, candidate.path) for candidate in candidates(clone.path)} == {("F541", "shop/text.py")}
    assert clone.commit("Nothing") == clone.base_commit


def applied(clone: Clone) -> list[FixAttempt]:
    return [apply_fix(clone, candidate.rule, candidate.path) for candidate in candidates(clone.path)]


@pytest.mark.usefixtures("needs_sandbox")
def test_three_endings_kept_reverted_and_handed_to_a_person(make_clone: MakeClone) -> None:
    clone = make_clone(SHOP)
    before = run_tests(clone.path, clone.head_commit)
    report = judge(clone, applied(clone), before)
    endings = {(fix.rule, fix.path): fix for fix in report.fixes}
    assert endings["F401", "shop/app.py"].status == "reverted"
    assert "tests/test_shop.py::test_told was green" in endings["F401", "shop/app.py"].evidence
    assert "assert 0 == 1" in endings["F401", "shop/app.py"].evidence
    assert endings["F632", "shop/bill.py"].status == "kept"
    assert endings["F632", "shop/bill.py"].evidence == "turned tests/test_shop.py::test_paid green"
    assert endings["F541", "shop/text.py"].status == "kept"
    assert report.delta.broke == ()
    (task,) = report.human_tasks
    assert task.subject.startswith("tests/test_shop.py::test_page fails")
    assert "[2, 3]" in task.evidence
    verified, patch = verify_commit(clone, report.commit)
    assert verified.patch_applies
    assert verified.patch_reproduces
    assert verified.files_changed == ("shop/bill.py", "shop/text.py")
    assert b"shop/app.py" not in patch


@pytest.mark.usefixtures("needs_sandbox")
def test_fixes_without_runnable_tests_are_not_proven(make_clone: MakeClone) -> None:
    clone = make_clone({"a.py": "x = f'a'\n", "test_a.py": "import no_such_thing\ndef test_a(): pass\n"})
    before = run_tests(clone.path, clone.head_commit)
    report = judge(clone, applied(clone), before)
    assert {fix.status for fix in report.fixes} == {"not_proven"}
    assert report.fixes[0].evidence == "tests unrunnable (missing no_such_thing)"
    assert report.commit == clone.head_commit


@pytest.mark.usefixtures("needs_sandbox")
def test_a_file_that_no_test_imports_is_not_proven_and_keeps_its_own_imports(make_clone: MakeClone) -> None:
    clone = make_clone(
        {
            "demos/fixpath.py": "import sys\nsys.path.insert(0, '..')\n",
            "demos/demo.py": "import fixpath\nimport json\nprint(1)\n",
            "demos/other.py": "import json\nprint(f'x')\n",
            "lib.py": "import json\nx = 1\n",
            "test_lib.py": "from lib import x\ndef test_x(): assert x == 1\n",
        }
    )
    before = run_tests(clone.path, clone.head_commit)
    report = judge(clone, applied(clone), before)
    assert {(fix.rule, fix.path): fix.status for fix in report.fixes} == {
        ("F401", "demos/demo.py"): "reverted",
        ("F401", "demos/other.py"): "not_proven",
        ("F541", "demos/other.py"): "not_proven",
        ("F401", "lib.py"): "kept",
    }
    assert (clone.path / "demos/demo.py").read_text().startswith("import fixpath\n")


@pytest.mark.usefixtures("needs_sandbox")
def test_a_fix_that_breaks_the_import_of_all_tests_is_found(make_clone: MakeClone) -> None:
    clone = make_clone(
        {
            "a.py": "from b import thing\nx = f'a'\n",
            "b.py": "thing = 1\n",
            "c.py": "y = f'c'\n",
            "test_a.py": "from a import thing, x\nimport c\ndef test_a(): assert (thing, x, c.y) == (1, 'a', 'c')\n",
        }
    )
    before = run_tests(clone.path, clone.head_commit)
    report = judge(clone, applied(clone), before)
    statuses = {(fix.rule, fix.path): fix.status for fix in report.fixes}
    assert statuses == {("F401", "a.py"): "reverted", ("F541", "a.py"): "kept", ("F541", "c.py"): "kept"}


@pytest.mark.usefixtures("needs_sandbox")
def test_the_chain_of_steps_keeps_its_patch(make_clone: MakeClone) -> None:
    clone = make_clone(SHOP)
    before = run_tests(clone.path, clone.head_commit)
    fixes: JsonValue = {"fixes": [fix.model_dump(mode="json") for fix in applied(clone)], "human_tasks": []}
    context, kept = context_of(clone, {"fix": fixes, "tests-before": before.model_dump(mode="json")})
    report = verify_fixes_of_step(context)
    assert b"status == 'paid'" in kept["changes.patch"]
    context, kept = context_of(clone, {"tests-after": report.model_dump(mode="json")})
    assert verify(context).commit == report.commit
    assert b"status == 'paid'" in kept["changes.patch"]


def test_a_plan_without_fixes_verifies_an_empty_patch(make_clone: MakeClone) -> None:
    context, kept = context_of(make_clone({"a.py": "x = 1\n"}))
    report = verify(context)
    assert (report.patch_applies, report.patch_reproduces, report.files_changed) == (True, True, ())
    assert kept == {"changes.patch": b""}


def test_every_script_is_registered() -> None:
    assert {"inventory", "scan", "secrets", "tests", "compare_tests", "verify_fixes", "verify"} <= set(SCRIPTS)
    assert take_stock.__doc__
