"""Answers a question with verbatim lines, or says that they are not there."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chargehand.workers.offline.conversation import Conversation, ToolCall, numbered_lines, payload
from chargehand.workers.offline.policies.moves import Move, finish

# Share of a question's content words (or their companions) that the quoted places must contain, else: not found.
MIN_COVERAGE = 0.5
# Files read around the best passages; each is one call.
MAX_PLACES = 3
# Lines read on either side of a passage.
MARGIN_LINES = 12
MAX_QUOTES = 3
NAMED_FILE_BONUS = 0.4
QUOTE_LINES = 4

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]+")
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and any are as at be by can do does for from has have how in into is it its made of on or project that "
        "the their there these this to used user was what when where which who why with",
    )
)
# Words that name the same thing in a question and in code. Kept short: it is a crutch, not knowledge.
COMPANIONS: Mapping[str, tuple[str, ...]] = {
    "http": ("request", "get", "post", "methods", "url"),
    "rout": ("route", "path", "urlpatterns", "endpoint"),
    "regist": ("route", "add", "register", "include"),
    "configur": ("config", "settings", "environ", "getenv", "options"),
    "read": ("open", "load", "environ", "get", "import"),
    "valid": ("check", "raise", "schema", "isinstance"),
    "password": ("passwd", "digest", "hash", "hmac", "fingerprint"),
    "check": ("compare", "verify", "knows", "valid"),
    "input": ("form", "args", "argv", "request", "stdin"),
    "argument": ("argparse", "argv", "parse", "option"),
    "start": ("main", "run", "serve"),
    "program": ("main", "__main__", "cli"),
    "file": ("open", "path"),
    "network": ("socket", "requests", "urlopen", "http"),
    "pars": ("argparse", "parse"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A place that a search gave."""

    path: str
    line: int
    text: str


def research(conversation: Conversation) -> Move:
    """Recall, read around the best places, answer."""
    question = str(conversation.arguments.get("question") or conversation.task or conversation.goal)
    terms = terms_of(question)
    if "recall" in conversation.tools and not conversation.calls_of("recall"):
        return Move(
            says="Recalling passages that are near the question.",
            calls=(("recall", conversation.fitted("recall", query=question)),),
        )
    found = best_first(passages_of(conversation.calls_of("recall")), terms)
    if "search_text" in conversation.tools and not conversation.calls_of("search_text") and _weak(found, terms):
        word = max(sorted(terms), key=len, default="")
        if word:
            return Move(
                says="Recall was weak; searching for the rarest word.",
                calls=(("search_text", conversation.fitted("search_text", pattern=word)),),
            )
    found = best_first([*found, *passages_of(conversation.calls_of("search_text"))], terms)
    if "read_file" in conversation.tools and not conversation.calls_of("read_file"):
        places = _places(found)
        if places:
            return Move(
                says="Reading around the best places.", calls=tuple(_read(conversation, place) for place in places)
            )
    return _conclude(conversation, question, terms)


def terms_of(question: str) -> set[str]:
    """Stems of the words that carry the question."""
    return {_stem(word) for word in _WORD.findall(question.lower()) if word not in _STOP and len(word) > 2}


def coverage(text: str, terms: set[str]) -> float:
    """Which share of the terms the text contains, itself or by a companion (which counts less)."""
    words = {_stem(word) for word in re.findall(r"[A-Za-z][a-z0-9]+|[A-Z]+|[a-z0-9]+", text.replace("_", " "))} | {
        _stem(word) for word in _WORD.findall(text.lower().replace("_", " "))
    }
    if not terms:
        return 0.0
    return sum(_weight(term, words) for term in terms) / len(terms)


def _weight(term: str, words: set[str]) -> float:
    if term in words:
        return 1.0
    companions = {_stem(companion) for companion in COMPANIONS.get(term, ())}
    return 0.7 if companions & words else 0.0


def _stem(word: str) -> str:
    lowered = word.lower()
    for ending in ("ations", "ation", "ings", "ing", "ered", "ers", "er", "ated", "ates", "ate", "ed", "es", "s", "e"):
        if lowered.endswith(ending) and len(lowered) - len(ending) >= 3:
            return lowered[: -len(ending)]
    return lowered


def passages_of(calls: Iterable[ToolCall]) -> list[Passage]:
    """What searches gave, from JSON or from `path:line: text` lines."""
    passages: list[Passage] = []
    for call in calls:
        if call.is_error:
            continue
        value = payload(call.text)
        if value is not None:
            passages += _passages_in(value)
        else:
            passages += _passages_in_text(call.text)
    return passages


def _passages_in(value: Any) -> list[Passage]:
    if isinstance(value, list):
        return [passage for inner in value for passage in _passages_in(inner)]
    if not isinstance(value, dict):
        return []
    path = value.get("path") or value.get("file")
    if isinstance(path, str):
        line = next(
            (value[name] for name in ("line", "start_line", "first_line", "start") if isinstance(value.get(name), int)),
            1,
        )
        text = next((value[name] for name in ("text", "content", "passage") if isinstance(value.get(name), str)), "")
        return [Passage(path=path, line=line, text=text)]
    source = value.get("source")
    if isinstance(source, str) and (match := re.match(r"(.+?):(\d+)", source)):
        return [Passage(path=match[1], line=int(match[2]), text=str(value.get("text") or value.get("content") or ""))]
    return [passage for inner in value.values() for passage in _passages_in(inner)]


