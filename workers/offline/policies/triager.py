"""Reads the code around each finding of its shard, then gives a verdict on each."""

from collections.abc import Mapping
from typing import Any

from chargehand.workers.offline.conversation import Conversation, numbered_lines
from chargehand.workers.offline.policies.judgement import judge
from chargehand.workers.offline.policies.moves import Move, finish

# Lines read on either side of a finding; most functions fit.
MARGIN_LINES = 80
# A file is read from its top when the finding stands above this line, so that its constants are seen too.
FROM_TOP_LINES = 400
# Reading must leave turns for the verdicts, whatever the size of the shard.
MAX_READ_TURNS = 8
# One call of the tool gives a thousand lines at most.
MAX_RANGE_LINES = 900


def triage(conversation: Conversation) -> Move:
    """Read a few places a turn; when all have been read, submit the verdicts."""
    findings = shard_of(conversation)
    reads = [_reading(conversation, *place) for place in _places(findings)] if "read_file" in conversation.tools else []
    asked = [dict(call.arguments) for call in conversation.calls_of("read_file")]
    waiting = [reading for reading in reads if reading not in asked]
    if waiting:
        batch = waiting[: max(1, -(-len(reads) // MAX_READ_TURNS))]
        return Move(
            says=f"Reading the code of {len(batch)} of {len(waiting)} places.",
            calls=tuple(("read_file", reading) for reading in batch),
        )
    lines = _lines_by_path(conversation)
    verdicts = [judge(finding, lines.get(str(finding.get("path")), {})) for finding in findings]
    return finish("submit_verdicts", f"Judged {len(verdicts)} findings by rules.", verdicts=verdicts)


def shard_of(conversation: Conversation) -> list[dict[str, Any]]:
    """The findings that this step answers for, each once.

    Named ones (`finding_ids`) win; else those whose index in the scan leaves the shard's number as remainder.
    """
    unique: dict[str, dict[str, Any]] = {}
    for result in conversation.inputs.values():
        for finding in result.get("findings") or () if isinstance(result, dict) else ():
            if isinstance(finding, dict):
                unique.setdefault(str(finding.get("finding_id")), finding)
    findings = list(unique.values())
    named = conversation.arguments.get("finding_ids")
    if isinstance(named, list):
        return [unique.get(str(name), {"finding_id": str(name)}) for name in named]
    shard, shards = conversation.arguments.get("shard", 0), conversation.arguments.get("shards", 1)
    if not isinstance(shard, int) or not isinstance(shards, int) or shards < 1:
        return findings
    return [finding for index, finding in enumerate(findings) if index % shards == shard]


def _places(findings: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Ranges of lines that hold all findings; neighbours in one file share a range."""
    spots: dict[str, list[tuple[int, int]]] = {}
    for finding in findings:
        if finding.get("path"):
            line = int(finding.get("line") or 1)
            spots.setdefault(str(finding["path"]), []).append((line, max(line, int(finding.get("end_line") or line))))
    places: list[tuple[str, int, int]] = []
    for path, lines in sorted(spots.items()):
        for line, end in sorted(lines):
            first, last = (1 if line <= FROM_TOP_LINES else line - MARGIN_LINES), end + MARGIN_LINES
            if places and places[-1][0] == path and line <= places[-1][2] and last - places[-1][1] < MAX_RANGE_LINES:
                first, last = places[-1][1], max(last, places.pop()[2])
            places.append((path, first, last))
    return places


def _reading(conversation: Conversation, path: str, first: int, last: int) -> dict[str, Any]:
    return conversation.fitted("read_file", path=path, first_line=first, last_line=last, line_count=last - first + 1)


def _lines_by_path(conversation: Conversation) -> Mapping[str, dict[int, str]]:
    lines: dict[str, dict[int, str]] = {}
    for call in conversation.calls_of("read_file"):
        if not call.is_error:
            path = str(call.arguments.get("path") or call.arguments.get("file"))
            lines.setdefault(path, {}).update(numbered_lines(call.text))
    return lines
