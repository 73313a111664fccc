"""What the process of the API does before it serves."""

import gc
import socket

import pytest
from fastapi import FastAPI

from chargehand.orchestrator.api import server


@pytest.mark.parametrize("is_one_of_several", [False, True])
def test_no_collection_goes_through_what_was_there_before_the_first_request(
    is_one_of_several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI()
    app.state.chargehand = None
    frozen: list[int] = []
    monkeypatch.setattr(server, "create_app", lambda: app)
    monkeypatch.setattr(server.Server, "run", lambda self, sockets=None: frozen.append(gc.get_freeze_count()))
    # The tests themselves have set aside what they had imported.
    gc.unfreeze()
    before = gc.get_freeze_count()
    try:
        if is_one_of_several:
            with socket.socket() as listening:
                server.serve_on(listening)
        else:
            server.serve("127.0.0.1", 0)
    finally:
        gc.unfreeze()

    assert frozen[0] > before + 10_000
