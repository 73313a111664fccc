"""The rules of the analysers, mapped to categories that they share. Pure data.

bandit and ruff number the same rule alike (`B608`, `S608`), so one table serves both.
"""

import re
from dataclasses import dataclass

from chargehand.workers.findings import Severity


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """What a rule is about, in the words of the report."""

    slug: str
    title: str
    cwe: int | None
    severity: Severity


def _category(slug: str, title: str, cwe: int | None, severity: Severity) -> Category:
    return Category(slug=slug, title=title, cwe=cwe, severity=severity)


SQL_INJECTION = _category("sql-injection", "SQL built from strings", 89, "high")
SHELL = _category("command-injection", "A shell runs a composed command", 78, "critical")
COMMAND = _category("subprocess-call", "A program is started", 78, "low")
DESERIALISATION = _category("unsafe-deserialisation", "Untrusted bytes become objects", 502, "critical")
YAML = _category("unsafe-yaml", "YAML that may make any object", 502, "high")
TLS = _category("tls-verification-off", "A certificate is not verified", 295, "high")
OLD_TLS = _category("weak-tls", "An outdated TLS version or none", 326, "medium")
WEAK_HASH = _category("weak-hash", "A broken hash function", 327, "medium")
WEAK_CIPHER = _category("weak-cipher", "A broken cipher or too short a key", 327, "high")
WEAK_RANDOM = _category("weak-random", "Random numbers that can be predicted", 330, "medium")
ARCHIVE = _category("archive-extraction", "An archive may write outside its folder", 22, "high")
SECRET = _category("hard-coded-secret", "A secret in the source", 798, "high")
DEBUG = _category("debug-mode", "Debug mode is on", 489, "high")
BIND_ALL = _category("bind-all-interfaces", "Listens on every interface", 605, "low")
EVAL = _category("code-execution", "Text is executed as code", 95, "high")
XML = _category("unsafe-xml", "An XML parser that expands entities", 611, "medium")
TEMPLATE = _category("unescaped-template", "A template without escaping", 79, "high")
TEMPORARY = _category("predictable-temporary-file", "A temporary file with a guessable name", 377, "medium")
PERMISSIONS = _category("file-permissions", "A file that too many may write", 732, "medium")
URL_OPEN = _category("url-scheme", "A URL of any scheme is opened", 939, "low")
NO_TIMEOUT = _category("no-timeout", "A request that may wait for ever", 400, "low")
HOST_KEY = _category("host-key-unverified", "An unknown SSH host is trusted", 295, "high")
SWALLOWED = _category("swallowed-error", "An error is silently dropped", 703, "low")
ASSERT = _category("assert", "A check that `python -O` removes", 703, "low")
PLAIN_PROTOCOL = _category("plain-protocol", "A protocol without encryption", 319, "medium")
OTHER = _category("other", "Flagged by an analyser", None, "low")

_BY_NUMBER: dict[int, Category] = {
    101: ASSERT, 102: EVAL, 103: PERMISSIONS, 104: BIND_ALL, 105: SECRET, 106: SECRET, 107: SECRET, 108: TEMPORARY,
    110: SWALLOWED, 112: SWALLOWED, 113: NO_TIMEOUT, 201: DEBUG, 202: ARCHIVE, 301: DESERIALISATION,
    302: DESERIALISATION, 303: WEAK_HASH, 304: WEAK_CIPHER, 305: WEAK_CIPHER, 306: TEMPORARY, 307: EVAL,
    308: TEMPLATE, 310: URL_OPEN, 311: WEAK_RANDOM, 312: PLAIN_PROTOCOL, 323: TLS, 324: WEAK_HASH, 321: PLAIN_PROTOCOL,
    501: TLS, 502: OLD_TLS, 503: OLD_TLS, 504: OLD_TLS, 505: WEAK_CIPHER, 506: YAML, 507: HOST_KEY,
    508: PLAIN_PROTOCOL, 509: PLAIN_PROTOCOL, 601: SHELL, 602: SHELL, 603: COMMAND, 604: SHELL, 605: SHELL,
    606: COMMAND, 607: COMMAND, 608: SQL_INJECTION, 609: SHELL, 610: SQL_INJECTION, 611: SQL_INJECTION,
    612: EVAL, 613: PERMISSIONS, 614: DESERIALISATION, 615: DESERIALISATION, 701: TEMPLATE, 702: TEMPLATE,
    703: TEMPLATE, 704: TEMPLATE,
    **dict.fromkeys(range(313, 321), XML),
}  # fmt: skip
_NUMBER = re.compile(r"[BS](\d{3})\Z")
# `import pickle` is no fault; its use is, and has a rule of its own.
_IMPORT_NOTICES = range(400, 500)


def category_of(tool: str, rule: str) -> Category:
    """Give the shared category of an analyser's rule; an unknown rule is `OTHER`, never lost."""
    if tool == "detect-secrets":
        return SECRET
    if tool == "chargehand":
        return WEAK_HASH
    match = _NUMBER.match(rule)
    return _BY_NUMBER.get(int(match.group(1)), OTHER) if match else OTHER


def is_import_notice(rule: str) -> bool:
    """Whether the rule only says that a module is imported."""
    match = _NUMBER.match(rule)
    return match is not None and int(match.group(1)) in _IMPORT_NOTICES
