"""Where things are. The depot has one box, so there is one set of values."""

from pathlib import Path

DATABASE = "parcels.db"
DOCUMENTS = Path("documents")
MANIFESTS = Path("manifests")

CARRIER_URL = "https://mirror.carrier.example/v2"
CARRIER_TIMEOUT_SECONDS = 10

# Signs the cookie of the counter's staff.
SECRET_KEY = "c8f1d2a97be04e6f9d35a1706b8ec24f"

INVOICE_DAYS = 14
EVENTS_PER_PAGE = 5
