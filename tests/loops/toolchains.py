"""Compilers, tests, linters, version control and editors, whose line numbers drift while one works."""

import random

from loops.family import Families
from loops.made_up import go_round, name, names, phrase, token
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()


def _edit(scene: Scene, rng: random.Random, path: str) -> None:
    old, new = phrase(rng, 4), phrase(rng, 5)
    said = rng.choice(("The file {p} has been edited.", "Applied 1 hunk to {p}", "Edited {p} (+{a} -{b})"))
    scene.act(
        "edit",
        {"path": path, "old_string": f"    {old}", "new_string": f"    {new}"},
        said.format(p=path, a=rng.randint(1, 6), b=rng.randint(1, 6)),
    )


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("stuck_state")
def assertion_as_before(scene: Scene, rng: random.Random) -> None:
    """Another edit, the same assertion: only its line and the time it took are others."""
    path, test = f"src/{name(rng).lower()}.py", f"test_{name(rng).lower()}"
    line, want, got = rng.randint(20, 90), rng.randint(10, 99), rng.randint(100, 999)
    scene.act("read_file", {"path": path}, f"def total(rows):\n    # {phrase(rng, 9)}\n    return sum(rows)")

    def body(_: int) -> None:
        nonlocal line
        _edit(scene, rng, path)
        line += rng.randint(1, 4)
        scene.act(
            "bash",
            {"command": f"pytest -q tests/{test}.py"},
            f"F{'.' * 11}                                   [100%]\n=== FAILURES ===\n___ {test} ___\n>       assert total(rows) == {want}\nE       assert {got} == {want}\ntests/{test}.py:{line}: AssertionError\n1 failed, 11 passed in {rng.uniform(0.1, 3):.2f}s",
        )

    go_round(scene, 8, 3, body)


@FAMILIES.loop("stuck_state")
def types_as_before(scene: Scene, rng: random.Random) -> None:
    """A type checker that complains of the same two things after each edit, some lines further down."""
    path = f"app/{name(rng).lower()}.py"
    line = rng.randint(30, 60)

    def body(_: int) -> None:
        nonlocal line
        _edit(scene, rng, path)
        line += rng.choice((-2, 1, 2, 3))
        scene.act(
            "run",
            {"cmd": "mypy --strict app"},
            f'{path}:{line}: error: Argument 1 to "load" has incompatible type "str | None"; expected "str"  [arg-type]\n{path}:{line + 9}: error: Item "None" of "Match[str] | None" has no attribute "group"  [union-attr]\nFound 2 errors in 1 file (checked 41 source files)',
        )

    go_round(scene, 8, 3, body)


@FAMILIES.loop("stuck_state")
def borrow_as_before(scene: Scene, rng: random.Random) -> None:
    """A borrow checker that is never content."""
    line = rng.randint(40, 90)
    var = name(rng, 2).lower()

    def body(_: int) -> None:
        nonlocal line
        _edit(scene, rng, "src/lib.rs")
        line += rng.randint(0, 3)
        scene.act(
            "shell",
            {"command": "cargo build 2>&1"},
            f"   Compiling {var}-core v0.3.1 (/work/{var})\nerror[E0502]: cannot borrow `{var}` as mutable because it is also borrowed as immutable\n  --> src/lib.rs:{line}:13\n   |\n{line} |     {var}.push(next);\n   |     ^^^^ mutable borrow occurs here\nerror: could not compile `{var}-core` (lib) due to 1 previous error",
        )

    go_round(scene, 8, 3, body)


@FAMILIES.loop("alternating")
def this_way_that_way(scene: Scene, rng: random.Random) -> None:
    """One line is changed and changed back."""
    path = f"src/{name(rng).lower()}.ts"
    one, other = phrase(rng, 4), phrase(rng, 4)
    said = f"{path} updated. 1 replacement."

    def body(_: int) -> None:
        scene.act("str_replace", {"file": path, "find": one, "replace": other}, said)
        scene.act("str_replace", {"file": path, "find": other, "replace": one}, said)

    go_round(scene, 5, 1, body)


