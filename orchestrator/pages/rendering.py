"""How a page is made: its templates, what they may call, and the headers that keep it to itself."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from uuid import UUID

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import JsonValue

from chargehand.orchestrator.pages.markdown import to_html

HERE = Path(__file__).parent
STATIC = HERE / "static"
# Scripts, styles and requests of our own, and nothing inline: what slips into a page as markup does nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
MICRO = Decimal(1_000_000)


def page(
    name: str, shown: Mapping[str, object] | None = None, *, status_code: int = 200, **context: object
) -> HTMLResponse:
    """The template as an answer; it is given what is `shown` and the rest by name."""
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY"}
    return HTMLResponse(
        _environment().get_template(name).render({**(shown or {}), **context}), status_code=status_code, headers=headers
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "usd": usd,
        "ago": ago,
        "short": short,
        "seconds": seconds,
        "moment": moment,
        "iso": datetime.isoformat,
        "markdown": to_html,
        "pretty": pretty,
        "count": count,
    }
    environment.globals["static"] = static
    return environment


def static(name: str) -> str:
    """The address of one of our files; another one when it has changed."""
    return f"/static/{name}?{_digest(name)}"


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


# --- what templates call ----------------------------------------------------------------------------------------------


def usd(microusd: int) -> str:
    """Dollars, with as many digits as a cheap run needs."""
    return f"${Decimal(microusd) / MICRO:.4f}"


def short(run_id: UUID) -> str:
    """The last eight digits of an id, as the command line names runs."""
    return run_id.hex[-8:]


def seconds(value: float) -> str:
    """A length of time as people say it."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ago(at: datetime, now: datetime) -> str:
    """How long before `now`, by the same clock."""
    passed = (now - at).total_seconds()
    return "just now" if passed < 1 else f"{seconds(passed)} ago"


def moment(at: datetime | None) -> str:
    """A time by the clock of Greenwich."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def pretty(value: JsonValue) -> str:
    """JSON as people read it; a text is itself."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def count(number: int) -> str:
    """With separators for thousands."""
    return f"{number:,}"
