"""The chaos package is a program of its own (`make chaos`) and no part of what is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
