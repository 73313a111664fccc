"""Agents that write software, with other editors, languages and crews than the sets before."""

import json
import random

from loops.family import Families
from loops.made_up import form, go_round, name, names, phrase, prelude, record, token
from loops.noise import commit as commit_id
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()


def _path(rng: random.Random) -> str:
    return f"{name(rng, 2).lower()}/{name(rng).lower()}.{rng.choice(('rs', 'go', 'kt', 'ts', 'rb', 'ex'))}"


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("near_identical")
def snippet_not_there(scene: Scene, rng: random.Random) -> None:
    """Text to be replaced, with other blanks each time; it is not in the file so."""
    prelude(scene)
    path, words = _path(rng), phrase(rng, 7).split()

    def body(index: int) -> None:
        old = rng.choice((" ", "  ", "\n    ", "\t")).join(words) + rng.choice(("", ";", " {", ","))
        said = f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}."
        what = {"command": "str_replace", "path": path, "old_str": old, "new_str": phrase(rng, 5)}
        scene.act("str_replace_editor", what, error=said, error_type="ToolError")

    go_round(scene, 9, 3, body)


@FAMILIES.loop("stuck_state")
def same_test_red(scene: Scene, rng: random.Random) -> None:
    """Another edit each time, and the same test is red in the same way; only the time differs."""
    prelude(scene)
    path, test, left = _path(rng), name(rng), rng.randint(2, 99)

    def body(_: int) -> None:
        scene.act("edit", {"file": path, "line": rng.randint(1, 200), "text": phrase(rng, 6)}, "[File updated]")
        said = f"--- FAIL: Test{test} ({rng.uniform(0, 2):.2f}s)\n    got {left}, want {left + 1}\nFAIL\texit status 1"
        scene.act("bash", {"cmd": "go test ./..."}, said)

    go_round(scene, 7, 3, body)


@FAMILIES.loop("near_identical")
def built_with_other_flags(scene: Scene, rng: random.Random) -> None:
    """Another flag for the compiler, the same error."""
    prelude(scene)
    path, line = _path(rng), rng.randint(10, 300)
    flags = ["", "--release", "--verbose", "-j1", "--all-features", "--locked", "--offline", "--workspace", "-q"]
    rng.shuffle(flags)
    said = (
        f"error[E0382]: borrow of moved value: `{name(rng).lower()}`\n  --> {path}:{line}:9\nerror: could not compile"
    )
    go_round(scene, 9, 3, lambda i: scene.act("shell", {"command": f"cargo build {flags[i]}".strip()}, error=said))


@FAMILIES.loop("alternating")
def formatters_quarrel(scene: Scene, rng: random.Random) -> None:
    """One formatter changes what the other has changed."""
    prelude(scene)
    path = _path(rng)

    def body(_: int) -> None:
        scene.act("run", {"cmd": f"fmt-a {path}"}, f"reformatted {path}\n1 file changed", commit=commit_id(rng))
        scene.act("run", {"cmd": f"lint-b --fix {path}"}, f"fixed 3 problems in {path}", commit=commit_id(rng))

    go_round(scene, 6, 2, body)


@FAMILIES.loop("stuck_state")
def language_server_sleeps(scene: Scene, rng: random.Random) -> None:
    """Whatever is asked of the language server, it is not there."""
    prelude(scene)
    said = {"code": -32002, "message": "Server not initialized"}

    def body(_: int) -> None:
        tool = rng.choice(("definition", "hover", "references", "rename", "symbols", "completion"))
        scene.act(tool, {"file": _path(rng), "line": rng.randint(1, 300)}, json.dumps({"error": said}))

    go_round(scene, 10, 3, body)


@FAMILIES.loop("near_identical")
def globs_in_vain(scene: Scene, rng: random.Random) -> None:
    """One file sought with one pattern after the other."""
    prelude(scene)
    base = name(rng).lower()
    globs = [f"**/{base}*", f"**/*{base}*", f"*{base}*", f"**/{base}.*", f"src/**/{base}*", f"./**/{base}*",
             f"**/{base}.py", f"**/{base}s*", f"**/{base.upper()}*"]  # fmt: skip
    rng.shuffle(globs)
    said = rng.choice(("No files matched.", "[]", "find: 0 results", ""))
    go_round(scene, 9, 3, lambda index: scene.act("glob", {"pattern": globs[index]}, said))


