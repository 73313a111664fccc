"""Where Postgres and Redis are: as set, or where the laptop of this home keeps them."""

from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.laptop.state import running_laptop
from chargehand.orchestrator.settings import Settings

_REMEDY = "start one with `chargehand up`, or set it"


def database_url(settings: Settings) -> str:
    """The URL of Postgres; raises `Unavailable` when none is set and no laptop runs."""
    if settings.database_url:
        return settings.database_url
    laptop = running_laptop(settings.home)
    if laptop is None:
        raise Unavailable(f"CHARGEHAND_DATABASE_URL is not set and nothing runs in {settings.home}; {_REMEDY}.")
    return laptop.endpoints.database_url


def redis_url(settings: Settings) -> str:
    """The URL of Redis; raises `Unavailable` when none is set and no laptop runs."""
    if settings.redis_url:
        return settings.redis_url
    laptop = running_laptop(settings.home)
    if laptop is None:
        raise Unavailable(f"CHARGEHAND_REDIS_URL is not set and nothing runs in {settings.home}; {_REMEDY}.")
    return laptop.endpoints.redis_url
