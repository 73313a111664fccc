"""The result that a person finally reads: `report.md`, and `findings.sarif` for their tools."""
