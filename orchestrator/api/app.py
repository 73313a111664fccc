"""The application: resources, errors, limits and live feeds put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi

from chargehand.orchestrator.api import (
    again,
    costs,
    erasing,
    escalations,
    events,
    health,
    keys,
    memory,
    problems,
    runs,
    schedules,
    scraping,
    steering,
    webhooks,
)
from chargehand.orchestrator.api.bodies import BodyLimit
from chargehand.orchestrator.api.headers import PrivateAnswers
from chargehand.orchestrator.api.keyring import Keyring
from chargehand.orchestrator.api.limits import RateLimit
from chargehand.orchestrator.api.live import READING_THREADS, Live
from chargehand.orchestrator.api.proxies import TrustedProxies
from chargehand.orchestrator.api.state import ApiState
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.pages import entrance, fleet, inbox, remembered
from chargehand.orchestrator.pages import runs as pages_of_runs
from chargehand.orchestrator.settings import Settings, load_settings

# Requests at the same time; each may hold a connection of Postgres.
THREADS = 16
POOL_SIZE = (THREADS + READING_THREADS) // 2

ROUTERS = (
    runs.router,
    steering.router,
    events.router,
    again.router,
    escalations.router,
    costs.router,
    memory.router,
    schedules.router,
    webhooks.router,
    webhooks.delivered,
    keys.router,
    erasing.router,
    health.router,
    scraping.router,
)
PAGES = (entrance.router, pages_of_runs.router, inbox.router, remembered.router, fleet.router)


def create_app(settings: Settings | None = None, services: Services | None = None) -> FastAPI:
    """The API on these services, or on those that the settings name; raises `Unavailable` when none does."""
    settings = settings or load_settings()
    shared = services or Services(settings, pool_size=POOL_SIZE, is_busy=True)
    app = FastAPI(
        title="Chargehand",
        version=version("chargehand"),
        description="Runs of agents: ask for them, watch them, steer them, and prove what they did.",
        openapi_url="/v1/openapi.json",
        # Those pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.chargehand = ApiState(
        settings=settings,
        services=shared,
        keyring=Keyring(shared.engine),
        rate_limit=_rate_limit(settings, shared),
        live=Live(shared),
    )
    app.state.owns_services = services is None
    problems.install(app)
    for router in (*ROUTERS, *PAGES):
        app.include_router(router)
    app.add_middleware(BodyLimit, most_bytes=settings.api_body_bytes)
    app.add_middleware(PrivateAnswers)
    if settings.api_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.api_cors_origins),
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        )
    app.add_middleware(TrustedProxies, networks=settings.api_trusted_proxies)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: ApiState = app.state.chargehand
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    await state.live.start()
    yield
    await state.live.stop()
    if app.state.owns_services:
        state.services.close()


def _rate_limit(settings: Settings, services: Services) -> RateLimit:
    try:
        client = services.redis()
    except Unavailable:
        client = None
    return RateLimit(client, per_second=settings.api_requests_per_second, key_prefix=settings.key_prefix)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """With the schema of our problems, which every operation refers to."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= {**problem.pop("$defs"), "Problem": problem}
        app.openapi_schema = schema
    return app.openapi_schema
