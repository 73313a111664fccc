"""The API in the process of the test, on a real Postgres and Valkey, for a tenant of the test's own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from chargehand.orchestrator import keys
from chargehand.orchestrator.api.app import create_app
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.settings import Settings

PLAN = {"steps": [{"key": "a", "kind": "script", "script": "inventory"}]}
GATE = {"steps": [{"key": "sure", "kind": "gate", "instruction": "Sure?"}]}


@dataclass(frozen=True, kw_only=True)
class Api:
    """The API, and a client of its database."""

    http: TestClient
    client: Client
    key: str
    tenant: UUID

    def submit(self, plan: object = PLAN, **fields: object) -> str:
        """The id of a run that was asked for."""
        answer = self.http.post("/v1/runs", json={"plan": plan, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["run_id"])

    def key_of(self, *scopes: str, name: str = "other") -> str:
        """Another key of the tenant."""
        with self.client.session() as session:
            return str(keys.add(session, self.tenant, name, scopes).secret)


Open = Callable[..., Api]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def open_api(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Open]:
    """The API with these settings; each call makes one of its own, with a key of all scopes."""
    closing = []

    def opened(**fields: object) -> Api:
        tenant = uuid4()
        settings = Settings.model_validate({"home": tmp_path, "tenant": tenant, **fields})
        services = Services(settings, database_url=database_url, redis_url=redis_url, is_busy=True)
        client = Client.sharing(services, tenant=tenant, name="test")
        with client.session() as session:
            secret = str(keys.add(session, tenant, "test", ("admin",)).secret)
        http = TestClient(create_app(settings, services), headers=bearer(secret), raise_server_exceptions=False)
        http.__enter__()
        closing.append((http, services))
        return Api(http=http, client=client, key=secret, tenant=tenant)

    yield opened
    for http, services in closing:
        http.__exit__(None, None, None)
        services.close()


@pytest.fixture
def api(open_api: Open) -> Api:
    """The API with default settings."""
    return open_api()
