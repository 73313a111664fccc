"""Who asks, and what they may do: a bearer key, its scope, its rate; each gives the endpoint a client of its tenant."""

import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from chargehand.orchestrator.api.problems import Refused
from chargehand.orchestrator.api.state import ApiState, state_of
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.keys import Holder

_bearer = HTTPBearer(
    auto_error=False, scheme_name="key", description="A key of `chargehand keys add`: `Authorization: Bearer chk_…`."
)


def needs(scope: str) -> Callable[..., Coroutine[Any, Any, Client]]:
    """A dependency: the tenant's client, if the request has a key with the scope that has not asked too often."""

    async def client(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Client:
        state = state_of(request)
        holder = None if credentials is None else await _holder(state, credentials.credentials)
        if holder is None:
            detail = "Send a key that is not revoked: Authorization: Bearer chk_…; `chargehand keys add` makes one."
            raise Refused(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="chargehand"'})
        if not holder.may(scope):
            had = ", ".join(sorted(holder.scopes))
            raise Refused(403, "forbidden", f"This needs a key with the scope {scope!r}; this one has: {had}.")
        # A thread only where somebody has to be asked: most of a busy key's requests are let in by what is known here.
        wait_seconds = state.rate_limit.wait_at_once(holder.key_id)
        if wait_seconds is None:
            wait_seconds = await run_in_threadpool(state.rate_limit.wait_seconds, holder.key_id)
        if wait_seconds > 0:
            raise Refused(
                429,
                "too-many-requests",
                f"This key has asked too often; again in {wait_seconds:.2f} s.",
                headers={"Retry-After": str(math.ceil(wait_seconds))},
            )
        return Client.sharing(state.services, tenant=holder.tenant, name=f"key {holder.name}")

    return client


async def _holder(state: ApiState, secret: str) -> Holder | None:
    return state.keyring.remembered(secret) or await run_in_threadpool(state.keyring.holder, secret)


def still_may(request: Request, scope: str) -> bool:
    """Whether the key of a request that is still being answered is good for the scope; yes while nobody can tell."""
    try:
        holder = state_of(request).keyring.holder(request.headers.get("Authorization", "").partition(" ")[2].strip())
    except Unavailable:
        return True
    return holder is not None and holder.may(scope)


Reads = Annotated[Client, Depends(needs("read"))]
Submits = Annotated[Client, Depends(needs("submit"))]
Operates = Annotated[Client, Depends(needs("operate"))]
Administers = Annotated[Client, Depends(needs("admin"))]
