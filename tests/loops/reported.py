"""Loops and false alarms that people reported of other agents, written down after their public reports."""

import random

from loops.scene import Scene


def history_read_again(rng: random.Random) -> Scene:
    """HKUDS/nanobot#3077: one file read fifteen times with the same offset and limit."""
    scene = Scene(rng)
    arguments = {"path": "~/.nanobot/workspace/memory/history.jsonl", "limit": 50, "offset": 1}
    scene.loop_begins()
    for index in range(15):
        scene.act("read_file", arguments, '{"t": "2026-04-11", "event": "renamed the board"}\n(showing 1 of 1 lines)')
        if index == 2:
            scene.loop_shows()
    return scene


def directory_listed_again(rng: random.Random) -> Scene:
    """earendil-works/pi#6158: `ls` six times, then `ls -la` five times, the same listing each time."""
    scene = Scene(rng)
    scene.loop_begins()
    for index in range(6):
        scene.act("bash", {"command": "ls /home/dev/.jupyter/custom/"}, "custom.css\ncustom.js")
        if index == 2:
            scene.loop_shows()
    for _ in range(5):
        listing = "-rw-r--r-- 1 dev dev 812 Jun 29 10:02 custom.css\n-rw-r--r-- 1 dev dev 90 Jun 29 10:02 custom.js"
        scene.act("bash", {"command": "ls -la /home/dev/.jupyter/custom/"}, listing)
    return scene


def noop_renamed(rng: random.Random) -> Scene:
    """earendil-works/pi#9637: 220 calls of a no-op, whose display name alone counts up."""
    scene = Scene(rng)
    scene.loop_begins()
    for index in range(12):
        scene.act("fabric_exec", {"display": f"noop{index}", "command": "bash echo noop"}, "noop")
        if index == 2:
            scene.loop_shows()
    return scene


def empty_listing(rng: random.Random) -> Scene:
    """superplanehq/superplane#4123: identical or slightly varied listings, all of them empty."""
    scene = Scene(rng)
    scene.act("describe_trigger", {"name": "schedule"}, "fires by a cron expression")
    scene.loop_begins()
    for index, kind in enumerate(
        ("repository", "repositories", "repository", "Repository", "repos", "repository", "repo")
    ):
        scene.act("list_integration_resources", {"integration": "github", "type": kind}, "[]")
        if index == 2:
            scene.loop_shows()
    return scene


def tools_that_do_not_exist(rng: random.Random) -> Scene:
    """danhicks853/theappapp: `Unknown tool: Miro`, `Unknown tool: Jira`, and so on."""
    scene = Scene(rng)
    scene.loop_begins()
    for index, tool in enumerate(("interview_tool", "Miro", "Jira", "Zoom", "Slack", "Figma", "Notion", "Trello")):
        scene.act(tool, {"action": "open"}, error=f"Unknown tool: {tool}", error_type="UnknownTool")
        if index == 2:
            scene.loop_shows()
    return scene


def time_asked_for(rng: random.Random) -> Scene:
    """NorthlandPositronics/Cogtrix#474: the time asked for 33 times, to wait for five past eleven."""
    scene = Scene(rng)
    scene.loop_begins()
    for index in range(12):
        scene.act("get_current_datetime", {}, f"2026-05-01 10:{20 + index}:{rng.randint(10, 59)} UTC (Friday)")
        if index == 2:
            scene.loop_shows()
    return scene


def file_too_large(rng: random.Random) -> Scene:
    """anthropics/claude-code#30150: a file too large to read, tried again without change."""
    scene = Scene(rng)
    scene.act("Glob", {"pattern": "**/*.json"}, "fixtures/big.json")
    scene.loop_begins()
    for index in range(7):
        error = "File content (41208 tokens) exceeds maximum allowed tokens (25000). Use offset and limit."
        scene.act("Read", {"file_path": "/repo/fixtures/big.json"}, error=error)
        if index == 2:
            scene.loop_shows()
    return scene


def lookup_and_search(rng: random.Random) -> Scene:
    """anomalyco/opencode#47759: lookup, search, lookup, search, lookup, search."""
    scene = Scene(rng)
    scene.loop_begins()
    for index in range(4):
        scene.act("lookup", {"query": "a"}, "nothing is known of a")
        scene.act("search", {"query": "b"}, "b is near a")
        if index == 1:
            scene.loop_shows()
    return scene