@FAMILIES.loop("stuck_state")
def read_once_more(scene: Scene, rng: random.Random) -> None:
    """The same three files in turn."""
    files = [f"docs/{name(rng).lower()}.md" for _ in range(3)]
    texts = [phrase(rng, 40) for _ in range(3)]
    for path, text in zip(files, texts, strict=True):
        scene.act("read_file", {"path": path}, text)
    scene.act("grep", {"pattern": name(rng)}, f"{files[0]}:3: {phrase(rng, 5)}")

    def body(_: int) -> None:
        for path, text in zip(files, texts, strict=True):
            scene.act("read_file", {"path": path}, text)

    go_round(scene, 5, 1, body)


@FAMILIES.loop("alternating")
def lint_errors_swing(scene: Scene, rng: random.Random) -> None:
    """Mending one rule breaks the other: three complaints, five complaints, three, five."""
    path = f"web/{name(rng).lower()}.js"

    def body(_: int) -> None:
        scene.act("write_rule_fix", {"path": path, "quotes": "single"}, f"rewrote {path} in {rng.uniform(1, 9):.1f} ms")
        scene.act("eslint", {"path": path}, f"{path}\n  ✖ 3 problems (3 errors, 0 warnings)  jsx-quotes")
        scene.act("write_rule_fix", {"path": path, "quotes": "double"}, f"rewrote {path} in {rng.uniform(1, 9):.1f} ms")
        scene.act("eslint", {"path": path}, f"{path}\n  ✖ 5 problems (5 errors, 0 warnings)  quotes")

    go_round(scene, 4, 1, body)


@FAMILIES.loop("alternating")
def conflict_every_time(scene: Scene, rng: random.Random) -> None:
    """Aborted and begun again, with the same conflict."""
    path = f"src/{name(rng).lower()}.go"
    subject = phrase(rng, 4)
    mine = fill("<hex>", rng)[:7]

    def body(_: int) -> None:
        scene.act(
            "git",
            {"args": "rebase origin/main"},
            f"Auto-merging {path}\nCONFLICT (content): Merge conflict in {path}\nerror: could not apply {mine}... {subject}\nhint: Resolve all conflicts manually",
        )
        scene.act("git", {"args": "rebase --abort"}, "")

    go_round(scene, 6, 1, body)


@FAMILIES.loop("near_identical")
def install_with_other_flags(scene: Scene, rng: random.Random) -> None:
    """The same unresolvable dependency, whatever flag is tried; the log file's name has the time."""
    package = name(rng).lower()
    flags = ["", " --force", " --verbose", " --no-audit", " --prefer-offline", " --no-fund", " --save-exact", " -D", ""]

    def body(index: int) -> None:
        log = f"/root/.npm/_logs/2026-11-{rng.randint(10, 26)}T{rng.randint(10, 20)}_{rng.randint(10, 59)}_{rng.randint(10, 59)}_{rng.randint(100, 999)}Z-debug-0.log"
        scene.act(
            "bash",
            {"command": f"npm install {package}{flags[index]}"},
            error=f"npm error code E404\nnpm error 404 Not Found - GET https://registry.npmjs.org/{package} - Not found\nnpm error 404  '{package}@*' is not in this registry.\nnpm error A complete log of this run can be found in: {log}",
            error_type="ExitCode",
        )

    go_round(scene, 9, 3, body)


@FAMILIES.loop("near_identical")
def plan_written_again(scene: Scene, rng: random.Random) -> None:
    """The same plan in slightly other words, and nothing done about it."""
    items = [phrase(rng, 5) for _ in range(4)]

    def body(_: int) -> None:
        plan = [" ".join(rng.sample(item.split(), 5)) if rng.random() < 0.3 else item for item in items]
        scene.act(
            "todo_write",
            {"todos": [{"content": item, "status": "pending"} for item in plan]},
            "Todos have been modified successfully. Ensure that you continue to use the list to track your progress.",
        )

    go_round(scene, 8, 3, body)


@FAMILIES.loop("identical")
def hunk_is_rejected(scene: Scene, rng: random.Random) -> None:
    """One patch, refused at the same place; the reject file has a new name."""
    path = f"lib/{name(rng).lower()}.c"
    diff = f"--- a/{path}\n+++ b/{path}\n@@ -10,3 +10,3 @@\n-{phrase(rng, 5)}\n+{phrase(rng, 5)}"

    def body(_: int) -> None:
        scene.act(
            "apply_patch",
            {"patch": diff},
            f"patching file {path}\nHunk #1 FAILED at 10.\n1 out of 1 hunk FAILED -- saving rejects to file /tmp/rej.{token(rng, 6)}/x.rej",
        )

    go_round(scene, 7, 2, body)


