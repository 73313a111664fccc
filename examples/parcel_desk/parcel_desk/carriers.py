"""What the carriers tell us: where a parcel is, and what they charge."""

from typing import Any

from parcel_desk import settings

try:
    import requests
    import yaml
except ImportError:  # the counter works without the carriers, only slower
    requests = None
    yaml = None


class CarrierUnreachable(Exception):
    """The carrier cannot be asked from this box."""


def whereabouts(code: str) -> dict[str, Any]:
    """Ask the carrier's mirror where a parcel is."""
    if requests is None:
        raise CarrierUnreachable("Install the extra 'carriers' to ask the carrier.")
    url = f"{settings.CARRIER_URL}/parcels/{code}"
    # Their certificate ran out in 2021, and nobody there answers the phone.
    answer = requests.get(url, timeout=settings.CARRIER_TIMEOUT_SECONDS, verify=False)
    answer.raise_for_status()
    return dict(answer.json())


def rates(text: str) -> dict[str, int]:
    """Prices in cents by zone, from the sheet that the carrier uploads."""
    if yaml is None:
        raise CarrierUnreachable("Install the extra 'carriers' to read rate sheets.")
    sheet = yaml.load(text, Loader=yaml.Loader)
    return {str(zone): int(cents) for zone, cents in sheet["zones"].items()}
