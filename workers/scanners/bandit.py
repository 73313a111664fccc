"""bandit, told to ignore the comments and the configuration by which a repository could silence it."""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from chargehand.memory.pathnames import shown
from chargehand.workers.scanners.reports import Confidence, RawHit, ToolReport, batches, output_of, relative

_CONFIDENCES: dict[str, Confidence] = {"HIGH": "high", "MEDIUM": "medium", "LOW": "low"}


def scan(root: Path, files: Sequence[str]) -> ToolReport:
    """Give bandit's word on these files below `root`.

    Files are named one by one: given a folder, bandit would obey a `.bandit` file in it.
    """
    hits: list[RawHit] = []
    failed: list[str] = []
    for batch in batches(files):
        argv = [sys.executable, "-I", "-m", "bandit", "--quiet", "--format", "json", "--ignore-nosec", "--exit-zero"]
        report = json.loads(output_of("bandit", [*argv, *batch], folder=root))
        for row in report["results"]:
            lines = row["line_range"] or [row["line_number"]]
            hits.append(
                RawHit(
                    tool="bandit",
                    rule=row["test_id"],
                    path=relative(row["filename"]),
                    line=row["line_number"],
                    end_line=max(row["line_number"], *lines),
                    message=row["issue_text"],
                    confidence=_CONFIDENCES.get(row["issue_confidence"], "medium"),
                )
            )
        failed += [f"{shown(relative(row['filename']))} (bandit: {row['reason']})" for row in report["errors"]]
    return ToolReport(tool="bandit", version=version("bandit"), hits=tuple(hits), not_covered=tuple(failed))
