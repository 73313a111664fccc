"""Recent runs, and the steps of one, read with as little as can be imported: a shell waits for it at each Tab.

Settings, the client and SQLAlchemy take a second of a busy machine to import, so where the database is and whose runs
they are is read from the environment here, as `settings` and `laptop.state` say; a test holds them together.
"""

import json
import os
from pathlib import Path
from typing import Any

import psycopg

RECENT_RUNS = 30
TENANT = "00000000-0000-7000-8000-000000000001"
OPTIONS = "-c search_path=chargehand,public -c role=chargehand_app -c statement_timeout=2s"

_BIND = "SELECT set_config('chargehand.tenant', %s, false)"
_RUNS = "SELECT right(replace(id::text, '-', ''), 8), status, goal FROM runs ORDER BY created_at DESC, id DESC LIMIT %s"
_STEPS = """
SELECT key, status, coalesce(nullif(spec ->> 'title', ''), spec ->> 'role', spec ->> 'script', spec ->> 'kind')
FROM steps WHERE run IN (
    SELECT id FROM runs WHERE starts_with(replace(id::text, '-', ''), %(named)s)
        OR right(replace(id::text, '-', ''), length(%(named)s)) = %(named)s
    LIMIT 1
) ORDER BY ordinal
"""

Offer = tuple[str, str, str]
"""Name, status, and what it is about."""


def recent_runs() -> list[Offer]:
    """The newest runs by the end of their ids; raises what psycopg raises, and `LookupError` when nothing is up."""
    return _read(_RUNS, [RECENT_RUNS])


def steps_of(run: str) -> list[Offer]:
    """The steps of a run that is named by a beginning or end of its id, in plan order; raises as `recent_runs`."""
    return _read(_STEPS, {"named": run.lower().replace("-", "")})


def database_url() -> str:
    """Where Postgres is; raises `LookupError`."""
    if set_here := os.environ.get("CHARGEHAND_DATABASE_URL"):
        return set_here
    home = Path(os.environ.get("CHARGEHAND_HOME") or Path.home() / ".local" / "share" / "chargehand")
    try:
        return str(json.loads((home / "laptop.json").read_text())["endpoints"]["database_url"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LookupError(f"Nothing runs in {home}.") from error


def tenant() -> str:
    """Whose runs they are."""
    return os.environ.get("CHARGEHAND_TENANT") or TENANT


def _read(statement: str, parameters: Any) -> list[Offer]:
    url = database_url().replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url, options=OPTIONS, connect_timeout=2, autocommit=True) as connection:
        connection.execute(_BIND, [tenant()])
        return connection.execute(statement, parameters).fetchall()
