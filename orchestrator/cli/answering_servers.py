"""Checks of `doctor` over HTTP: the API and Flower of the laptop that is up, and a model server of yours."""

from collections.abc import Iterator, Mapping

import httpx2

from chargehand.orchestrator.cli.finding import Finding
from chargehand.orchestrator.laptop import running_laptop
from chargehand.orchestrator.laptop.specs import needs_offline_model
from chargehand.orchestrator.settings import Settings

TIMEOUT_SECONDS = 3.0


def check_laptop(settings: Settings) -> Iterator[Finding]:
    """The API and Flower, where `up` runs in this home."""
    laptop = running_laptop(settings.home)
    if laptop is None:
        return
    logs = f"see {settings.home / 'logs'}; `chargehand up` starts it again when it has died"
    for name, url, path, healthy in (
        ("API", laptop.api_url, "/readyz", (200,)),
        # Behind its password, which is its own business.
        ("Flower", laptop.flower_url, "/healthcheck", (200, 401, 403)),
    ):
        status = _status_of(url.rstrip("/") + path)
        if status in healthy:
            yield Finding(name=name, state="ok", what=url)
        else:
            what = f"{url} " + ("does not answer" if status is None else f"answers {status}")
            yield Finding(name=name, state="warning", what=what, remedy=logs)


def check_model(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Which model is used; a server of yours is asked whether it is there, and no call is made that costs anything."""
    if needs_offline_model(environment):
        what = "offline rules: no language model is used"
        remedy = "set ANTHROPIC_API_KEY, or ANTHROPIC_BASE_URL for a server of yours"
        yield Finding(name="Model", state="warning", what=what, remedy=remedy)
        return
    url = environment.get("ANTHROPIC_BASE_URL")
    if not url:
        yield Finding(name="Model", state="ok", what="Anthropic's API (a key is set; doctor does not call it)")
    elif (status := _status_of(url)) is None or status >= 500:
        what = f"{url} " + ("does not answer" if status is None else f"answers {status}")
        yield Finding(name="Model", state="wrong", what=what, remedy="start that server, or correct ANTHROPIC_BASE_URL")
    else:
        yield Finding(name="Model", state="ok", what=f"{url} answers")


def _status_of(url: str) -> int | None:
    """None: nothing answers there."""
    try:
        # A proxy of the environment is not for servers of this machine.
        return httpx2.get(url, timeout=TIMEOUT_SECONDS, trust_env=False).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError):
        return None
