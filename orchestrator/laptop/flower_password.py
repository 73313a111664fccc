"""The password of Flower: yours, or one made for this home."""

import os
import secrets
from pathlib import Path

from chargehand.orchestrator.settings import Settings


def flower_password(settings: Settings) -> str:
    """`CHARGEHAND_FLOWER_PASSWORD`, or the one in `<home>/flower.password` (mode 600), made the first time."""
    chosen = settings.flower_password.get_secret_value()
    if chosen:
        return chosen
    file = password_file(settings)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        building = file.with_name(f".flower.password.{os.getpid()}")
        building.touch(mode=0o600)
        building.write_text(secrets.token_urlsafe(18) + "\n")
        try:
            # A link, unlike a rename, does not replace the password that another process made meanwhile.
            os.link(building, file)
        except FileExistsError:
            pass
        finally:
            building.unlink()
    return file.read_text().strip()


def password_file(settings: Settings) -> Path:
    """Where a password that was made is kept."""
    return settings.home / "flower.password"
