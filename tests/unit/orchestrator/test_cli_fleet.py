"""`pause` and `resume` take one thing: a run, or a switch of the whole fleet."""

from datetime import UTC, datetime

import pytest

from chargehand.orchestrator.cli.fleet import chosen_switch
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.switches import Switch


def test_one_thing_is_named():
    nothing = {"role": None, "tool": None, "model": None, "everything": False}
    assert chosen_switch("4f7e", **nothing) is None
    assert chosen_switch(None, **{**nothing, "role": "coder"}) == ("role", "coder")
    assert chosen_switch(None, **{**nothing, "model": "m-1"}) == ("model", "m-1")
    assert chosen_switch(None, **{**nothing, "everything": True}) == ("all", "")
    for run, named in ((None, {}), ("4f7e", {"tool": "t"}), (None, {"tool": "t", "everything": True})):
        with pytest.raises(UserError, match="Name one thing"):
            chosen_switch(run, **{**nothing, **named})


def test_a_switch_says_who_since_when_why_and_what_lets_it_go_on():
    since = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    role = Switch(kind="role", name="coder", by="ann@desk", reason="it loops", since=since)
    assert role.why == (
        "role 'coder' is paused by ann@desk since 2026-01-02 03:04 UTC (it loops); "
        "`chargehand resume --role coder` lets it go on"
    )
    fleet = Switch(kind="all", name="", by="ann@desk", reason="", since=since)
    assert fleet.why.endswith("`chargehand resume --all` lets it go on")
