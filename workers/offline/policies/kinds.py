"""What an analyser's rule is about, and what to do when it is right."""

from collections.abc import Mapping
from typing import Any

# Rule numbers that bandit (B) and ruff's flake8-bandit (S) share.
_RULES: Mapping[str, tuple[int, ...]] = {
    "sql": (608, 610, 611),
    "shell": (602, 604, 605, 609, 601),
    "subprocess": (603, 606, 607),
    "unpickling": (301, 302, 614, 615),
    "yaml": (506,),
    "tls": (501, 323),
    "oldtls": (502, 503, 504),
    "plaintext": (312, 321, 508, 509),
    "hash": (303, 324),
    "cipher": (304, 305, 505),
    "random": (311,),
    "archive": (202,),
    "secret": (105, 106, 107),
    "debug": (201,),
    "eval": (307, 102, 612),
    "assert": (101,),
    "import": (*range(401, 416),),
    "bind": (104,),
    "temporary": (108, 306),
    "swallowed": (110, 112),
    "timeout": (113,),
    "xml": (*range(313, 321),),
    "url": (310,),
    "template": (701, 702, 703, 308, 704),
    "permissions": (103, 613),
    "hostkey": (507,),
}
_BY_NUMBER = {number: kind for kind, numbers in _RULES.items() for number in numbers}
# Slugs are matched by words, so that a scanner may name its categories as it likes.
_WORDS: Mapping[str, str] = {
    "sql": "sql",
    "shell": "shell",
    "subprocess": "subprocess",
    "command": "shell",
    "yaml": "yaml",
    "deserial": "unpickling",
    "pickle": "unpickling",
    "weak-tls": "oldtls",
    "host-key": "hostkey",
    "plain-protocol": "plaintext",
    "tls": "tls",
    "certificate": "tls",
    "hash": "hash",
    "random": "random",
    "archive": "archive",
    "secret": "secret",
    "password": "secret",
    "debug": "debug",
    "eval": "eval",
    "exec": "eval",
    "assert": "assert",
    "import": "import",
    "bind": "bind",
    "temp": "temporary",
    "timeout": "timeout",
    "xml": "xml",
    "swallow": "swallowed",
    "cipher": "cipher",
    "template": "template",
    "permission": "permissions",
    "url": "url",
}

ADVICE: Mapping[str, str] = {
    "sql": "Pass values as parameters (`execute(sql, (value,))`); take names of columns or tables from an allow-list.",
    "shell": "Pass a list of arguments without `shell=True`; where a shell is needed, quote with `shlex.quote`.",
    "subprocess": "Name the program by its full path and check each argument that comes from outside.",
    "unpickling": "Use a format that only carries data, such as JSON, and check it against a schema.",
    "yaml": "Use `yaml.safe_load`.",
    "tls": "Verify certificates; for a private authority, pass its certificate as `verify=`.",
    "oldtls": "Use `ssl.create_default_context()`, which asks for TLS 1.2 or later.",
    "plaintext": "Use the encrypted successor of the protocol: SSH, SFTP, or the same over TLS.",
    "hash": "Keep passwords with `hashlib.scrypt` or argon2 and a salt; use SHA-256 elsewhere.",
    "cipher": "Use AES-GCM or ChaCha20-Poly1305 from the `cryptography` package.",
    "random": "Use `secrets.choice` or `secrets.token_urlsafe`.",
    "archive": 'Pass `filter="data"` to `extractall`, and limit the number and size of members.',
    "secret": "Read it from the environment or a secret store, and replace the value: it is in the history now.",
    "debug": "Switch debug mode on by an environment variable that production does not set.",
    "eval": "Parse the input (`ast.literal_eval`, JSON) or map names to functions.",
    "assert": "Raise an exception: `python -O` removes asserts.",
    "bind": "Bind to 127.0.0.1 unless other hosts must connect.",
    "temporary": "Use the `tempfile` module, which makes names that nobody can foresee.",
    "timeout": "Pass `timeout=`: without it a silent peer holds the caller for ever.",
    "xml": "Parse with `defusedxml`.",
    "url": "Check the scheme against `http` and `https` before opening.",
    "template": "Escape by default, and mark only constants as safe.",
    "permissions": "Give the narrowest mode that works, such as 0o600.",
    "hostkey": "Load known host keys and reject unknown ones.",
}
TITLES: Mapping[str, str] = {
    "sql": "SQL is built from text",
    "shell": "a shell interprets the command",
    "subprocess": "a program is started",
    "unpickling": "unpickling runs code that the data names",
    "yaml": "the YAML loader may construct any object",
    "tls": "the peer's certificate is not verified",
    "hash": "the hash is broken",
    "cipher": "the cipher is broken",
    "random": "the generator is predictable",
    "archive": "members may be written outside the target",
    "secret": "a secret stands in the code",
    "debug": "debug mode shows tracebacks and may run code",
    "eval": "text is run as code",
}


def kind_of(finding: Mapping[str, Any]) -> str:
    """The kind of a finding by its rules, else by its category; empty when no rule here knows it."""
    for hit in finding.get("hits") or ():
        rule = str(hit.get("rule", "")) if isinstance(hit, dict) else ""
        if rule[:1] in {"B", "S"} and rule[1:].isdigit() and int(rule[1:]) in _BY_NUMBER:
            return _BY_NUMBER[int(rule[1:])]
        if isinstance(hit, dict) and hit.get("tool") == "detect-secrets":
            return "secret"
    category = str(finding.get("category", "")).lower()
    return next((kind for word, kind in _WORDS.items() if word in category), "")
