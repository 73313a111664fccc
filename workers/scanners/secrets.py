"""detect-secrets over every text file; it never sends a candidate anywhere to verify it."""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from chargehand.workers.scanners.reports import RawHit, ToolReport, batches, output_of, relative


def scan(root: Path, files: Sequence[str]) -> ToolReport:
    """Give detect-secrets' word on these files below `root`, lines with an allow-list comment included."""
    hits: list[RawHit] = []
    # detect-secrets crashes on an empty file when it is asked for allow-listed lines.
    for batch in batches([file for file in files if (root / file).stat().st_size > 0]):
        for extra, silenced_by in (((), ""), (("--only-allowlisted",), "pragma: allowlist secret")):
            argv = [sys.executable, "-I", "-m", "detect_secrets", "scan", "--no-verify", "--all-files", *extra, *batch]
            for path, rows in json.loads(output_of("detect-secrets", argv, folder=root))["results"].items():
                hits += [
                    RawHit(
                        tool="detect-secrets",
                        rule=row["type"],
                        path=relative(path),
                        line=row["line_number"],
                        end_line=row["line_number"],
                        message=f"Looks like a secret: {row['type']}",
                        silenced_by=silenced_by,
                        secret_sha1=row["hashed_secret"],
                    )
                    for row in rows
                ]
    return ToolReport(tool="detect-secrets", version=version("detect-secrets"), hits=tuple(hits))
