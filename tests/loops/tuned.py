"""Families on which the detectors were tuned: coding agents in a repository."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from loops.noise import commit, fill, listed
from loops.scene import Scene

NOUNS = listed(
    "parcel courier invoice ledger tariff depot route driver label customs manifest pallet carrier quote "
    "refund pickup barcode locker weight surcharge address postcode insurance claim"
)
VERBS = listed("parse validate render load merge split sort cache retry encode decode round group filter")
FOLDERS = ("src", "src/handlers", "lib/core", "app/models", "tests/unit", "docs")

PLAIN_ERRORS = (
    "There is no such file.",
    "old_string was not found in the file; read it again.",
    "Permission denied.",
    "SyntaxError: unexpected token",
    "command not found: poetry",
    "error: pathspec did not match any file known to git",
    "ModuleNotFoundError: No module named 'tariffs'",
)
NOISY_ERRORS = (
    "[<iso>] ERROR request <uuid> failed: access denied",
    "Traceback (most recent call last):\n  File \"/tmp/<hex>/run.py\", line 14, in <module_>\nKeyError: 'region'",
    "<Connection object at <address>> is closed (pid <pid>)",
    "HTTP 500 Internal Server Error (request-id: <hex>, took <seconds>)",
    "FAILED tests/test_tariff.py::test_zone - assert 3 == 4\n1 failed, 12 passed in <seconds>",
    "fatal: unable to access repository, attempt <number> failed after <ms>",
    "<time> worker-<pid> exited with status 1",
)
BUSY_ERRORS = (
    "429 Too Many Requests",
    "503 Service Unavailable, try again later",
    "Connection timed out after <ms>",
    "rate limit exceeded (request <hex>)",
    "The database is locked",
)


def _error(rng: random.Random, templates: tuple[str, ...]) -> Callable[[], str]:
    template = rng.choice(templates).replace("<module_>", "main")
    return lambda: fill(template, rng)


def prose(rng: random.Random, words: int = 9) -> str:
    """Text that is new: no two calls of it agree but by a great accident."""
    return " ".join(f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}" for _ in range(words))


def path(rng: random.Random) -> str:
    """A file of a repository."""
    return f"{rng.choice(FOLDERS)}/{rng.choice(VERBS)}_{rng.choice(NOUNS)}.py"


def work(scene: Scene, count: int, **where: Any) -> None:
    """Calls that get on: each brings something new."""
    rng = scene.rng
    for _ in range(count):
        kind = rng.choice(("read", "read", "grep", "bash", "edit"))
        if kind == "read":
            scene.act("read_file", {"path": path(rng)}, prose(rng), **where)
        elif kind == "grep":
            scene.act(
                "grep", {"pattern": prose(rng, 1)}, f"{path(rng)}:{rng.randint(1, 400)}: {prose(rng, 3)}", **where
            )
        elif kind == "bash":
            scene.act("bash", {"command": f"git log -n 3 {path(rng)}"}, f"{commit(rng)[:8]} {prose(rng, 4)}", **where)
        else:
            old, new = prose(rng, 2), prose(rng, 2)
            arguments = {"path": path(rng), "old": old, "new": new}
            scene.act("edit_file", arguments, "Edited.", commit=commit(rng), **where)


def _some_call(rng: random.Random) -> tuple[str, dict[str, Any]]:
    return rng.choice(
        (
            ("read_file", {"path": path(rng)}),
            ("edit_file", {"path": path(rng), "old": prose(rng, 2), "new": prose(rng, 2)}),
            ("bash", {"command": f"python -m {rng.choice(VERBS)} --{rng.choice(NOUNS)} {rng.randint(1, 9)}"}),
            ("http_get", {"url": f"https://api.example.com/{rng.choice(NOUNS)}s/{rng.randint(1, 999)}"}),
            ("run_tests", {}),
            ("sql", {"query": f"select {rng.choice(NOUNS)} from {rng.choice(NOUNS)}s limit 5"}),
        )
    )


def _between(scene: Scene) -> Callable[[], None]:
    # What happens between two calls of a loop: nothing, other agents, or now and then another try of its own.
    how = scene.rng.choice(("nothing", "nothing", "others", "tries"))

    def happen() -> None:
        if how == "others":
            work(scene, scene.rng.randint(0, 2), step="b", role="auditor")
        elif how == "tries":
            work(scene, scene.rng.choice((0, 0, 1)))

    return happen


# --- loops -----------------------------------------------------------------------------------------------------------


def same_error(rng: random.Random, templates: tuple[str, ...] = PLAIN_ERRORS) -> Scene:
    """The same call fails in the same way."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 6))
    (tool, arguments), error, between = _some_call(rng), _error(rng, templates), _between(scene)
    scene.loop_begins()
    for round_ in range(rng.randint(7, 12)):
        scene.act(tool, arguments, error=error())
        if round_ == 2:
            scene.loop_shows()
        between()
    return scene