_PLACE = re.compile(r"(?P<path>[^\s:][^:\n]*?):(?P<line>\d+)(?:-\d+)?(?:[:)\]\s]|$)(?P<rest>.*)")


def _passages_in_text(text: str) -> list[Passage]:
    passages: list[Passage] = []
    for line in text.split("\n"):
        match = _PLACE.match(line.strip(" -*#[("))
        if match and ("/" in match["path"] or "." in match["path"]):
            passages.append(Passage(path=match["path"], line=int(match["line"]), text=match["rest"].strip()))
        elif passages:
            last = passages[-1]
            passages[-1] = Passage(path=last.path, line=last.line, text=f"{last.text}\n{line}")
    return passages


def best_first(passages: Iterable[Passage], terms: set[str]) -> list[Passage]:
    """Most of the question's words first; the search's own order decides among equals."""
    return sorted(passages, key=lambda passage: -_merit(passage, terms))


def _merit(passage: Passage, terms: set[str]) -> float:
    merit = coverage(f"{passage.path}\n{passage.text}", terms)
    # A file that is named after the thing asked for (`settings.py`) is where it lives; others only use it.
    stem = _stem(passage.path.rsplit("/", 1)[-1].split(".")[0])
    if merit and any(_weight(term, {stem}) for term in terms):
        merit += NAMED_FILE_BONUS
    # Code shows where something is; prose and tests only talk about it.
    if passage.path.endswith((".md", ".rst", ".txt")):
        merit *= 0.5
    return merit * (0.7 if re.search(r"(^|/)tests?/|(^|/)test_", passage.path) else 1.0)


def _weak(found: list[Passage], terms: set[str]) -> bool:
    return not found or coverage(f"{found[0].path}\n{found[0].text}", terms) < MIN_COVERAGE


def _places(found: list[Passage]) -> list[Passage]:
    seen: Counter[str] = Counter()
    places = []
    for passage in found:
        if seen[passage.path] == 0:
            places.append(passage)
        seen[passage.path] += 1
    return places[:MAX_PLACES]


def _read(conversation: Conversation, place: Passage) -> tuple[str, dict[str, Any]]:
    first = max(1, place.line - MARGIN_LINES)
    last = place.line + place.text.count("\n") + MARGIN_LINES
    return "read_file", conversation.fitted(
        "read_file", path=place.path, first_line=first, last_line=last, line_count=last - first + 1
    )


def _conclude(conversation: Conversation, question: str, terms: set[str]) -> Move:
    quotes: list[tuple[float, dict[str, Any]]] = []
    for call in conversation.calls_of("read_file"):
        names = ("path", "file", "file_path", "filename")
        path = next((call.arguments[name] for name in names if name in call.arguments), "")
        lines = {} if call.is_error else numbered_lines(call.text)
        quotes += [
            (merit, {"path": str(path), "line": line, "text": text})
            for merit, line, text in _best_windows(str(path), lines, terms)
        ]
    quotes.sort(key=lambda item: (-item[0], item[1]["path"], item[1]["line"]))
    chosen = [quote for merit, quote in quotes if merit > 0][:MAX_QUOTES]
    covered = coverage("\n".join(f"{quote['path']}\n{quote['text']}" for quote in chosen), terms)
    if not chosen or covered < MIN_COVERAGE:
        return finish(
            "submit_answer",
            "Not found.",
            question=question,
            found=False,
            answer=(
                f"Not found: the best passages contain {covered:.0%} of the question's words, and the rules ask for "
                f"{MIN_COVERAGE:.0%}. That is no proof of absence."
            ),
            quotes=[],
        )
    places = ", ".join(f"{quote['path']}:{quote['line']}" for quote in chosen)
    return finish(
        "submit_answer",
        "Found passages.",
        question=question,
        found=True,
        answer=f"See {places}. These lines fit the question's words best; rules chose them, nobody interpreted them.",
        quotes=chosen,
    )


def _best_windows(path: str, lines: Mapping[int, str], terms: set[str]) -> list[tuple[float, int, str]]:
    """The best block of adjacent lines that starts and ends with something, with its merit."""
    best: list[tuple[float, int, str]] = []
    # A cut line cannot be quoted verbatim.
    lines = {number: text for number, text in lines.items() if "more characters in this line)" not in text}
    for first in sorted(lines):
        block = [lines[number] for number in range(first, first + QUOTE_LINES) if number in lines]
        while block and not block[-1].strip():
            block.pop()
        if not block or not block[0].strip():
            continue
        text = "\n".join(block)
        merit = _merit(Passage(path=path, line=first, text=text), terms) + 0.1 * coverage(block[0], terms)
        best.append((merit, first, text))
    best.sort(key=lambda item: (-item[0], item[1]))
    return best[:1]
