"""The key of the HTTP API for whoever uses this laptop, made for this home and kept in a file of theirs."""

import os
from pathlib import Path

from chargehand.memory.database import APP_ROLE, open_engine
from chargehand.orchestrator import keys
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.settings import Settings

NAME = "laptop"


def api_key(settings: Settings, database_url: str) -> str:
    """The key in `<home>/api.key` (mode 600); a new one when there is none, or Postgres does not know it any more."""
    file = key_file(settings)
    engine = open_engine(database_url, role=APP_ROLE, keeps_connections=False)
    if file.exists():
        secret = file.read_text().strip()
        holder = keys.holder_of(engine, secret)
        if holder is not None and holder.tenant == settings.tenant:
            return secret
    with open_session(engine, settings.tenant) as session:
        secret = keys.add(session, settings.tenant, NAME, ("admin",)).secret or ""
    building = file.with_name(f".api.key.{os.getpid()}")
    building.touch(mode=0o600)
    building.write_text(secret + "\n")
    building.replace(file)
    return secret


def key_file(settings: Settings) -> Path:
    """Where it is kept."""
    return settings.home / "api.key"