def noisy_error(rng: random.Random) -> Scene:
    """The same, with times, ids and addresses in the message."""
    return same_error(rng, NOISY_ERRORS)


def same_answer(rng: random.Random) -> Scene:
    """The same question, answered in the same way."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 6))
    tool, arguments, answer = rng.choice(
        (
            ("job_status", {"job": rng.randint(1, 999)}, '{"status": "queued"}'),
            ("bash", {"command": f"ls {rng.choice(FOLDERS)}"}, f"{rng.choice(NOUNS)}.py\n{rng.choice(NOUNS)}.txt"),
            ("git_status", {}, "nothing to commit, working tree clean"),
            ("read_file", {"path": path(rng)}, prose(rng, 30)),
            ("list_issues", {"label": rng.choice(NOUNS)}, "[]"),
        )
    )
    scene.loop_begins()
    for round_ in range(rng.randint(7, 14)):
        scene.act(tool, arguments, answer)
        if round_ == 2:
            scene.loop_shows()
        if rng.random() < 0.2:
            work(scene, 1, step="b", role="auditor")
    return scene


def guessed_names(rng: random.Random) -> Scene:
    """One spelling of a file's name after the other, none of which exists."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 5))
    folder, noun = rng.choice(FOLDERS), rng.choice(NOUNS)
    spellings = [f"{noun}{end}.py" for end in ("", "s", "_", "es", "1", "2", "3", "ing", "_v2")]
    rng.shuffle(spellings)
    say = rng.choice(
        (
            lambda name: f"There is no file '{name}'.",
            lambda name: f"[Errno 2] No such file or directory: '/work/{name}'",
            lambda name: f"ENOENT: no such file, open {name!r} ({fill('<hex>', rng)})",
            lambda name: "File not found.",
        )
    )
    scene.loop_begins()
    for round_, spelling in enumerate(spellings):
        name = f"{folder}/{spelling}"
        scene.act("read_file", {"path": name}, error=say(name))
        if round_ == 2:
            scene.loop_shows()
    return scene


