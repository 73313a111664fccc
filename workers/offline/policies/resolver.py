"""Resolves the conflicts that follow from what each side did to the lines before; any other is put before a person."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from chargehand.workers.offline.conversation import Conversation, ToolCall, numbered_lines, payload
from chargehand.workers.offline.policies.moves import Move, finish

# As a tool shortens a line: what was not seen whole is not rewritten.
_SHORTENED = re.compile(r" … \(\d+ more characters in this line\)$")
# What a person may answer instead of the lines themselves.
OURS, THEIRS, BOTH = "ours", "theirs", "both"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """One place that git could not merge."""

    line: int
    """Where its first marker stands."""
    text: str
    ours: str
    before: str | None
    """None: git did not say what stood there before."""
    theirs: str

    def resolved(self) -> str | None:
        """What should stand there, by what each side did; None: no rule says."""
        if self.ours == self.theirs or self.before == self.theirs:
            return self.ours
        if self.before == self.ours:
            return self.theirs
        if self.before == "":
            # Both added something, and nothing was there that one of them could have meant to keep.
            return self.ours + self.theirs
        return None

    def answered(self, answer: str) -> str:
        """What a person wants to stand there."""
        word = answer.strip().lower()
        sides = {OURS: self.ours, THEIRS: self.theirs, BOTH: self.ours + self.theirs}
        return sides[word] if word in sides else answer.rstrip("\n") + "\n"


def resolve(conversation: Conversation) -> Move:
    """Read the files, ask about conflicts that no rule decides, resolve them all, look again, finish."""
    given = conversation.arguments.get("conflicts")
    paths = [str(path) for path in given] if isinstance(given, list) else []
    edits = conversation.calls_of("edit_file")
    asked = conversation.calls_of("ask_person")
    unread = [path for path in paths if _newest(conversation, path) is None]
    if unread:
        return Move(says="Reading what git could not merge.", calls=tuple(_read(conversation, path) for path in unread))
    unresolved = {str(call.arguments.get("path")): call.text for call in edits if call.is_error}
    found: list[tuple[str, Conflict, str]] = []
    for path in [path for path in paths if path not in unresolved]:
        conflicts = list(conflicts_in(_lines(_newest(conversation, path))))
        if not conflicts and not _was_edited(edits, path):
            unresolved[path] = "one side changed what the other removed, or it is no text"
        for conflict in conflicts:
            new = conflict.resolved()
            if new is None:
                answer = _answer_about(asked, path, conflict)
                if answer is None:
                    return _ask(path, conflict)
                if answer.is_error:
                    unresolved[path] = "both sides changed the same lines, and nobody said what should stand there"
                    break
                new = conflict.answered(answer.text)
            found.append((path, conflict, new))
    found = [(path, conflict, new) for path, conflict, new in found if path not in unresolved]
    if found:
        # From the end of each file, so that the lines above stay where they are.
        found.sort(key=lambda one: (one[0], -one[1].line))
        calls = [
            ("edit_file", {"path": path, "old": conflict.text, "new": new, "line": conflict.line})
            for path, conflict, new in found
        ]
        again = [_read(conversation, path) for path in dict.fromkeys(path for path, _, _ in found)]
        return Move(says=f"Resolving {len(calls)} conflicts.", calls=(*calls, *again))
    return finish(
        "submit_resolution",
        f"{len(paths) - len(unresolved)} files resolved, {len(unresolved)} left.",
        resolved=[path for path in paths if path not in unresolved],
        unresolved=[{"path": path, "reason": reason[:500]} for path, reason in unresolved.items()],
    )


def conflicts_in(lines: Mapping[int, str]) -> Iterator[Conflict]:
    """The conflicts of a file, given by its numbered lines; one that was not seen whole is none."""
    part: str | None = None
    start = 0
    parts: dict[str, list[str]] = {}
    seen: list[str] = []
    for number, line in sorted(lines.items()):
        if line.startswith("<<<<<<< "):
            part, start, parts, seen = "ours", number, {"ours": []}, []
        if part is None:
            continue
        seen.append(line)
        if line.startswith("<<<<<<< "):
            continue
        if line.startswith("||||||| ") and part == "ours":
            part = "before"
        elif line == "=======" and part in ("ours", "before"):
            part = "theirs"
        elif line.startswith(">>>>>>> ") and part == "theirs":
            if not any(_SHORTENED.search(one) for one in seen):
                before = parts.get("before")
                yield Conflict(
                    line=start,
                    text=_joined(seen),
                    ours=_joined(parts["ours"]),
                    before=None if before is None else _joined(before),
                    theirs=_joined(parts["theirs"]),
                )
            part = None
        else:
            parts.setdefault(part, []).append(line)
            continue
        if part is not None:
            parts.setdefault(part, [])


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _read(conversation: Conversation, path: str) -> tuple[str, Mapping[str, object]]:
    return ("read_file", conversation.fitted("read_file", path=path, first_line=1, last_line=1_000))


def _newest(conversation: Conversation, path: str) -> ToolCall | None:
    calls = [call for call in conversation.calls_of("read_file") if call.arguments.get("path") == path]
    return calls[-1] if calls else None


def _lines(call: ToolCall | None) -> dict[int, str]:
    return {} if call is None or call.is_error else numbered_lines(call.text)


def _was_edited(edits: tuple[ToolCall, ...], path: str) -> bool:
    return any(isinstance(payload(call.text), dict) and call.arguments.get("path") == path for call in edits)


def _ask(path: str, conflict: Conflict) -> Move:
    question = (
        f"Two changes of {path} contradict each other from line {conflict.line} on, and no rule says which is meant:\n"
        f"{conflict.text}"
        f"Answer {OURS} (the earlier change), {THEIRS} (the later one), {BOTH}, or the lines that should stand there."
    )
    return Move(
        says="Both sides changed the same lines; a person has to say what is meant.",
        calls=(("ask_person", {"question": question[:4_000], "files": [path]}),),
    )


def _answer_about(asked: tuple[ToolCall, ...], path: str, conflict: Conflict) -> ToolCall | None:
    head = f"Two changes of {path} "
    about = [call for call in asked if str(call.arguments.get("question")).startswith(head)]
    return next((call for call in about if conflict.text in str(call.arguments.get("question"))), None)
