"""`/v1/costs`: where the money of all runs went."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from chargehand.orchestrator.api.authentication import Reads
from chargehand.orchestrator.api.problems import COMMON
from chargehand.orchestrator.charges import FleetCosts

router = APIRouter(prefix="/v1/costs", tags=["costs"], responses=COMMON)

YEAR_SECONDS = 31_536_000


@router.get("")
def read_costs(
    client: Reads,
    within_seconds: Annotated[float, Query(gt=0, le=YEAR_SECONDS, description="How far back from now.")] = 86_400,
    as_claude: Annotated[bool, Query(description="At Claude's prices, by tier.")] = False,
) -> FleetCosts:
    """Where the money of the tenant's runs went in this last stretch of time."""
    return client.costs(timedelta(seconds=within_seconds), as_claude=as_claude)