def reworded_search(rng: random.Random) -> Scene:
    """The same words in other spellings, with no result each time."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 5))
    one, two, three = rng.sample(NOUNS, 3)
    queries = [
        f"{one} {two} {three}",
        f"{one}s {two} {three}",
        f'"{one} {two} {three}"',
        f"{one} {two}s {three}",
        f"{two} {one} {three}",
        f"{one}-{two}-{three}",
        f"{one.title()} {two} {three}s",
        f"{one}  {two} {three}?",
    ]
    tool, key = rng.choice((("search", "query"), ("grep", "pattern"), ("recall", "question")))
    say = rng.choice(
        (
            lambda q: f"No results for {q!r}.",
            lambda q: "[]",
            lambda q: "no matches",
            lambda q: '{"hits": [], "total": 0}',
        )
    )
    scene.loop_begins()
    for round_, query in enumerate(queries):
        scene.act(tool, {key: query}, say(query))
        if round_ == 2:
            scene.loop_shows()
    return scene


def taking_turns(rng: random.Random) -> Scene:
    """Two or three calls in turn, each with the answer it had before."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 6))
    period = rng.choice((2, 2, 3))
    block = []
    for _ in range(period):
        tool, arguments = _some_call(rng)
        failed = rng.random() < 0.4
        say = _error(rng, PLAIN_ERRORS + NOISY_ERRORS) if failed else _error(rng, (prose(rng),))
        block.append((tool, arguments, failed, say))
    if len({str(entry[:2]) for entry in block}) < period:
        return taking_turns(rng)
    scene.loop_begins()
    for round_ in range(rng.randint(4, 6)):
        for index, (tool, arguments, failed, say) in enumerate(block):
            scene.act(tool, arguments, **({"error": say()} if failed else {"ok": say()}))
            if round_ == 1 and index == period - 1:
                scene.loop_shows()
        if rng.random() < 0.3:
            work(scene, 1, step="b", role="auditor")
    return scene


def ping_pong(rng: random.Random) -> Scene:
    """Two agents hand the same work to each other."""
    scene = Scene(rng)
    one, other = rng.sample(("coder", "triager", "auditor", "researcher", "planner"), 2)
    work(scene, rng.randint(0, 4), step="s0", role=one)
    reasons = {
        one: f"This is a matter of {rng.choice(NOUNS)}s.",
        other: f"The {rng.choice(NOUNS)} is not mine to change.",
    }
    scene.loop_begins()
    for round_ in range(rng.randint(7, 10)):
        giver, taker = (one, other) if round_ % 2 == 0 else (other, one)
        arguments = {"to": taker, "why": reasons[giver] + (f" ({round_})" if rng.random() < 0.3 else "")}
        scene.act("hand_off", arguments, f"Handed to {taker}.", step=f"s{round_}", role=giver)
        if round_ == 3:
            scene.loop_shows()
        if rng.random() < 0.3:
            scene.act("read_file", {"path": "TICKET.md"}, "The total is wrong.", step=f"s{round_ + 1}", role=taker)
    return scene


def no_way_out(rng: random.Random) -> Scene:
    """Whatever is called, the same error comes back."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    error = _error(
        rng,
        (
            "The workspace is read-only.",
            "401 Unauthorized: the session has expired",
            "[<iso>] fatal: could not read the index (<hex>)",
            "The disk is full.",
        ),
    )
    scene.loop_begins()
    for round_ in range(rng.randint(9, 12)):
        tool, arguments = _some_call(rng)
        scene.act(tool, arguments, error=error())
        if round_ == 3:
            scene.loop_shows()
    return scene


def edits_without_effect(rng: random.Random) -> Scene:
    """Edit after edit, and the same test fails in the same way."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 3))
    as_error = rng.random() < 0.5
    report = f"FAILED tests/test_{rng.choice(NOUNS)}.py::test_{rng.choice(VERBS)} - AssertionError\n1 failed, 8 passed"
    timed = rng.random() < 0.5
    name = path(rng)
    scene.loop_begins()
    for round_ in range(rng.randint(7, 9)):
        if round_:
            arguments = {"path": name, "old": prose(rng, 2), "new": prose(rng, 2)}
            scene.act("edit_file", arguments, "Edited.", commit=commit(rng))
        text = report + (fill(" in <seconds>", rng) if timed else "")
        scene.act("bash", {"command": "pytest -q"}, **({"error": text} if as_error else {"ok": text}))
        if round_ == 3:
            scene.loop_shows()
    return scene


# --- work ------------------------------------------------------------------------------------------------------------


