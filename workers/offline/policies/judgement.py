"""Confirms, dismisses or hands over one finding, by the code around it.

Nothing that a repository *says* counts: a comment, a `noqa` or a README never dismisses anything.
"""

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chargehand.workers.offline.policies.code_around import (
    Origin,
    Scope,
    Trust,
    called,
    keyword_value,
    origin_of,
    scope_around,
    short,
    values_of,
    worst,
)
from chargehand.workers.offline.policies.kinds import ADVICE, TITLES, kind_of

Decision = Literal["confirmed", "dismissed", "needs_person"]

_TESTS = re.compile(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")
_SECURITY_NAMES = re.compile(
    r"passw|pwd|secret|token|reset|session|nonce|salt|csrf|otp|auth|credential|cookie|api_?key|invite|captcha|sign",
    re.I,
)
_CACHE_NAMES = re.compile(r"etag|cache|checksum|dedup|bucket|shard|content_hash|file_hash|cache_key", re.I)
_CHANCE_NAMES = re.compile(r"jitter|backoff|sleep|delay|shuffle|sample|simulat|demo|colou?r|animation|retry", re.I)
_PLACEHOLDER = re.compile(
    r"change.?me|example|placeholder|your[-_ ]|dummy|fake|sample|xxxx|<[^>]+>|\$\{|\{\{|^\*+$|todo|redacted|test",
    re.IGNORECASE,
)
_LOCK_FILES = re.compile(r"(\.lock|lock\.json|\.sum|lock\.yaml|requirements[^/]*\.txt|\.ipynb|\.secrets\.baseline)$")
_DIGEST_LINE = re.compile(r"sha(1|256|384|512)|integrity|checksum|commit|revision|digest|etag|^hash$", re.I)
# Bits a character below which a value reads like a word rather than like a key.
KEY_ENTROPY_BITS = 3.0
SHORT_VALUE = 8
SENTENCE_WORDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """A decision with its reason."""

    decision: Decision
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A finding with what is known of the code around it."""

    finding: Mapping[str, Any]
    kind: str
    scope: Scope | None
    text: str
    """The lines of the finding as the file shows them."""

    @property
    def place(self) -> str:
        """Path, line and function."""
        where = f"{self.finding.get('path')}:{self.finding.get('line')}"
        return f"{where} in `{self.scope.name}`" if self.scope and self.scope.name else where

    @property
    def in_tests(self) -> bool:
        """Whether the code only runs in tests."""
        return bool(_TESTS.search(str(self.finding.get("path", ""))))

    @property
    def reach(self) -> str:
        """How input gets here, as far as the scan knows."""
        routes = [str(route) for route in self.finding.get("reachable_from") or ()]
        if not routes:
            return "no route to it was found"
        return (
            "reachable from " + ", ".join(f"`{route}`" for route in routes[:3]) + (" and others" if routes[3:] else "")
        )

    def call(self, pattern: str) -> ast.Call | None:
        """The smallest call on the finding's lines whose name fits."""
        if self.scope is None:
            return None
        first = int(self.finding.get("line") or 0)
        last = max(first, int(self.finding.get("end_line") or first))
        calls = self.scope.calls_at(first, last)
        return next((call for call in calls if re.search(pattern, called(call) or short(call.func))), None)


def judge(finding: Mapping[str, Any], lines: Mapping[int, str]) -> dict[str, str]:
    """The verdict on one finding, given the lines of its file that were read."""
    line = int(finding.get("line") or 0)
    end = max(line, int(finding.get("end_line") or line))
    shown = [lines[number] for number in range(line, end + 1) if number in lines]
    is_python = str(finding.get("path", "")).endswith((".py", ".pyi"))
    case = Case(
        finding=finding,
        kind=kind_of(finding),
        scope=scope_around(lines, line) if is_python else None,
        text="\n".join(shown) or str(finding.get("snippet", "")),
    )
    opinion = _RULES.get(case.kind, _unknown)(case)
    return {
        "finding_id": str(finding.get("finding_id")),
        "verdict": opinion.decision,
        "reason": f"{opinion.reason} [{case.place}]",
        "advice": ADVICE.get(case.kind, "") if opinion.decision == "confirmed" else "",
    }


def _confirm(case: Case, what: str) -> Opinion:
    # Test code that looks dangerous mostly is so on purpose, and nobody outside can call it.
    if case.in_tests:
        return Opinion(decision="dismissed", reason=f"Only tests run this file, with their own data: {what}")
    return Opinion(decision="confirmed", reason=f"{what}; {case.reach}.")


def _dismiss(reason: str) -> Opinion:
    return Opinion(decision="dismissed", reason=reason)


def _ask(case: Case, reason: str) -> Opinion:
    return Opinion(decision="needs_person", reason=f"{reason}; {case.reach}.")


def _sql(case: Case) -> Opinion:
    built = _built_text(case)
    if case.scope is None or built is None:
        return _ask(case, "SQL is built from text, and the rules could not follow the values in it")
    origin = worst([origin_of(part, case.scope) for part in built])
    if origin.trust is Trust.FIXED:
        return _dismiss(f"What is put into the SQL is fixed: {origin.words}. Text from outside cannot get in.")
    if origin.trust is Trust.OUTSIDE:
        return _confirm(case, f"{origin.words} is put into the text of the SQL")
    return _ask(case, f"{origin.words} is put into the text of the SQL, and the rules do not know where it comes from")


def _built_text(case: Case) -> list[ast.expr] | None:
    """The expressions that are put into a text on the finding's lines."""
    if case.scope is None:
        return None
    statement = case.scope.statement_at(int(case.finding.get("line") or 0))
    if statement is None:
        return None
    parts: list[ast.expr] = []
    for node in ast.walk(statement):
        if isinstance(node, ast.JoinedStr):
            parts += [value.value for value in node.values if isinstance(value, ast.FormattedValue)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add) and _holds_text(node):
            parts += [side for side in (node.left, node.right) if not _holds_text(side)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            parts += [*node.args, *(keyword.value for keyword in node.keywords)]
    return parts or None


def _holds_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _holds_text(node.left) or _holds_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _shell(case: Case) -> Opinion:
    call = case.call(r"run|call|Popen|check_output|system|popen|getoutput|exec_command|getstatusoutput")
    if call is None or case.scope is None or not call.args:
        return _ask(case, "A shell runs a command that the rules could not follow")
    origin = origin_of(call.args[0], case.scope)
    if origin.trust is Trust.FIXED:
        return _dismiss(f"`{short(call)}`: the command is fixed ({origin.words}); nothing else can get in.")
    if origin.trust is Trust.OUTSIDE:
        return _confirm(case, f"{origin.words} becomes part of a command that a shell interprets (`{short(call)}`)")
    return _ask(case, f"A shell interprets a command with {origin.words}, of which the rules do not know the source")


def _subprocess(case: Case) -> Opinion:
    call = case.call(r"run|call|Popen|check_output|exec|spawn|startfile")
    if call is None or case.scope is None or not call.args:
        return _ask(case, "A program is started with arguments that the rules could not follow")
    shell = keyword_value(call, "shell", case.scope)
    if isinstance(shell, ast.Constant) and shell.value:
        return _shell(case)
    command = call.args[0]
    if isinstance(command, ast.Name):
        values = values_of(command.id, case.scope)
        command = values[0] if len(values) == 1 else command
    parts = command.elts if isinstance(command, ast.List | ast.Tuple) else [command]
    origins = [origin_of(part, case.scope) for part in parts]
    reached = worst(origins)
    if reached.trust is Trust.FIXED:
        return _dismiss(f"`{short(call)}`: program and arguments are fixed, and no shell interprets them.")
    if origins[0].trust is Trust.FIXED and len(origins) > 1:
        return _dismiss(f"`{short(call)}`: the program is fixed, and no shell interprets the arguments.")
    if origins[0].trust is Trust.OUTSIDE:
        return _confirm(case, f"{origins[0].words} chooses the program that is started (`{short(call)}`)")
    return _ask(case, f"`{short(call)}` starts a program that {reached.words} decides")


def _by_argument(case: Case, pattern: str, what: str, safe: Callable[[ast.Call, Scope], str]) -> Opinion:
    call = case.call(pattern)
    if call is None or case.scope is None:
        return _ask(case, f"{TITLES.get(case.kind, what)}, and the rules could not read the call")
    excuse = safe(call, case.scope)
    if excuse:
        return _dismiss(f"`{short(call)}`: {excuse}")
    origin = origin_of(call.args[0], case.scope) if call.args else Origin(trust=Trust.UNKNOWN, words="its input")
    if origin.trust is Trust.FIXED:
        return _dismiss(f"`{short(call)}`: its input is fixed ({origin.words}).")
    if origin.trust is Trust.OUTSIDE:
        return _confirm(case, f"{origin.words} reaches `{short(call)}`: {what}")
    return _ask(case, f"`{short(call)}`: {what}, if {origin.words} can come from outside")


def _unpickling(case: Case) -> Opinion:
    return _by_argument(
        case, r"load|read_pickle|Unpickler|open", "unpickling runs code that the data names", lambda *_: ""
    )


def _yaml(case: Case) -> Opinion:
    def safe(call: ast.Call, scope: Scope) -> str:
        loader = keyword_value(call, "Loader", scope) or (call.args[1] if len(call.args) > 1 else None)
        if loader is not None and "Safe" in short(loader):
            return f"the loader `{short(loader)}` only makes plain values."
        return ""

    return _by_argument(case, r"load", "this YAML loader may construct any object", safe)


def _eval(case: Case) -> Opinion:
    return _by_argument(case, r"eval|exec", "text is run as code", lambda *_: "")


def _xml(case: Case) -> Opinion:
    return _by_argument(case, r"parse|fromstring|XML|iterparse|make_parser", "entities are expanded", lambda *_: "")


def _url(case: Case) -> Opinion:
    return _by_argument(
        case, r"urlopen|urlretrieve|Request|open", "a `file:` address would be opened too", lambda *_: ""
    )


def _bind(case: Case) -> Opinion:
    return _ask(case, "The service listens on every interface; whether others may connect is a matter of deployment")


def _temporary(case: Case) -> Opinion:
    return _ask(case, "A name in a shared folder can be foreseen; whether others use that machine needs a person")


def _template(case: Case) -> Opinion:
    return _ask(case, "Text is put into a page without escaping, and the rules do not follow it to its source")


def _archive(case: Case) -> Opinion:
    call = case.call(r"extractall|extract|unpack_archive")
    if call is None or case.scope is None:
        return _ask(case, "An archive is unpacked, and the rules could not read the call")
    way = keyword_value(call, "filter", case.scope)
    if isinstance(way, ast.Constant) and way.value in {"data", "tar"}:
        return _dismiss(f"`{short(call)}`: `filter={way.value!r}` refuses members outside the target.")
    if keyword_value(call, "members", case.scope) is not None:
        return _ask(case, f"`{short(call)}` unpacks chosen members; whether the choice is safe needs a reader")
    return _confirm(case, f"`{short(call)}` writes wherever the archive's members say, also outside the target")


def _tls(case: Case) -> Opinion:
    call = case.call(r".")
    if call is not None and case.scope is not None:
        verify = keyword_value(call, "verify", case.scope)
        if verify is not None and not (isinstance(verify, ast.Constant) and verify.value is False):
            return _ask(case, f"`{short(call)}`: whether the certificate is verified depends on `{short(verify)}`")
    shown = short(call) if call is not None else case.text.strip()[:80]
    return _confirm(case, f"`{shown}` accepts any certificate, so anybody on the way can answer")


def _hash(case: Case) -> Opinion:
    call = case.call(r"md5|sha1|sha|new|md4")
    if call is None or case.scope is None:
        return _ask(case, "A broken hash is used, and the rules could not read the call")
    use = keyword_value(call, "usedforsecurity", case.scope)
    if isinstance(use, ast.Constant) and use.value is False:
        return _dismiss(
            f"`{short(call)}` is told `usedforsecurity=False`: the digest names content and protects nothing."
        )
    around = f"{case.scope.name} {short(call)}"
    if _CACHE_NAMES.search(around) and not _SECURITY_NAMES.search(around):
        return _ask(case, f"`{short(call)}` looks like a name for content; if so, say it with `usedforsecurity=False`")
    secret = _SECURITY_NAMES.search(around)
    purpose = "a secret is kept or compared by it" if secret else "nothing says that it protects nothing"
    return _confirm(case, f"`{short(call)}` is a broken hash, and {purpose}")


def _random(case: Case) -> Opinion:
    if case.scope is None:
        return _ask(case, "A predictable generator is used, and the rules could not read the code")
    statement = case.scope.statement_at(int(case.finding.get("line") or 0))
    shown = short(statement, 90) if statement is not None else case.text.strip()[:90]
    around = f"{case.scope.name} {shown}"
    if word := _SECURITY_NAMES.search(around):
        return _confirm(case, f"`{shown}`: a predictable generator makes something secret (`{word[0]}`)")
    if _CHANCE_NAMES.search(around) or case.in_tests:
        return _dismiss(f"`{shown}`: chance is wanted here, and nothing depends on its being unpredictable.")
    return _ask(case, f"`{shown}`: whether this must be unpredictable depends on what it is for")


def _secret(case: Case) -> Opinion:
    path = str(case.finding.get("path", ""))
    if _LOCK_FILES.search(path):
        return _dismiss("A lock file lists checksums of packages; they are public.")
    name, value = _named_value(case.text)
    if not value:
        return _ask(case, "A secret may stand here, and the rules could not read the value")
    # The value itself is never repeated: reports travel further than code.
    if _PLACEHOLDER.search(value):
        return _dismiss(f"The value of `{name}` is a placeholder, not a secret.")
    if _DIGEST_LINE.search(name) and re.fullmatch(r"[0-9a-fA-F]{32,128}", value):
        return _dismiss(f"The value of `{name}` is a digest of something public.")
    if len(value.split()) >= SENTENCE_WORDS and not re.search(r"passw|pwd|phrase", name, re.I):
        return _dismiss(f"The value of `{name}` is a sentence, not a secret.")
    if case.in_tests:
        return _dismiss(f"The value of `{name}` stands in test code, which makes up its own accounts.")
    if value.lower() in name.lower() or re.fullmatch(r"[a-z_ -]+", value):
        if len(value) < SHORT_VALUE and not re.search(r"passw|pwd", name, re.I):
            return _dismiss(f"The value of `{name}` is an ordinary word: it names a field, it is no secret.")
        return _ask(case, f"The value of `{name}` reads like words; whether it opens anything needs a person")
    if entropy_bits(value) >= KEY_ENTROPY_BITS and len(value) >= SHORT_VALUE:
        return _confirm(case, f"`{name}` is given a value of {len(value)} characters that reads like a key")
    return _ask(case, f"The value of `{name}` is short; whether it opens anything needs a person")


def _named_value(text: str) -> tuple[str, str]:
    """The name on a line and the quoted or bare value it is given."""
    match = re.search(r"([A-Za-z_][\w.\-]*)[\"']?\s*\]?\s*(?::\s*\w+\s*)?(?:=|:|==)\s*[bru]{0,2}([\"'])(.+?)\2", text)
    if match:
        return match[1], match[3]
    match = re.search(r"([A-Za-z_][\w.\-]*)\s*[:=]\s*([^\s\"'#,;(){}\[\]]{4,})", text)
    if match:
        return match[1], match[2]
    quoted = re.search(r"([\"'])(.{4,}?)\1", text)
    return ("the line", quoted[2]) if quoted else ("", "")


def entropy_bits(value: str) -> float:
    """Shannon entropy of a text, in bits a character."""
    if not value:
        return 0.0
    counts = Counter(value)
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())


def _debug(case: Case) -> Opinion:
    call = case.call(r".")
    if call is not None and case.scope is not None:
        debug = keyword_value(call, "debug", case.scope)
        if debug is not None and not (isinstance(debug, ast.Constant) and debug.value):
            return _ask(case, f"Debug mode depends on `{short(debug)}`")
    shown = short(call) if call is not None else case.text.strip()[:80]
    return _confirm(case, f"`{shown}` runs with debug mode on: errors show code and values to whoever causes them")


def _assert(case: Case) -> Opinion:
    if case.in_tests:
        return _dismiss("Asserts are how tests speak.")
    if re.search(r"assert\s+(isinstance\(|.+\bis not None\b)", case.text):
        return _dismiss("The assert narrows a type for checkers; it decides nothing about input.")
    statement = case.scope.statement_at(int(case.finding.get("line") or 0)) if case.scope else None
    if case.scope and isinstance(statement, ast.Assert) and not case.finding.get("reachable_from"):
        origin = origin_of(statement.test, case.scope)
        if origin.trust is not Trust.OUTSIDE:
            return _dismiss(
                f"`{short(statement)}` checks the program's own state: no parameter and no request is in it."
            )
    return _ask(case, "An assert vanishes under `python -O`; whether it guards against input needs a reader")


def _import(case: Case) -> Opinion:
    return _dismiss(f"`{case.text.strip()[:80]}`: an import does nothing by itself; each use is judged apart.")


def _swallowed(case: Case) -> Opinion:
    return _dismiss("An error is swallowed: that may hide a bug, but nothing from outside gets further by it.")


def _plain(case: Case) -> Opinion:
    """Kinds where the analyser has seen all there is to see."""
    shown = " ".join(case.text.split())[:90]
    hits = [hit for hit in case.finding.get("hits") or () if isinstance(hit, dict)]
    message = str(hits[0].get("message", "")).strip().rstrip(".") if hits else str(case.finding.get("title", ""))
    return _confirm(case, f"`{shown}`: {message or 'the analysers object'}")


def _unknown(case: Case) -> Opinion:
    title = case.finding.get("title") or case.finding.get("category") or "finding"
    return _ask(case, f"No rule knows '{title}'")


_RULES: Mapping[str, Callable[[Case], Opinion]] = {
    "sql": _sql,
    "shell": _shell,
    "subprocess": _subprocess,
    "unpickling": _unpickling,
    "yaml": _yaml,
    "tls": _tls,
    "hash": _hash,
    "random": _random,
    "archive": _archive,
    "secret": _secret,
    "debug": _debug,
    "eval": _eval,
    "assert": _assert,
    "import": _import,
    "swallowed": _swallowed,
    "timeout": _plain,
    "cipher": _plain,
    "hostkey": _plain,
    "permissions": _plain,
    "oldtls": _plain,
    "plaintext": _plain,
    "xml": _xml,
    "url": _url,
    "bind": _bind,
    "temporary": _temporary,
    "template": _template,
}
