"""The tests of models share what they say to a server and hear from one: the folder `tests/wire`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