def poll_progress(rng: random.Random) -> Scene:
    """The same question until the job is done; the answer moves."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    job, done = rng.randint(1, 999), 0
    form = rng.choice(('{"status": "running", "progress": %d}', "%d%% done", "%d of 100 rows", "copied %d files"))
    while done < 100:
        scene.act("job_status", {"job": job}, form % done)
        done += rng.randint(4, 25)
    scene.act("job_status", {"job": job}, '{"status": "done"}')
    work(scene, rng.randint(0, 3))
    return scene


def poll_elapsed(rng: random.Random) -> Scene:
    """The same, where only the time that the job has taken moves."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 3))
    form = rng.choice(
        (
            '{"state": "running", "elapsed_seconds": %d}',
            "running, elapsed %ds",
            "build is running for %d s",
            '{"state": "training", "eta_seconds": %d}',
            "uptime %d s, waiting for the first connection",
        )
    )
    times = sorted(rng.sample(range(1, 900), rng.randint(6, 16)))
    for seconds in reversed(times) if "eta" in form else times:
        scene.act("build_status", {"build": "nightly"}, form % seconds)
    scene.act("build_status", {"build": "nightly"}, "finished")
    return scene


def pages_by_offset(rng: random.Random) -> Scene:
    """One page after the other."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 3))
    key, size = rng.choice((("offset", 50), ("page", 1), ("skip", 20), ("first_line", 400)))
    query = {"q": rng.choice(NOUNS)} if rng.random() < 0.6 else {}
    for page in range(rng.randint(6, 18)):
        scene.act("list_records", {**query, key: page * size, "limit": 50}, prose(rng, 12))
    scene.act("list_records", {**query, key: 1_000_000, "limit": 50}, "[]")
    return scene


def backs_off(rng: random.Random) -> Scene:
    """A service that is busy is asked again, and answers."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    for _ in range(rng.randint(1, 3)):
        tool, arguments = _some_call(rng)
        error, waits = _error(rng, BUSY_ERRORS), rng.random() < 0.6
        for attempt in range(rng.randint(1, 3)):
            scene.act(tool, arguments, error=error(), error_type="Unavailable")
            if waits:
                scene.act("sleep", {"seconds": 2**attempt}, "")
        scene.act(tool, arguments, prose(rng))
        work(scene, rng.randint(0, 2))
    return scene


def other_words(rng: random.Random) -> Scene:
    """A search with other words each time, most of which find nothing."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 2))
    for _ in range(rng.randint(5, 12)):
        query = " ".join(rng.sample(NOUNS + VERBS, rng.randint(1, 3)))
        scene.act("search", {"query": query}, prose(rng) if rng.random() < 0.4 else f"No results for {query!r}.")
    scene.act("search", {"query": prose(rng, 1)}, prose(rng))
    return scene


def many_files(rng: random.Random) -> Scene:
    """File after file, some in one turn, now and then one that is not there."""
    scene = Scene(rng)
    folder = rng.choice(FOLDERS)
    for index in range(rng.randint(8, 25)):
        name = f"{folder}/part_{index:02}.py" if rng.random() < 0.5 else path(rng)
        missing = rng.random() < 0.08
        gave = {"error": f"There is no file '{name}'."} if missing else {"ok": prose(rng)}
        scene.act("read_file", {"path": name}, same_turn=rng.random() < 0.4 and index > 0, **gave)
    return scene


def edit_and_test(rng: random.Random) -> Scene:
    """Tests after each edit; an edit that changes nothing gives the same result twice."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 3))
    failing, as_error, timed = rng.randint(2, 6), rng.random() < 0.5, rng.random() < 0.5
    while True:
        text = f"{failing} failed, {30 - failing} passed" + (fill(" in <seconds>", rng) if timed else "")
        failed = as_error and failing > 0
        again = rng.choice((1, 1, 2))
        for _ in range(again):
            scene.act("run_tests", {}, **({"error": text} if failed else {"ok": text}))
            if failing:
                arguments = {"path": path(rng), "old": prose(rng, 2), "new": prose(rng, 2)}
                scene.act("edit_file", arguments, "Edited.", commit=commit(rng))
        if failing == 0:
            return scene
        failing -= rng.randint(1, failing)


