"""Reads the code around each finding of its shard, then gives a verdict on each."""

from collections.abc import Mapping
from typing import Any

from chargehand.workers.offline.conversation import Conversation, numbered_lines, objects_under
from chargehand.workers.offline.policies.judgement import judge
from chargehand.workers.offline.policies.moves import Move, finish

# Lines read on either side of a finding; most functions fit.
MARGIN_LINES = 80
# A file is read from its top when the finding stands above this line, so that its constants are seen too.
FROM_TOP_LINES = 400
# Reading must leave turns for the verdicts, whatever the size of the shard.
MAX_READ_TURNS = 8


def triage(conversation: Conversation) -> Move:
    """Read a few places a turn; when all have been read, submit the verdicts."""
    findings = shard_of(conversation)
    places = _places(findings)
    asked = {
        str(call.arguments.get("path") or call.arguments.get("file")) for call in conversation.calls_of("read_file")
    }
    if "read_file" in conversation.tools:
        waiting = [place for place in places if place[0] not in asked]
        if waiting:
            batch = waiting[: max(1, -(-len(places) // MAX_READ_TURNS))]
            return Move(
                says=f"Reading the code of {len(batch)} of {len(waiting)} files.",
                calls=tuple(
                    (
                        "read_file",
                        conversation.fitted(
                            "read_file", path=path, first_line=first, last_line=last, line_count=last - first + 1
                        ),
                    )
                    for path, first, last in batch
                ),
            )
    lines = _lines_by_path(conversation)
    verdicts = [judge(finding, lines.get(str(finding.get("path")), {})) for finding in findings]
    return finish("submit_verdicts", f"Judged {len(verdicts)} findings by rules.", verdicts=verdicts)


def shard_of(conversation: Conversation) -> list[dict[str, Any]]:
    """The findings that this step answers for, each once.

    Named ones (`finding_ids`) win; else those whose index in the scan leaves the shard's number as remainder.
    """
    unique: dict[str, dict[str, Any]] = {}
    for finding in objects_under(conversation.inputs, "findings"):
        unique.setdefault(str(finding.get("finding_id")), finding)
    findings = list(unique.values())
    named = conversation.arguments.get("finding_ids")
    if isinstance(named, list):
        return [unique[str(name)] for name in named if str(name) in unique]
    shard, shards = conversation.arguments.get("shard", 0), conversation.arguments.get("shards", 1)
    if not isinstance(shard, int) or not isinstance(shards, int) or shards < 1:
        return findings
    return [finding for index, finding in enumerate(findings) if index % shards == shard]


def _places(findings: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """One range of lines a file that holds all of its findings."""
    ranges: dict[str, tuple[int, int]] = {}
    for finding in findings:
        path, line = str(finding.get("path")), int(finding.get("line") or 1)
        end = max(line, int(finding.get("end_line") or line))
        first, last = ranges.get(path, (line, end))
        ranges[path] = (min(first, line), max(last, end))
    return [
        (path, 1 if first <= FROM_TOP_LINES else first - MARGIN_LINES, last + MARGIN_LINES)
        for path, (first, last) in sorted(ranges.items())
    ]


def _lines_by_path(conversation: Conversation) -> Mapping[str, dict[int, str]]:
    lines: dict[str, dict[int, str]] = {}
    for call in conversation.calls_of("read_file"):
        if not call.is_error:
            path = str(call.arguments.get("path") or call.arguments.get("file"))
            lines.setdefault(path, {}).update(numbered_lines(call.text))
    return lines