@FAMILIES.loop("stuck_state")
def server_will_not_start(scene: Scene, rng: random.Random) -> None:
    """A port is in use, whatever is killed."""
    port = rng.choice((3000, 8080, 5173))

    def body(_: int) -> None:
        pid = rng.randint(300, 32000)
        scene.act("bash", {"command": f"kill -9 {pid}"}, "")
        scene.act(
            "bash",
            {"command": "npm run dev"},
            f"> vite\nError: listen EADDRINUSE: address already in use :::{port}\n    at Server.setupListenHandle [as _listen2] (node:net:1{rng.randint(100, 999)}:16)\nNode.js v22.1.0",
        )

    go_round(scene, 8, 3, body)


@FAMILIES.loop("alternating")
def stash_and_pop(scene: Scene, rng: random.Random) -> None:
    """Status, stash, pop: the same three again."""
    path = f"src/{name(rng).lower()}.kt"

    def body(_: int) -> None:
        scene.act("git", {"args": ["status", "--short"]}, f" M {path}")
        scene.act(
            "git",
            {"args": ["stash"]},
            f"Saved working directory and index state WIP on main: {fill('<hex>', rng)[:7]} wip",
        )
        scene.act("git", {"args": ["stash", "pop"]}, f"On branch main\nDropped refs/stash@{{0}} ({fill('<hex>', rng)})")

    go_round(scene, 5, 1, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def bad_commit_bisected(scene: Scene, rng: random.Random) -> None:
    """The same test at commit after commit; most of them fail in the same way."""
    left = rng.choice((64, 128))
    scene.act("bash", {"command": "git bisect start HEAD v1.2"}, f"Bisecting: {left} revisions left to test after this")
    while left:
        verdict = rng.choice(("bad", "bad", "good"))
        scene.act(
            "bash",
            {"command": "make check"},
            "FAIL: parser rejects trailing comma\nmake: *** [Makefile:12: check] Error 1"
            if verdict == "bad"
            else "all 12 checks passed",
        )
        left //= 2
        scene.act(
            "bash",
            {"command": f"git bisect {verdict}"},
            f"Bisecting: {left} revisions left to test after this (roughly {left.bit_length()} steps)\n[{fill('<hex>', rng)}] {phrase(rng, 5)}",
        )


@FAMILIES.honest
def fewer_failures(scene: Scene, rng: random.Random) -> None:
    """Edits, tests, one failure less each time; sometimes two edits to one test run."""
    failed = rng.randint(6, 9)
    total = 40
    while failed >= 0:
        path = f"src/{name(rng).lower()}.py"
        for _ in range(rng.randint(1, 2)):
            _edit(scene, rng, path)
        scene.act(
            "bash",
            {"command": "pytest -q"},
            f"{failed} failed, {total - failed} passed in {rng.uniform(2, 9):.2f}s"
            if failed
            else f"{total} passed in 3.10s",
        )
        failed -= 1


@FAMILIES.honest
def errors_elsewhere(scene: Scene, rng: random.Random) -> None:
    """As many errors as before, but others: mending one uncovers the next."""
    for _ in range(rng.randint(6, 8)):
        path, attribute = f"app/{name(rng).lower()}.py", name(rng).lower()
        _edit(scene, rng, path)
        scene.act(
            "run",
            {"cmd": "mypy app"},
            f'{path}:{rng.randint(5, 200)}: error: "{name(rng)}" has no attribute "{attribute}"  [attr-defined]\nFound 1 error in 1 file (checked 41 source files)',
        )


@FAMILIES.honest
def small_steps_in_one_file(scene: Scene, rng: random.Random) -> None:
    """A long file is edited in many small steps; each is acknowledged in the same words."""
    path = f"book/{name(rng).lower()}.md"
    for _ in range(rng.randint(9, 14)):
        scene.act(
            "insert_text",
            {"path": path, "line": rng.randint(1, 400), "text": phrase(rng, rng.randint(6, 14))},
            "The file has been edited successfully.",
        )


@FAMILIES.honest
def files_formatted(scene: Scene, rng: random.Random) -> None:
    """One file after the other, each left unchanged or reformatted."""
    for path in names(rng, 10):
        scene.act(
            "bash",
            {"command": f"black src/{path.lower()}.py"},
            rng.choice(("All done! ✨ 🍰 ✨\n1 file left unchanged.", "All done! ✨ 🍰 ✨\n1 file reformatted.")),
        )


@FAMILIES.honest
def bug_understood(scene: Scene, rng: random.Random) -> None:
    """The test fails alike three times; other files are read in between; then it passes."""
    test = name(rng).lower()
    for _ in range(3):
        scene.act(
            "bash",
            {"command": f"go test ./{test}/..."},
            f"--- FAIL: TestRetry (0.{rng.randint(10, 99)}s)\n    retry_test.go:41: got 3 calls, want 2\nFAIL",
        )
        for _ in range(rng.randint(1, 3)):
            scene.act("open", {"path": f"{test}/{name(rng).lower()}.go"}, phrase(rng, 25))
        _edit(scene, rng, f"{test}/retry.go")
    scene.act("bash", {"command": f"go test ./{test}/..."}, f"ok  \texample.com/{test}\t0.{rng.randint(10, 99)}s")


@FAMILIES.honest
def limit_sought(scene: Scene, rng: random.Random) -> None:
    """A number is halved until it is known how much fits."""
    low, high, fits = 1, 4096, rng.randint(100, 4000)
    while high - low > 16:
        middle = (low + high) // 2
        scene.act(
            "load_test",
            {"connections": middle},
            "FAILED: p99 above 500 ms" if middle > fits else "PASSED: p99 below 500 ms",
        )
        low, high = (low, middle) if middle > fits else (middle, high)


@FAMILIES.honest
def loss_gets_smaller(scene: Scene, rng: random.Random) -> None:
    """Learning rates are tried; the loss swings, and gets better on the whole."""
    loss = rng.uniform(2, 4)
    for epoch in range(9):
        loss *= rng.choice((0.8, 0.9, 1.05))
        scene.act(
            "train",
            {"lr": round(10 ** rng.uniform(-5, -2), 6), "epochs": 1},
            f"epoch 1/1 - loss: {loss:.4f} - val_loss: {loss * 1.1:.4f} - checkpoint ckpt_{epoch}.pt",
        )


@FAMILIES.honest
def warnings_everywhere(scene: Scene, rng: random.Random) -> None:
    """One module after the other is compiled, always with the same warning of a header."""
    for unit in names(rng, 9):
        scene.act(
            "shell",
            {"command": f"gcc -c src/{unit.lower()}.c -o build/{unit.lower()}.o"},
            "In file included from include/config.h:3:\ninclude/compat.h:88:9: warning: 'NDEBUG' redefined\n   88 | #define NDEBUG 1\n      |         ^~~~~~",
        )


@FAMILIES.honest
def log_tailed(scene: Scene, rng: random.Random) -> None:
    """The end of a log, with new lines each time, in the same form."""
    served = rng.randint(100, 400)
    for _ in range(rng.randint(7, 10)):
        served += rng.randint(2, 30)
        lines = "\n".join(
            fill(f"<time> INFO worker-{rng.randint(1, 4)} handled order {served + n} in <ms>", rng) for n in range(3)
        )
        scene.act("bash", {"command": "tail -n 3 /var/log/app/worker.log"}, lines)


@FAMILIES.honest
def branches_rebased(scene: Scene, rng: random.Random) -> None:
    """One branch after the other: checkout, rebase, push."""
    for branch in names(rng, 5):
        scene.act("git", {"args": f"checkout {branch.lower()}"}, f"Switched to branch '{branch.lower()}'")
        scene.act(
            "git", {"args": "rebase origin/main"}, f"Successfully rebased and updated refs/heads/{branch.lower()}."
        )
        scene.act(
            "git",
            {"args": "push --force-with-lease"},
            f"+ {fill('<hex>', rng)[:7]}...{fill('<hex>', rng)[:7]} {branch.lower()} -> {branch.lower()} (forced update)",
        )


@FAMILIES.honest
def commits_and_tests(scene: Scene, rng: random.Random) -> None:
    """Small commits, each followed by tests that pass with the same words."""
    for _ in range(7):
        _edit(scene, rng, f"src/{name(rng).lower()}.py")
        scene.act("bash", {"command": "pytest -q"}, f"128 passed in {rng.uniform(3, 5):.2f}s")
        scene.act(
            "bash",
            {"command": f"git commit -am '{phrase(rng, 4)}'"},
            f"[main {fill('<hex>', rng)[:7]}] {phrase(rng, 4)}\n 1 file changed, {rng.randint(1, 9)} insertions(+)",
        )