def two_at_work(rng: random.Random) -> Scene:
    """Two agents on similar tasks: the same files, the same tools, some of the same dead ends."""
    scene = Scene(rng)
    shared = [path(rng) for _ in range(4)]
    texts = {name: prose(rng) for name in shared}
    missing = path(rng)
    for name in shared:
        for step, role in (("a", "coder"), ("b", "auditor")):
            scene.act("read_file", {"path": name}, texts[name], step=step, role=role)
            work(scene, rng.randint(0, 2), step=step, role=role)
    for step, role in (("a", "coder"), ("b", "auditor")):
        scene.act("read_file", {"path": missing}, error="There is no such file.", step=step, role=role)
        work(scene, rng.randint(1, 3), step=step, role=role)
    return scene


def fan_out_429(rng: random.Random) -> Scene:
    """Two hundred agents, one call each, and the service is busy for all of them."""
    scene = Scene(rng)
    error = _error(rng, BUSY_ERRORS)
    for agent in range(200):
        scene.act("http_get", {"url": "https://x.test/v1"}, error=error(), step=f"w{agent}", role="researcher")
    return scene


def pipeline(rng: random.Random) -> Scene:
    """Work handed on, from one role to the next, each doing its part."""
    scene = Scene(rng)
    roles = rng.sample(("planner", "researcher", "coder", "auditor", "writer", "releaser"), rng.randint(3, 6))
    for index, (giver, taker) in enumerate(pairwise(roles)):
        work(scene, rng.randint(1, 3), step=f"s{index}", role=giver)
        arguments = {"to": taker, "why": prose(rng, 3)}
        scene.act("hand_off", arguments, f"Handed to {taker}.", step=f"s{index}", role=giver)
    if rng.random() < 0.5:
        work(scene, 2, step="s9", role=roles[-1])
        scene.act("hand_off", {"to": roles[0], "why": prose(rng, 3)}, "Handed back.", step="s9", role=roles[-1])
    return scene


def many_small_acts(rng: random.Random) -> Scene:
    """The same tool for many objects, each answered by the same word."""
    scene = Scene(rng)
    tool, answer = rng.choice(
        (("write_file", "ok"), ("delete_file", "Deleted."), ("add_label", "true"), ("insert_row", "1 row inserted"))
    )
    for index in range(rng.randint(7, 20)):
        name = f"{rng.choice(NOUNS)}_{index}" if rng.random() < 0.5 else f"batch/{index:03}"
        scene.act(tool, {"name": name, "value": prose(rng, 2)}, answer)
    return scene


def long_work(rng: random.Random) -> Scene:
    """Nothing but work, with a file read twice and an error here and there."""
    scene = Scene(rng)
    known = [(path(rng), prose(rng)) for _ in range(3)]
    for _ in range(rng.randint(4, 8)):
        work(scene, rng.randint(1, 4))
        if rng.random() < 0.5:
            name, text = rng.choice(known)
            scene.act("read_file", {"path": name}, text)
        if rng.random() < 0.3:
            tool, arguments = _some_call(rng)
            scene.act(tool, arguments, error=_error(rng, PLAIN_ERRORS)())
    return scene


LOOPS = {
    "identical": (same_error, noisy_error, same_answer),
    "near_identical": (guessed_names, reworded_search),
    "alternating": (taking_turns,),
    "ping_pong": (ping_pong,),
    "stuck_state": (no_way_out, edits_without_effect),
}
WORK = (
    poll_progress,
    poll_elapsed,
    pages_by_offset,
    backs_off,
    other_words,
    many_files,
    edit_and_test,
    two_at_work,
    fan_out_429,
    pipeline,
    many_small_acts,
    long_work,
)