def read_edit_test(rng: random.Random) -> Scene:
    """macanderson/stella#359: read, an edit that fails, a test that fails, and again."""
    scene = Scene(rng)
    scene.loop_begins()
    for index in range(4):
        scene.act("read", {"path": "src/lib.rs"}, "fn total() -> u32 { 3 }")
        scene.act("edit", {"path": "src/lib.rs", "old": "fn sum()", "new": "fn sum_all()"}, error="old text not found")
        scene.act("bash", {"command": "cargo test"}, "test total ... FAILED\ntest result: FAILED. 4 passed; 1 failed")
        if index == 1:
            scene.loop_shows()
    return scene


def same_message_sent(rng: random.Random) -> Scene:
    """HKUDS/nanobot#1240: the same message sent to a chat again and again."""
    scene = Scene(rng)
    scene.loop_begins()
    for index in range(8):
        scene.act("message", {"channel": "telegram", "text": "Done! The report is ready."}, f"sent (id {8800 + index})")
        if index == 2:
            scene.loop_shows()
    return scene


def flight_desks(rng: random.Random) -> Scene:
    """google/adk-python#6590: agents that transfer back because they are not told why."""
    scene = Scene(rng)
    scene.loop_begins()
    for index in range(9):
        giver, taker = ("travel_agent", "flights_refunder") if index % 2 == 0 else ("flights_refunder", "travel_agent")
        scene.act("transfer_to_agent", {"agent_name": taker}, "", step=giver, role=giver)
        if index == 3:
            scene.loop_shows()
    return scene


def files_attached(rng: random.Random) -> Scene:
    """vstorm-co/pydantic-deepagents#208: three files attached, each call gives True; no loop."""
    scene = Scene(rng)
    for name in ("a.txt", "b.txt", "c.txt"):
        scene.act("attach_file", {"email_id": "1", "filename": name}, "True")
    return scene


def build_polled(rng: random.Random) -> Scene:
    """macanderson/stella#359: the output of a build read and `sleep 5`, by turns; each read has new bytes; no loop."""
    scene = Scene(rng)
    for index in range(8):
        scene.act("read_output", {"handle": "p1"}, f"   Compiling crate_{'abcdefgh'[index]} v0.1.{index}")
        scene.act("bash", {"command": "sleep 5"}, "")
    scene.act("read_output", {"handle": "p1"}, "exited (code 0)")
    return scene


def background_job(rng: random.Random) -> Scene:
    """StartupHakk/OpenMonoAgent.ai#47: a background job monitored with the same call; no loop."""
    scene = Scene(rng)
    for status in ("queued", "running 1/4", "running 2/4", "running 2/4", "running 3/4", "running 4/4", "done"):
        scene.act("CheckStatus", {"task": "migrate"}, status)
    return scene


def folders_explored(rng: random.Random) -> Scene:
    """jyjeanne/crustly: `ls` of one folder after the other; no loop."""
    scene = Scene(rng)
    for folder in ("./src", "./src/cli", "./src/tui", "./src/llm", "./src/db", "./tests", "./docs"):
        scene.act("ls", {"path": folder}, f"mod.rs\n{folder.rsplit('/')[-1]}.rs")
    return scene


def memory_recalled(rng: random.Random) -> Scene:
    """agentscope-ai/QwenPaw#5906: memory recalled six times, for six questions; no loop."""
    scene = Scene(rng)
    for question in ("deadline", "budget", "owner of the project", "launch date", "risks", "budget of last year"):
        scene.act("recall_history", {"query": question}, f"On {question}: see the minutes, {question.upper()}.")
    return scene


def review_and_release(rng: random.Random) -> Scene:
    """multica-ai/multica#8753: developer, reviewer, one small change, approval, product owner; no loop."""
    scene = Scene(rng)
    notes = (
        ("developer", "reviewer", "Please review the rounding of totals."),
        ("reviewer", "developer", "One small change: name the constant."),
        ("developer", "reviewer", "Named it; ready for another look."),
        ("reviewer", "product owner", "Approved, please check the wording."),
    )
    for giver, taker, note in notes:
        scene.act("hand_off", {"to": taker, "note": note}, "ok", step=giver, role=giver)
    return scene


LOOPS = {
    "identical": (history_read_again, directory_listed_again, time_asked_for, file_too_large, same_message_sent),
    "near_identical": (noop_renamed, empty_listing),
    "alternating": (lookup_and_search, read_edit_test),
    "ping_pong": (flight_desks,),
    "stuck_state": (tools_that_do_not_exist,),
}
WORK = (files_attached, build_polled, background_job, folders_explored, memory_recalled, review_and_release)
