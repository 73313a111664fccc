"""What a call and its result are sent in, taken off: envelopes, colours, what is said about the call itself; pure."""

import json
import re
from collections.abc import Iterable
from functools import lru_cache

from pydantic import JsonValue
from pydantic_core import from_json

# Colours and cursor movements of a terminal.
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Before the text, when it was said.
_LOGGED = re.compile(r"^\s*\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?:? (?=\S)")
# Before it, the process that said it; behind it, how it came.
_SAID_BY = re.compile(r"^\[\d{2,7}\] (?=\S)")
_SAID_BY_ALONE = re.compile(r"\[\d{2,7}\]\s*")
_CAME_BY = re.compile(
    r"\s*\n(?:\((?:via|took|from|served by|request\w*|elapsed|time|duration|cached|node|host|id)\b[^()\n]*\)"
    r"|x-[\w-]+: \S+|\[exit \d+\] \d+(?:\.\d+)?\s?m?s)\s*$",
    re.IGNORECASE,
)
# Nothing, said in words.
_EMPTY = re.compile(
    r"\s*[(\[<](?:no (?:content|output|stdout)|empty(?: output)?)[)\]>]\s*"
    r"|\s*[(\[<]?(?:(?:the |your )?(?:\w+ )?(?:command |tool |program |code |script )?"
    r"(?:ran|executed|completed|finished|succeeded|exited)(?: successfully)?,?(?: and| but)?"
    r"(?: (?:did not produce|produced|with|without))(?: any| no)? output(?: or errors?)?)[.)\]>]*\s*",
    re.IGNORECASE,
)
# Under it, that the program has ended well.
_ENDED_WELL = re.compile(
    r"\s*\n?[\[(<]?(?:the )?(?:command|process|program)? ?(?:finished|exited|completed|terminated|ended)(?: normally)?"
    r"(?: with)?[ :]+(?:exit )?(?:code|status)[ :=]*0[\])>.]*\s*\Z|\s*\n[\[(]exit(?: code| status)?[ :=]*0[\])]\s*\Z",
    re.IGNORECASE,
)
# Or ill, which what it said tells better.
_ENDED_ILL = re.compile(
    r"(?<=\S)\s*\n[\[(<]?(?:(?:the )?(?:command|process|program) )?(?:exit(?:ed)?|failed|returned|finished)(?: with)?"
    r"(?: (?:exit )?(?:code|status))?[ :=]*[1-9]\d{0,2}[\])>.]*\s*\Z",
    re.IGNORECASE,
)
# Before the output of a process, line by line: how it was run.
_RUN_AS = re.compile(
    r"\A(?:(?:Chunk ID: \S+|Wall time: [\d.]+ ?s\w*|Process exited with code -?\d+|Exit code: -?\d+"
    r"|Original token count: \d+|Total output lines: \d+|Output:"
    r"|\[(?:pid|tty|session|container|shell|cwd)\b[^\]\n]*\])[ \t]*(?:\n|\Z))+",
    re.IGNORECASE,
)
_EXIT = re.compile(r"(?:exited with code|exit code:) (-?\d+)", re.IGNORECASE)
# Around it, a mark of one word that says that it is one.
_MARKED = re.compile(
    r"\A\s*<(?P<name>result|output|tool_result|tool_response|function_results?|response|stdout|content)"
    r"(?:\s+[\w-]+=(?:\"[^\"]*\"|'[^']*'))*\s*>\n?(?P<said>.*?)\n?\s*</(?P=name)>\s*\Z",
    re.DOTALL,
)
# Under it, where it was run.
_RUN_IN = re.compile(r"\s*\n?\[(?:current working directory|python interpreter|cwd)[^\]\n]*\]\s*\Z", re.IGNORECASE)
# Several of them, one after the other.
_TAG = re.compile(r"\s*<(?P<name>[a-z]\w*)>\n?(?P<said>.*?)\n?</(?P=name)>\s*", re.IGNORECASE | re.DOTALL)
_RULED = re.compile(r"^[ \t]*([-=_*#~+])\1{3,}[ \t]*\n?", re.MULTILINE)
# Envelopes: a tool behind a protocol that runs a process has two.
MOST_ENVELOPES = 3
LOADS = frozenset({"content", "text", "result", "output", "stdout", "stderr", "data", "body", "error"})
ENDED = frozenset({"completed", "complete", "success", "succeeded", "ok", "done", "finished"})
_CALL = re.compile(r"(?:call|toolu|tool|msg|item|run|resp)[_-]\w{6,}", re.IGNORECASE)
SAYS_WELL = frozenset({"ok", "success", "succeeded"})
SAYS_ILL = frozenset({"iserror", "exitcode", "returncode", "exitstatus", "rc", "timedout"})
NOTES = frozenset({"meta", "ts", "timestamp", "time", "type"})
# Of a structured answer: a few words may stand before it; a larger one is data, and compared as it stands.
MOST_PROLOGUE = 40
MOST_JSON = 8_000
# Nested deeper it is not walked through: each level takes places on the stack, which has a thousand.
MOST_LEVELS = 50
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
TIMES = frozenset({"time", "at", "timestamp", "ts", "date", "now", "of", "clock"})
OF_THE_ANSWER = frozenset(
    {
        "request",
        "req",
        "response",
        "server",
        "trace",
        "span",
        "correlation",
        "fetched",
        "checked",
        "generated",
        "queried",
    }
    | {"query", "execution", "invocation", "retrieved", "current", "as", "session", "idempotency"}
)
# What a call is about; beside it, prose is about the call.
MAIN = frozenset(
    {"command", "cmd", "query", "path", "code", "sql", "url", "uri", "script", "file", "filename", "pattern"}
)
REMARKS = frozenset(
    {"description", "explanation", "reason", "reasoning", "rationale", "justification", "purpose", "display", "comment"}
    | {"intent", "goal", "thought", "thoughts", "why"}
)
ASIDES = frozenset({"explanation", "rationale", "justification", "tool_call_reason", "reason_for_call"})
# What is run, and what it may be called for the reader.
PROGRAMS = frozenset({"command", "cmd", "code", "script"})
LABELS = frozenset({"name", "label", "title"})
# What is said to somebody, and what stands beside it for the reader.
MESSAGES = frozenset(
    {"message", "text", "content", "prompt", "task", "input", "instruction", "body", "question", "note"}
)
LEAST_MESSAGE = 2
# Behind one of these stands what a shell was told.
PROMPTS = ("$", "#", ">", "%", "❯", "+")
MOST_PROMPT = 60
# A line that says how a program ended has no more signs.
LAST_LINE = 60
LAST_PATH = 200
SHOWN = frozenset({"description", "display", "comment"})
# Of the sending of a call.
SENDING = frozenset({"meta", "timestamp", "ts", "sent", "sentat", "nonce"})
# A remark beside what is asked for is short; a longer text is what is to be written.
REMARK_WORDS = 8
# How a call is to be made, whatever it asks.
MANNERS = frozenset({"timeout", "timeout_ms", "timeout_seconds", "verbose", "quiet", "debug"})
# Of a tool to think with, what is asked for; of any other, not.
THOUGHTS = frozenset({"reasoning", "thought", "thoughts"})
DURATIONS = frozenset(
    {"duration", "latency", "took", "runtime", "response", "query", "execution", "processing"} | {"fit", "wall", "cpu"}
)
# Names of a span of time that say no more.
SPANS = frozenset({"seconds", "secs", "sec", "ms", "elapsed"})
ALONE = frozenset({"nonce", "etag", "traceparent", "latency", "took", "jsonrpc", "via", "worker", "served"})


