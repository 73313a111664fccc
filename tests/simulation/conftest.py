"""The simulation is a program of its own (`make simulate`) and no part of what is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
