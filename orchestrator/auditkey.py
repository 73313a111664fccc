"""The key that seals the tenant chains: outside the database, so that its owner cannot forge them."""

import os
import secrets
from pathlib import Path

from chargehand.orchestrator.settings import Settings


def audit_key(settings: Settings) -> bytes:
    """The key as set, or the one kept under `home`, made on first use."""
    if settings.audit_key.get_secret_value():
        return settings.audit_key.get_secret_value().encode()
    path = key_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(32).encode())
        file.flush()
        os.fsync(file.fileno())
    return path.read_bytes()


def key_file(settings: Settings) -> Path:
    """Where the key is kept when none is set."""
    return settings.home / "audit.key"