def unwrap(text: str) -> tuple[str, bool]:
    """A tool's answer without what it was sent in, and whether that says that it failed.

    Taken off are an envelope of text blocks or of a process's outputs, colours, ruled lines and a log line's time.
    """
    failed = False
    for _ in range(MOST_ENVELOPES):
        opened = _open(text) if text.startswith("{") or text.startswith("[{") else None
        if opened is None:
            break
        text, failed = opened[0], failed or opened[1]
    if "\x1b" in text:
        text = _TERMINAL.sub("", text)
    text = _LOGGED.sub("", _RULED.sub("", text), count=1)
    if text.lstrip().startswith("<") and (marked := _MARKED.match(text)):
        text = marked["said"]
    if text.lstrip().startswith("<") and (tagged := _tagged(text)):
        text, failed = tagged[0], failed or tagged[1]
    if run_as := _RUN_AS.match(text):
        exits = _EXIT.search(run_as[0])
        failed = failed or (exits is not None and exits[1] != "0")
        text = text[run_as.end() :]
    if "0" in (last := text[-LAST_LINE:]):
        text = text[:-LAST_LINE] + _ENDED_WELL.sub("", last, count=1)
    if text.endswith("]") or text.endswith("]\n"):
        text = text[:-LAST_PATH] + _RUN_IN.sub("", text[-LAST_PATH:], count=1)
    left = text[:-LAST_PATH] + _CAME_BY.sub("", text[-LAST_PATH:], count=1)
    # A number in brackets may be an answer, unless somebody has added how it came.
    text = "" if left != text and _SAID_BY_ALONE.fullmatch(left) else _SAID_BY.sub("", left, count=1)
    return "" if _EMPTY.fullmatch(text) else text, failed


