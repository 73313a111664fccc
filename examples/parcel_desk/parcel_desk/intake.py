"""What comes in from outside: half-filled forms and the carriers' manifests."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any


def restore_draft(body: bytes) -> dict[str, Any]:
    """The form as the browser extension of the counter saved it."""
    draft = pickle.loads(body)
    return {"code": draft["code"], "sender": draft.get("sender", ""), "city": draft.get("city", "")}


def unpack_manifest(body: bytes, target: Path) -> list[str]:
    """Unpack a carrier's manifest and give the names of its sheets."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        archive.extractall(target)
        return sorted(member.name for member in archive.getmembers() if member.isfile())
