"""A script, a tool and a role for Chargehand, as a package of your own."""

from pathlib import Path

ROLES = Path(__file__).parent / "roles"
"""For CHARGEHAND_ROLES_PATH, when plans in YAML name the role."""
