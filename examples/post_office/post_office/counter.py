"""The tool, the role and what the role hands in."""

from typing import Literal

from pydantic import BaseModel

from chargehand import Plan, ToolRetry, role, tool
from post_office.scale import weigh

Service = Literal["letter", "parcel", "freight"]
# Service: the heaviest it takes in grams, and its price in cents.
TARIFF: dict[Service, tuple[int, int]] = {"letter": (1_000, 180), "parcel": (31_500, 749), "freight": (500_000, 4_900)}


class Price(BaseModel):
    """What a service costs."""

    cents: int


class Advice(BaseModel):
    """What the postmaster hands in."""

    service: Service | Literal["unsure"]
    cents: int
    reason: str


@tool(effect="pure")
def postage(service: Service, grams: int) -> Price:
    """What it costs to send so many grams by a service."""
    heaviest, cents = TARIFF[service]
    if grams > heaviest:
        raise ToolRetry(f"{service} takes at most {heaviest} g, not {grams}; ask for another service.")
    return Price(cents=cents)


postmaster = role("roles/postmaster.md", output=Advice, tools=[postage])


def plan(grams: int) -> Plan:
    """Weigh, then ask the postmaster."""
    weighed = weigh.step(grams, box_grams=150)
    return Plan(postmaster.step("Which service should this parcel go by?", inputs=[weighed]))