def structure_of(text: str) -> JsonValue:
    """The value that is written in the text; raises `ValueError` for what is no JSON, long, or nested deeply."""
    if len(text) > MOST_JSON:
        raise ValueError(f"{len(text):,} characters are not taken apart, at most {MOST_JSON:,} are.")
    # Unlike `json` it ends of itself where the stack would.
    value: JsonValue = from_json(text)
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return value
    raise ValueError(f"It is nested more than {MOST_LEVELS} levels deep.")


def _inner(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _tagged(text: str) -> tuple[str, bool] | None:
    """What stands in marks of one word, if some say what came out and the others how; None for any other text."""
    said: list[str] = []
    failed = False
    end = 0
    while end < len(text):
        found = _TAG.match(text, end)
        if found is None:
            return None
        end = found.end()
        name = found["name"].casefold().replace("_", "")
        if name in LOADS:
            said.append(found["said"])
        elif name in SAYS_ILL:
            failed = failed or found["said"].strip() not in ("", "0", "false")
        elif name not in NOTES and not _is_of_the_answer(found["name"]):
            return None
    return ("\n".join(filter(None, said)), failed) if said else None


def _open(text: str) -> tuple[str, bool] | None:
    try:
        value = structure_of(text)
    except ValueError:
        return None
    if isinstance(value, dict) and "jsonrpc" in value:
        value = value.get("result") or value.get("error")
    if isinstance(value, list):
        value = {"content": value}
    if not isinstance(value, dict):
        return None
    parts: list[str] = []
    failed = False
    for key, inner in value.items():
        name = key.casefold().replace("_", "")
        if name in LOADS:
            texts = [inner] if isinstance(inner, str) else _texts(inner)
            if texts is None:
                return None
            parts += texts
            failed = failed or (name == "error" and bool(texts))
        elif name in SAYS_WELL or name in SAYS_ILL:
            # Zero is well for an exit status, and false is well for a mark of errors.
            failed = failed or (name in SAYS_WELL and inner is False) or (name in SAYS_ILL and bool(inner))
        elif name == "metadata" and isinstance(inner, dict) and all(map(_tells_how, inner)):
            failed = failed or any(bool(inner[how]) for how in inner if how.casefold().replace("_", "") in SAYS_ILL)
        elif not _is_of_the_answer(key) and name not in NOTES and not _is_of_the_call(name, inner):
            return None
    return ("\n".join(part for part in parts if part), failed) if parts else None


def _tells_how(key: str) -> bool:
    """Whether a value under this name tells how a process ended, or how long it took."""
    return key.casefold().replace("_", "") in SAYS_ILL or _is_of_the_answer(key)


def _is_of_the_call(name: str, value: JsonValue) -> bool:
    """Whether a value tells which call this answers, that it has ended, or what was charged for it."""
    if name == "status":
        return isinstance(value, str) and value.casefold() in ENDED
    if name == "usage":
        return isinstance(value, dict)
    return name in ("id", "callid", "tooluseid") and isinstance(value, str) and _CALL.fullmatch(value) is not None


def _texts(value: JsonValue) -> list[str] | None:
    if value is None:
        return []
    if not isinstance(value, list) or not value:
        return None
    texts = [block.get("text") for block in value if isinstance(block, dict) and block.get("type") == "text"]
    return [text for text in texts if isinstance(text, str)] if len(texts) == len(value) else None


def without_exit(text: str) -> str:
    """A failure without the status that its process ended with, which one that is seen through a pipe does not tell."""
    return text[:-LAST_LINE] + _ENDED_ILL.sub("", text[-LAST_LINE:], count=1)


def without_prompt(text: str, told: Iterable[JsonValue]) -> str:
    """The text without its first line, if that is a prompt behind which stands what was told."""
    first, end, rest = text.lstrip().partition("\n")
    command = next(
        (value for value in told if isinstance(value, str) and value and first.rstrip().endswith(value)), None
    )
    if not end or command is None:
        return text
    prompt = first.rstrip().removesuffix(command).rstrip()
    return rest if prompt.endswith(PROMPTS) and len(prompt) <= MOST_PROMPT else text


def without_remarks(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The arguments of a call without what is said about the call: names of one request, and why it is made."""
    kept = {key: value for key, value in without_sending(arguments).items() if key.casefold() not in MANNERS}
    if any(_last_part(key) in MAIN for key in kept):
        kept = {key: value for key, value in kept.items() if key.casefold().strip("_") not in REMARKS}
    elif any(key.casefold() in THOUGHTS for key in kept) and not all(key.casefold() in THOUGHTS for key in kept):
        kept = {key: value for key, value in kept.items() if key.casefold() not in THOUGHTS}
    if any(key.casefold() in PROGRAMS for key in kept):
        kept = {key: value for key, value in kept.items() if key.casefold() not in LABELS}
    beside = {key: value for key, value in kept.items() if not _is_a_remark(key, value)}
    return beside or kept


def without_sending(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The arguments of a call without names of one request, and when and why it was sent."""
    kept = {
        key: value for key, value in arguments.items() if not _is_of_the_answer(key) and key.casefold() not in ASIDES
    }
    # A time that is all that was given is what is asked about.
    if len(arguments) == 1:
        return kept
    return {key: value for key, value in kept.items() if key.casefold().replace("_", "") not in SENDING}


def without_thoughts(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """A message to somebody else without what its sender thinks of it; the reason that is given is a message, too."""
    kept = without_sending(arguments)
    # Whom it goes to and one thing more, in words, is a message already.
    is_told = any(
        key.casefold() in MESSAGES or (len(kept) > LEAST_MESSAGE and key.casefold() not in SHOWN and " " in str(value))
        for key, value in kept.items()
    )
    apart = THOUGHTS | (SHOWN if is_told else frozenset())
    return {key: value for key, value in kept.items() if key.casefold() not in apart} or kept


def _is_a_remark(key: str, value: JsonValue) -> bool:
    return (
        key.casefold().strip("_") in REMARKS
        and isinstance(value, str)
        and 1 < len(value.split(maxsplit=REMARK_WORDS)) <= REMARK_WORDS
    )


def without_notes_on_itself(text: str) -> str:
    """The text; of JSON, wherever it begins, without what the service says of the answer itself."""
    start = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=-1)
    if not 0 <= start <= MOST_PROLOGUE:
        return text
    try:
        value = structure_of(text[start:])
    except ValueError:
        return text
    # Half of the numbers of an array are no structure.
    if not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
        return text
    return text[:start] + json.dumps(_without_notes(value), sort_keys=True, ensure_ascii=False)


def _without_notes(value: JsonValue) -> JsonValue:
    """A structured answer without what it says of itself."""
    if isinstance(value, dict):
        kept = {
            key: _without_notes(inner)
            for key, inner in value.items()
            if not _is_of_the_answer(key) and not _is_a_lapse(key, inner)
        }
        return {key: inner for key, inner in kept.items() if inner != {} or value[key] == {}}
    return [_without_notes(item) for item in value] if isinstance(value, list) else value


def _is_a_lapse(key: str, value: JsonValue) -> bool:
    """Whether a value is how long the answer took: a span of time with no other name, to a part of its unit."""
    return key.casefold() in SPANS and isinstance(value, float) and not value.is_integer()


@lru_cache(maxsize=1_024)
def _is_of_the_answer(key: str) -> bool:
    """Whether a value under this name tells of the request and its answer, and not of what was asked for."""
    parts = [part.lower() for part in _NAME_PART.findall(key)]
    if not parts:
        return False
    if parts[-1] in TIMES and (any(part in OF_THE_ANSWER for part in parts) or parts[0] in DURATIONS):
        return True
    if parts[-1] in ("id", "key", "token", "uuid") and any(part in OF_THE_ANSWER for part in parts[:-1]):
        return True
    # What a model's answer was charged with.
    if len(parts) > 1 and parts[-1] == "tokens":
        return True
    if parts in (["elapsed", "ms"], ["elapsed", "millis"]):
        return True
    return parts[0] in ALONE or (parts[-1] in ("ms", "us", "ns", "seconds", "secs") and parts[0] in DURATIONS)


def _last_part(name: str) -> str:
    parts = _NAME_PART.findall(name)
    return parts[-1].lower() if parts else ""