@FAMILIES.loop("alternating")
def submit_and_commit(scene: Scene, rng: random.Random) -> None:
    """Submit: there are changes that are not committed. Commit: there is nothing to commit."""
    prelude(scene)

    def body(_: int) -> None:
        scene.act(
            "submit", {}, error="Working tree has uncommitted changes; commit them first.", error_type="SubmitError"
        )
        scene.act("bash", {"cmd": "git commit -am wip"}, "On branch main\nnothing to commit, working tree clean")

    go_round(scene, 5, 1, body)


@FAMILIES.loop("near_identical")
def thoughts_in_circles(scene: Scene, rng: random.Random) -> None:
    """A tool to think with, and the same thought in other words."""
    prelude(scene)
    words = phrase(rng, 16).split()

    def body(_: int) -> None:
        mine = list(words)
        mine[rng.randrange(len(mine))] = name(rng, 2).lower()
        scene.act("think", {"thought": " ".join(mine)}, "Your thought has been logged.")

    go_round(scene, 9, 3, body)


@FAMILIES.loop("identical")
def output_cut_off(scene: Scene, rng: random.Random) -> None:
    """The same command again, because its output is cut off in the same place."""
    prelude(scene)
    said = f"{phrase(rng, 40)}\n<response clipped><NOTE>{phrase(rng, 6)}</NOTE>"
    go_round(scene, 7, 2, lambda _: scene.act("execute_bash", {"command": "make -C build all 2>&1"}, said))


@FAMILIES.loop("alternating")
def edited_and_undone(scene: Scene, rng: random.Random) -> None:
    """An edit, and it is taken back."""
    prelude(scene)
    path, old, new = _path(rng), phrase(rng, 4), phrase(rng, 4)

    def body(_: int) -> None:
        scene.act("edit", {"path": path, "old": old, "new": new}, f"The file {path} has been edited.")
        scene.act("undo_edit", {"path": path}, f"Last edit to {path} undone successfully.")

    go_round(scene, 5, 1, body)


@FAMILIES.loop("alternating")
def installed_but_missing(scene: Scene, rng: random.Random) -> None:
    """The module is missing, it is installed already, it is missing."""
    prelude(scene)
    module = name(rng).lower()

    def body(_: int) -> None:
        said = f"Traceback (most recent call last):\n  File \"main.py\", line 3\nModuleNotFoundError: No module named '{module}'"
        scene.act("run_python", {"file": "main.py"}, said)
        scene.act("bash", {"cmd": f"pip install {module}"}, f"Requirement already satisfied: {module} (2.0.1)")

    go_round(scene, 5, 1, body)


@FAMILIES.loop("near_identical")
def file_exists(scene: Scene, rng: random.Random) -> None:
    """A file is to be made with another text each time, and is there already."""
    prelude(scene)
    path = _path(rng)
    said = f"File already exists at: {path}. Cannot overwrite files using command `create`."
    go_round(scene, 9, 3, lambda _: scene.act("create", {"path": path, "file_text": phrase(rng, 12)}, error=said))


@FAMILIES.loop("ping_pong")
def planner_and_coder(scene: Scene, rng: random.Random) -> None:
    """The planner asks the coder, who asks the planner; the words change, the matter does not."""
    matter = phrase(rng, 6)
    says = ["Please decide {}.", "I need to know {}.", "Could you settle {}?", "It is for you to settle {}.", "So: {}?"]

    def body(index: int) -> None:
        mine, other, step = ("planner", "coder", "p") if index % 2 == 0 else ("coder", "planner", "c")
        text = rng.choice(says).format(matter)
        scene.act("handoff", {"to": other, "message": text}, "handed over", step=step, role=mine)

    go_round(scene, 10, 3, body)


