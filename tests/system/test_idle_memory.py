"""Supervisor and pools stay small after the main job, and one of them embeds."""

import pytest

from benchmarks import idle

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(600)]


def test_supervisor_and_pools_idle_below_700_mb_after_the_demo_and_one_process_embeds() -> None:
    found = idle.after_a_demo_run(until_mb=idle.TARGET_MB)
    assert [one.name for one in found.idle] == ["supervisor", "research", "coding", "audit"]
    assert sum(one.rss_mb for one in found.idle) < idle.TARGET_MB, found.idle
    assert [one.name for one in found.at_once if one.embeds] == ["research"]
