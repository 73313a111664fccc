"""Chooses fixes that are safe by rule, applies them one by one, and asks a person about what no rule knows."""

import re
from typing import Any

from chargehand.workers.offline.conversation import Conversation, ToolCall, objects_under, payload
from chargehand.workers.offline.policies import missing_imports, repairs
from chargehand.workers.offline.policies.moves import Move, finish

# Candidates applied in one turn, so that a crash loses little and a long list still fits into the turns.
MIN_FIXES_A_TURN = 3
MAX_APPLY_TURNS = 6
MAX_TEST_FILES = 6
# Removing a `noqa` hides a decision of the repository's authors; the others change what code does.
NEVER = frozenset({"RUF100", "B006", "PLR1722"})
# In a package's `__init__.py` an unused import is usually its public surface.
NOT_IN_INIT = frozenset({"F401"})


def choose(conversation: Conversation) -> Move:
    """List, apply in a stable order, look at what still fails, finish."""
    listed = conversation.calls_of("list_fixes")
    if "list_fixes" in conversation.tools and not listed:
        return Move(says="Listing what can be fixed without judgement.", calls=(("list_fixes", {}),))
    wanted = safe_candidates(listed[-1] if listed else None)
    tried = conversation.calls_of("apply_fix")
    done = {_identity(call.arguments) for call in tried}
    waiting = [candidate for candidate in wanted if _identity(candidate) not in done]
    if waiting and "apply_fix" in conversation.tools:
        batch = waiting[: max(MIN_FIXES_A_TURN, -(-len(wanted) // MAX_APPLY_TURNS))]
        return Move(
            says=f"Applying {len(batch)} of {len(waiting)} safe fixes.",
            calls=tuple(
                ("apply_fix", conversation.fitted("apply_fix", rule=item["rule"], path=item["path"])) for item in batch
            ),
        )
    failing = failing_tests(conversation.inputs)
    files = sorted({test.split("::")[0] for test in failing if "::" in test})[:MAX_TEST_FILES]
    if files and "read_file" in conversation.tools and not conversation.calls_of("read_file"):
        return Move(
            says="Reading the tests that fail, to see whether a fix concerns them.",
            calls=tuple(("read_file", conversation.fitted("read_file", path=path)) for path in files),
        )
    applied = [call for call in tried if _has_commit(call)]
    fixes = [{"rule": _value(call, "rule"), "path": _value(call, "path")} for call in applied]
    touched = {fix["path"] for fix in fixes}
    tests = {_value(call, "path"): call.text for call in conversation.calls_of("read_file") if not call.is_error}
    unconcerned = [test for test in sorted(failing) if not _concerns(tests.get(test.split("::")[0], ""), touched)]
    messages = _run_before(conversation.inputs).get("messages")
    said = messages if isinstance(messages, dict) else {}
    mended = missing_imports.of(conversation, {test: str(said[test]) for test in unconcerned if test in said})
    if isinstance(mended, Move):
        return mended
    unconcerned = [test for test in unconcerned if test not in mended]
    asked = repairs.of(conversation, unconcerned)
    if isinstance(asked, Move):
        return asked
    fixes += asked.fixes
    tasks = [
        {**_task(test, failing[test]), **({"asked": asked.open[test]} if test in asked.open else {})}
        for test in unconcerned
        if test not in asked.repaired
    ]
    refused = [call for call in tried if call.is_error]
    tasks += [
        {
            "subject": f"{_value(call, 'rule')} in {_value(call, 'path')} could not be fixed automatically",
            "evidence": call.text[:500],
        }
        for call in refused
    ]
    return finish(
        "submit_fixes",
        f"{len(fixes)} fixes applied, {len(tasks)} things for a person.",
        fixes=fixes,
        human_tasks=tasks,
    )


def safe_candidates(listed: ToolCall | None) -> list[dict[str, str]]:
    """Rule and path of each fix that may be applied, sorted and without repetition."""
    if listed is None or listed.is_error:
        return []
    value = payload(listed.text)
    if isinstance(value, list):
        value = {"fixes": value}
    candidates = list(_candidates_in(value)) if value is not None else _candidates_in_text(listed.text)
    unique = {_identity(item): item for item in candidates if _is_safe(item)}
    return [{"rule": rule, "path": path} for rule, path in sorted(unique)]


def _candidates_in(value: Any) -> list[dict[str, Any]]:
    found = [item for key in ("fixes", "candidates", "items") for item in objects_under(value, key)]
    return [item for item in found if item.get("rule") and item.get("path")]


def _candidates_in_text(text: str) -> list[dict[str, Any]]:
    """`RULE path…` or `path: RULE …` lines."""
    found: list[dict[str, Any]] = []
    for line in text.split("\n"):
        if match := re.match(r"\s*[-*]?\s*([A-Z]{1,4}\d{3,4})\s+(?:in\s+)?(\S.*?\.pyi?)\b", line):
            found.append({"rule": match[1], "path": match[2]})
        elif match := re.match(r"\s*[-*]?\s*(\S.*?\.pyi?)(?::\d+)*:?\s+([A-Z]{1,4}\d{3,4})\b", line):
            found.append({"rule": match[2], "path": match[1]})
    return found


def _is_safe(candidate: dict[str, Any]) -> bool:
    rule, path = _identity(candidate)
    if rule in NEVER or (rule in NOT_IN_INIT and path.endswith("__init__.py")):
        return False
    if candidate.get("safe") is False or candidate.get("applicability") in {"unsafe", "display"}:
        return False
    return not rule.startswith("S") or not rule[1:].isdigit()


def failing_tests(inputs: dict[str, Any]) -> dict[str, str]:
    """Failing test ids of the run before the fixes, each with what was seen of it."""
    run = _run_before(inputs)
    if run.get("runnable") is False:
        return {}
    outcomes = run.get("outcomes")
    if not isinstance(outcomes, dict):
        return {}
    tail = str(run.get("output_tail") or "")
    return {
        str(test): _evidence(str(test), str(outcome), tail)
        for test, outcome in outcomes.items()
        if outcome in {"failed", "error"}
    }


def _run_before(inputs: dict[str, Any]) -> dict[str, Any]:
    """How the tests stand: as the step before says, or, in a later round, the verdict on the round before."""
    verdicts = [
        result["tests"]
        for result in inputs.values()
        if isinstance(result, dict) and "passed" in result and isinstance(result.get("tests"), dict)
    ]
    runs = [
        result for result in inputs.values() if isinstance(result, dict) and isinstance(result.get("outcomes"), dict)
    ]
    given = inputs.get("tests-before")
    return next(iter([*verdicts, *([given] if isinstance(given, dict) else []), *runs]), {})


def _evidence(test: str, outcome: str, tail: str) -> str:
    name = test.split("::")[-1].split("[")[0]
    lines = tail.split("\n")
    near = [line.strip() for line in lines if name in line or line.startswith("E ")]
    return f"{outcome} before any fix" + (": " + " | ".join(near)[:600] if near else "")


def _concerns(test_text: str, touched: set[str]) -> bool:
    """Whether the test imports a module that a fix has changed."""
    modules = set(re.findall(r"^\s*\d*[:\t|→ ]*\s*(?:from|import)\s+([\w.]+)", test_text, re.MULTILINE))
    for package, names in re.findall(r"from\s+([\w.]+)\s+import\s+\(?([\w, ]+)", test_text):
        modules |= {f"{package}.{name.strip()}" for name in names.split(",")}
    return any(
        path.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__") in modules
        for path in touched
    )


def _has_commit(call: ToolCall) -> bool:
    """A fix that changed nothing gives no commit, and must not be claimed."""
    value = payload(call.text)
    return not call.is_error and isinstance(value, dict) and bool(value.get("commit"))


def _task(test: str, evidence: str) -> dict[str, str]:
    return {"subject": f"{test} fails, and no rule knows how to repair it", "evidence": evidence}


def _identity(arguments: Any) -> tuple[str, str]:
    rule = next((arguments[name] for name in ("rule", "rule_id", "code") if name in arguments), "")
    path = next((arguments[name] for name in ("path", "file", "file_path", "filename") if name in arguments), "")
    return str(rule), str(path)


def _value(call: ToolCall, meaning: str) -> str:
    rule, path = _identity(call.arguments)
    return rule if meaning == "rule" else path