@FAMILIES.loop("ping_pong")
def three_of_a_crew(scene: Scene, rng: random.Random) -> None:
    """Writer, tester and reviewer pass one slice round, each with a look in between that shows the same."""
    crew, matter = ["writer", "tester", "reviewer"], phrase(rng, 6)
    shown = phrase(rng, 10)

    def body(index: int) -> None:
        mine, other = crew[index % 3], crew[(index + 1) % 3]
        scene.act("read_file", {"path": "slice.md"}, shown, step=f"s{index % 3}", role=mine)
        scene.act("assign_to", {"agent": other, "instruction": matter}, "assigned", step=f"s{index % 3}", role=mine)

    go_round(scene, 10, 5, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def more_and_more_green(scene: Scene, rng: random.Random) -> None:
    """Edit, test: more tests pass each time; now and then as many as before."""
    prelude(scene)
    total, passed = rng.randint(20, 60), rng.randint(2, 9)
    while passed < total and len(scene.calls) < 20:
        scene.act("edit", {"file": _path(rng), "text": phrase(rng, 6)}, "[File updated]")
        scene.act("bash", {"cmd": "npm test"}, f"Tests: {total - passed} failed, {passed} passed, {total} total")
        passed = min(total, passed + rng.choice((0, 3, 6, 9)))


@FAMILIES.honest
def compiler_goes_on(scene: Scene, rng: random.Random) -> None:
    """The compiler's first error, mended, and then its next."""
    prelude(scene)
    path = _path(rng)
    for line in sorted(rng.sample(range(10, 400), rng.randint(5, 7))):
        said = f"error[E0308]: mismatched types\n  --> {path}:{line}:13\nerror: aborting due to 1 previous error"
        scene.act("shell", {"command": "cargo check"}, error=said)
        scene.act("edit", {"path": path, "line": line, "new": phrase(rng, 4)}, "ok")
    scene.act("shell", {"command": "cargo check"}, f"Finished in {rng.uniform(1, 9):.1f}s")


@FAMILIES.honest
def windows_of_a_file(scene: Scene, rng: random.Random) -> None:
    """A file read by windows, going on and back."""
    prelude(scene)
    path = _path(rng)
    for start in range(0, rng.randint(500, 900), 100):
        lines = "\n".join(f"{start + step:6}\t{phrase(rng, 4)}" for step in range(1, 6))
        scene.act("open", {"path": path, "line": start}, f"[File: {path} (1204 lines total)]\n{lines}")


@FAMILIES.honest
def symbols_sought(scene: Scene, rng: random.Random) -> None:
    """Symbol after symbol; some are used nowhere, and are struck out."""
    for _ in range(rng.randint(6, 9)):
        symbol = name(rng)
        used = rng.random() < 0.4
        hits = "\n".join(f"{_path(rng)}:{rng.randint(1, 99)}: {symbol}({phrase(rng, 2)})" for _ in range(3))
        scene.act("search_symbol", {"symbol": symbol}, hits if used else f"No references found for {symbol}")
        if not used:
            scene.act("delete_symbol", {"symbol": symbol}, f"removed {rng.randint(3, 40)} lines")


@FAMILIES.honest
def bad_commit_sought(scene: Scene, rng: random.Random) -> None:
    """A bisection with one script: checked out by hash, run, and the verdict is often the same."""
    prelude(scene)
    left = rng.choice((64, 128))
    while left > 1:
        left //= 2
        scene.act("git_checkout", {"rev": commit_id(rng)[:10]}, f"HEAD is now at {token(rng, 7)} {phrase(rng, 3)}")
        said = rng.choice(
            ("REPRODUCED: deadlock after 3 requests", "REPRODUCED: deadlock after 3 requests", "clean run")
        )
        scene.act("bash", {"cmd": "./repro.sh"}, said)


@FAMILIES.honest
def packages_raised(scene: Scene, rng: random.Random) -> None:
    """Package after package is raised; the tests say the same each time."""
    for package in names(rng, rng.randint(5, 8)):
        version = f"{rng.randint(1, 9)}.{rng.randint(0, 20)}.0"
        scene.act(
            "upgrade",
            {"package": package.lower(), "to": version},
            f"{package.lower()} -> {version}",
            commit=commit_id(rng),
        )
        scene.act("bash", {"cmd": "mix test"}, f"84 tests, 0 failures (finished in {rng.uniform(1, 9):.2f} seconds)")


@FAMILIES.honest
def files_renamed(scene: Scene, rng: random.Random) -> None:
    """File after file gets another name."""
    prelude(scene)
    for _ in range(rng.randint(8, 13)):
        scene.act(
            "rename",
            {"from": _path(rng), "to": _path(rng)},
            rng.choice(("renamed", "renamed", "renamed (2 imports updated)")),
        )


@FAMILIES.honest
def measured_five_times(scene: Scene, rng: random.Random) -> None:
    """A benchmark is run a few times, and then again after a change."""
    for _ in range(2):
        for _ in range(rng.randint(3, 5)):
            allocs = rng.randint(12, 19)
            said = f"BenchmarkDecode-8  {rng.randint(9000, 9999)} {rng.randint(100, 160)} ns/op {allocs} allocs/op"
            scene.act("bash", {"cmd": "go test -bench Decode"}, said)
        scene.act("edit", {"file": _path(rng), "text": phrase(rng, 5)}, "[File updated]")


@FAMILIES.honest
def now_green_now_red(scene: Scene, rng: random.Random) -> None:
    """A test that fails now and then, run to see how often."""
    prelude(scene)
    outcomes = ["ok  pkg/queue", "FAIL pkg/queue: race detected", "ok  pkg/queue", "ok  pkg/queue",
                "FAIL pkg/queue: race detected"]  # fmt: skip
    for said in outcomes:
        scene.act("bash", {"cmd": "go test -race ./pkg/queue"}, f"{said} {rng.uniform(1, 4):.3f}s")
    scene.act("edit", {"file": _path(rng), "text": phrase(rng, 5)}, "[File updated]")
    scene.act("bash", {"cmd": "go test -race -count=20 ./pkg/queue"}, "ok  pkg/queue 31.2s")


@FAMILIES.honest
def headers_put_in(scene: Scene, rng: random.Random) -> None:
    """The same lines at the head of file after file; each a commit."""
    prelude(scene)
    for _ in range(rng.randint(7, 11)):
        what = {"path": _path(rng), "line": 0, "text": "// SPDX-License-Identifier: MIT"}
        scene.act("insert", what, "The file has been edited.", commit=commit_id(rng))


@FAMILIES.honest
def review_written(scene: Scene, rng: random.Random) -> None:
    """Comment after comment on one change."""
    prelude(scene)
    path = _path(rng)
    for line in sorted(rng.sample(range(1, 200), rng.randint(7, 10))):
        scene.act("post_comment", {"pr": 214, "path": path, "line": line, "body": phrase(rng, 8)}, "Comment posted.")


@FAMILIES.honest
def crew_at_many_tickets(scene: Scene, rng: random.Random) -> None:
    """Ticket after ticket goes from the planner to the coder and back, done."""
    for _ in range(rng.randint(4, 6)):
        ticket = phrase(rng, 6)
        scene.act("handoff", {"to": "coder", "message": ticket}, "handed over", step="p", role="planner")
        scene.act("edit", {"file": _path(rng), "text": phrase(rng, 5)}, phrase(rng, 4), step="c", role="coder")
        scene.act("handoff", {"to": "planner", "message": f"done: {ticket}"}, "handed over", step="c", role="coder")


@FAMILIES.honest
def hypotheses(scene: Scene, rng: random.Random) -> None:
    """A tool to think with, between looks; each thought is another."""
    for _ in range(rng.randint(4, 6)):
        scene.act("think", {"thought": phrase(rng, 14)}, "Your thought has been logged.")
        scene.act("read_file", {"path": _path(rng)}, phrase(rng, 25))


@FAMILIES.honest
def endpoints_mended(scene: Scene, rng: random.Random) -> None:
    """The same curl after each change; the answer is another mistake, then right."""
    prelude(scene)
    writes = form(rng)
    for code in rng.sample((400, 401, 404, 405, 415, 422, 500), rng.randint(4, 6)):
        scene.act(
            "bash", {"cmd": "curl -si localhost:8000/items"}, f"HTTP/1.1 {code}\n\n{writes({'detail': phrase(rng, 3)})}"
        )
        scene.act("edit", {"file": _path(rng), "text": phrase(rng, 5)}, "[File updated]")
    scene.act("bash", {"cmd": "curl -si localhost:8000/items"}, f"HTTP/1.1 200\n\n{writes(record(rng))}")


@FAMILIES.honest
def doors_one_by_one(scene: Scene, rng: random.Random) -> None:
    """The first objects of a list are refused, the later ones answer."""
    prelude(scene)
    for index in range(rng.randint(8, 10)):
        repo = f"{name(rng).lower()}/{name(rng).lower()}"
        if index < rng.randint(3, 5):
            said = f"You do not have access to {repo} (request {fill('<hex>', rng)})"
            scene.act("list_branches", {"repository": repo}, error=said, error_type="Forbidden")
        else:
            scene.act("list_branches", {"repository": repo}, "\n".join(names(rng, 4)))
