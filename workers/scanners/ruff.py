"""ruff's security rules (`S`), isolated from the repository's configuration and deaf to `noqa`."""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ruff import find_ruff_bin  # type: ignore[import-untyped]

from chargehand.memory.pathnames import shown
from chargehand.workers.scanners.reports import RawHit, ToolReport, batches, output_of


def scan(root: Path, files: Sequence[str]) -> ToolReport:
    """Give ruff's word on these files below `root`."""
    hits: list[RawHit] = []
    failed: list[str] = []
    options = ["--isolated", "--ignore-noqa", "--select", "S", "--no-cache", "--exit-zero", "--output-format", "json"]
    for batch in batches(files):
        argv = [find_ruff_bin(), "check", *options, "--target-version", "py311", "--", *batch]
        for row in json.loads(output_of("ruff", argv, folder=root)):
            path = os.path.relpath(row["filename"], root.resolve())
            if row["code"] is None or row["code"] == "invalid-syntax":
                failed.append(f"{shown(path)} (ruff: {row['message']})")
                continue
            hits.append(
                RawHit(
                    tool="ruff",
                    rule=row["code"],
                    path=path,
                    line=row["location"]["row"],
                    end_line=row["end_location"]["row"],
                    message=row["message"],
                )
            )
    return ToolReport(tool="ruff", version=version("ruff"), hits=tuple(hits), not_covered=tuple(dict.fromkeys(failed)))
