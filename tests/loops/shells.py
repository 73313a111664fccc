"""Transcripts of a shell and an editor: tests, packages, git, compilers, patches."""

import random

from loops.family import Families
from loops.noise import commit, fill, listed
from loops.scene import Scene

FAMILIES = Families()
PACKAGES = listed("httpx pillow celery lxml psycopg pandas shapely pyarrow uvloop orjson numba scipy regex torch")
FUNCTIONS = listed(
    "parse_header load_config merge_rows open_session read_frame build_index plan_route encode_body hash_key trim_line"
)
FILES = listed(
    "app/server.py app/routes.py core/cache.py core/engine.py lib/codec.py lib/frames.py cli/main.py jobs/sync.py"
)
LINES = listed(
    "timeout buffer header socket cursor offset socket_options payload window anchor digest cluster shard replica "
    "lease backlog quorum ledger signal beacon filter bucket mirror packet vector tensor"
)


def code(rng: random.Random, lines: int = 6, first: int = 1) -> str:
    """Lines of a file as an editor shows them."""
    return "\n".join(
        f"{first + n:6}\t{rng.choice(LINES)} = {rng.choice(FUNCTIONS)}({rng.choice(LINES)}, {rng.randint(1, 99)})"
        for n in range(lines)
    )


def look_round(scene: Scene, most: int = 5) -> None:
    """A few calls that get on."""
    rng = scene.rng
    for _ in range(rng.randint(0, most)):
        name = rng.choice(FILES)
        how = rng.randint(0, 2)
        if how == 0:
            first = rng.randint(1, 900)
            scene.act("bash", {"command": f"sed -n '{first},{first + 5}p' {name}"}, code(rng, first=first))
        elif how == 1:
            word = f"{rng.choice(FUNCTIONS)}_{rng.randint(1, 999)}"
            scene.act("bash", {"command": f"rg -n {word}"}, f"{name}:{rng.randint(1, 900)}:def {word}(self):")
        else:
            scene.act("bash", {"command": f"wc -l {name} # {rng.randint(1, 9999)}"}, f"{rng.randint(9, 4000)} {name}")


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def pytest_again(scene: Scene, rng: random.Random) -> None:
    """The tests are run again and again, and nothing was changed."""
    look_round(scene)
    name, left, right = rng.choice(FUNCTIONS), rng.randint(1, 50), rng.randint(51, 99)
    command = rng.choice((f"pytest -x tests/test_{name}.py", "python -m pytest -q", "make test"))
    scene.loop_begins()
    for index in range(rng.randint(7, 10)):
        text = (
            "============================= test session starts ==============================\n"
            f"platform linux -- Python 3.12.4, pytest-8.3.2\nrootdir: /tmp/pytest-of-root/pytest-{rng.randint(1, 900)}\n"
            f"tests/test_{name}.py F\n>       assert {left} == {right}\nE       assert {left} == {right}\n"
            f"tests/test_{name}.py:{left}: AssertionError\n"
            f"========================= 1 failed, 11 passed in {rng.uniform(0.1, 4):.2f}s ========================="
        )
        scene.act("bash", {"command": command}, text)
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def pip_in_all_ways(scene: Scene, rng: random.Random) -> None:
    """A version that does not exist, asked for in many spellings."""
    look_round(scene, 3)
    package, version = rng.choice(PACKAGES), f"{rng.randint(30, 99)}.{rng.randint(0, 9)}"
    forms = [
        f"pip install {package}=={version}",
        f"pip install '{package}=={version}'",
        f"pip3 install {package}=={version}",
        f"python -m pip install {package}=={version}",
        f"pip install --user {package}=={version}",
        f"pip install -U {package}=={version}",
        f"pip install --no-cache-dir {package}=={version}",
        f"pip install {package}=={version} --quiet",
    ]
    rng.shuffle(forms)
    scene.loop_begins()
    for index, form in enumerate(forms):
        text = (
            f"ERROR: Could not find a version that satisfies the requirement {package}=={version} (from versions: 1.0)"
            f"\nERROR: No matching distribution found for {package}=={version}"
        )
        scene.act("bash", {"command": form}, text)
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def old_text_guessed(scene: Scene, rng: random.Random) -> None:
    """The text to replace is guessed, with other white space each time, and quoted in the error."""
    look_round(scene, 3)
    name, function = rng.choice(FILES), rng.choice(FUNCTIONS)
    scene.loop_begins()
    for index in range(rng.randint(7, 9)):
        old = f"def {function}(self):\n{' ' * (index + 2)}return self.{rng.choice(LINES)}"
        error = rng.choice(
            (
                f"No match found for old_str in {name}:\n```\n{old}\n```\nMake sure that it matches exactly.",
                f"No match found for old_str in {name}:\n```\n{old}\n```\nMake sure that it matches exactly.",
            )
        )
        scene.act("str_replace", {"path": name, "old_str": old, "new_str": f"def {function}(self): pass"}, error=error)
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def view_and_miss(scene: Scene, rng: random.Random) -> None:
    """The file is viewed, an edit misses, the file is viewed."""
    look_round(scene, 3)
    name, shown = rng.choice(FILES), code(rng, 8)
    scene.loop_begins()
    for index in range(5):
        scene.act("view", {"path": name}, shown)
        old = rng.choice((f"{rng.choice(LINES)} = None", f"return {rng.choice(LINES)}"))
        scene.act("edit", {"path": name, "old": old, "new": "pass"}, error=f"String to replace not found in {name}.")
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def hunks_that_fail(scene: Scene, rng: random.Random) -> None:
    """One patch after the other is refused."""
    look_round(scene, 3)
    name = rng.choice(FILES)
    scene.loop_begins()
    for index in range(rng.randint(8, 10)):
        patch = (
            f"--- a/{name}\n+++ b/{name}\n@@ -{index},3 +{index},4 @@\n-{rng.choice(LINES)}\n+{rng.choice(LINES)} = 1"
        )
        line = rng.randint(1, 300)
        scene.act(
            "apply_patch", {"patch": patch}, error=f"error: patch failed: {name}:{line}\nerror: {name}: does not apply"
        )
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def push_and_pull(scene: Scene, rng: random.Random) -> None:
    """Rejected, up to date, rejected."""
    look_round(scene, 3)
    old = fill("<hex>", rng)[:7]
    scene.loop_begins()
    for index in range(5):
        scene.act(
            "bash",
            {"command": "git push origin main"},
            f"To github.com:acme/app.git\n ! [rejected]        main -> main (non-fast-forward) {old}\n"
            "error: failed to push some refs to 'github.com:acme/app.git'",
        )
        scene.act("bash", {"command": "git pull --rebase"}, "Current branch main is up to date.")
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def cat_of_nowhere(scene: Scene, rng: random.Random) -> None:
    """A file that is not there, sought under many paths."""
    look_round(scene, 3)
    name = f"{rng.choice(LINES)}.yaml"
    ways = [
        name,
        f"./{name}",
        f"config/{name}",
        f"src/{name}",
        f"/app/{name}",
        f"conf/{name}",
        f"../{name}",
        f"etc/{name}",
    ]
    scene.loop_begins()
    for index, way in enumerate(ways):
        scene.act("bash", {"command": f"cat {way}"}, error=f"cat: {way}: No such file or directory")
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("identical")
def segmentation_fault(scene: Scene, rng: random.Random) -> None:
    """The program is started again; only addresses differ."""
    look_round(scene, 3)
    scene.loop_begins()
    for index in range(7):
        pid = rng.randint(1000, 60000)
        text = (
            f"=={pid}==ERROR: AddressSanitizer: SEGV on unknown address {fill('<address>', rng)} "
            f"(pc {fill('<address>', rng)} bp {fill('<address>', rng)} T0)\n"
            f"    #0 {fill('<address>', rng)} in main /src/main.c:41\n=={pid}==ABORTING"
        )
        scene.act("bash", {"command": "./build/app --selftest"}, error=text)
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("identical")
def image_build_again(scene: Scene, rng: random.Random) -> None:
    """The same image is built, the same layer fails."""
    look_round(scene, 3)
    scene.loop_begins()
    for index in range(7):
        text = (
            f"#1 [internal] load build definition\n#1 sha256:{fill('<hex>', rng)} DONE {rng.uniform(0, 1):.1f}s\n"
            f'#7 {rng.uniform(2, 60):.3f} npm error code ERESOLVE\n#7 ERROR: process "/bin/sh -c npm ci" did not '
            "complete successfully: exit code: 1"
        )
        scene.act("bash", {"command": "docker build -t app ."}, text)
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def not_permitted(scene: Scene, rng: random.Random) -> None:
    """Every way to write there is refused."""
    look_round(scene, 3)
    target = f"/etc/{rng.choice(LINES)}.conf"
    ways = [
        f"echo x > {target}",
        f"tee {target}",
        f"cp a {target}",
        f"mv a {target}",
        f"sed -i s/a/b/ {target}",
        f"install a {target}",
        f"touch {target}",
        f"truncate -s 0 {target}",
        f"python3 -c \"open('{target}','w')\"",
    ]
    rng.shuffle(ways)
    scene.loop_begins()
    for index, way in enumerate(ways):
        scene.act("bash", {"command": way}, f"{way.split()[0]}: {target}: Permission denied\n[exit code 1]")
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def fixes_that_fix_nothing(scene: Scene, rng: random.Random) -> None:
    """Edit after edit, each kept, and the same test fails in the same way."""
    look_round(scene, 3)
    name, function, commits = rng.choice(FILES), rng.choice(FUNCTIONS), rng.random() < 0.5
    scene.loop_begins()
    for index in range(8):
        scene.act(
            "str_replace",
            {"path": name, "old_str": code(rng, 1), "new_str": code(rng, 2)},
            f"The file {name} has been edited.",
            commit=commit(rng) if commits else None,
        )
        text = (
            f"FAILED tests/test_app.py::test_{function} - TypeError: {function}() missing 1 required positional argument"
            f"\n1 failed, 20 passed in {rng.uniform(0.2, 3):.2f}s"
        )
        scene.act("bash", {"command": "pytest -q"}, text)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def there_and_back(scene: Scene, rng: random.Random) -> None:
    """One spelling fails in one way, the other in another; back and forth."""
    look_round(scene, 3)
    name, one, other = rng.choice(FILES), rng.choice(FUNCTIONS), rng.choice(LINES)
    scene.loop_begins()
    for index in range(4):
        for before, after in ((one, other), (other, one)):
            scene.act("edit", {"file": name, "find": before, "replace": after}, "1 occurrence replaced")
            text = f"NameError: name '{after}' is not defined\n(took {rng.uniform(0.1, 2):.2f}s)"
            scene.act("bash", {"command": f"python {name}"}, error=text)
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def grep_in_vain(scene: Scene, rng: random.Random) -> None:
    """A word that is nowhere, sought with other flags."""
    look_round(scene, 3)
    word = f"{rng.choice(LINES)}_{rng.choice(LINES)}"
    forms = [
        f"rg {word}",
        f"rg -i {word}",
        f"rg -n {word}",
        f'rg "{word}"',
        f"rg {word} .",
        f"rg -w {word}",
        f"rg --hidden {word}",
        f"rg -uu {word}",
    ]
    said = rng.choice(("", "[exit code 1]", "(no output)"))
    scene.loop_begins()
    for index, form in enumerate(forms):
        scene.act("bash", {"command": form}, said)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("identical")
def list_written_again(scene: Scene, rng: random.Random) -> None:
    """The same list of things to do is written again and again."""
    look_round(scene, 3)
    todos = [{"content": rng.choice(FUNCTIONS), "status": "pending"}, {"content": "tests", "status": "pending"}]
    scene.loop_begins()
    for index in range(8):
        scene.act("todo_write", {"todos": todos}, "Todos have been modified successfully.")
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("identical")
def server_never_starts(scene: Scene, rng: random.Random) -> None:
    """A command that runs into its time limit each time."""
    look_round(scene, 3)
    scene.loop_begins()
    for index in range(8):
        text = f"Command timed out after {rng.choice((120, 120.0, 121))}s (pid {rng.randint(100, 9999)} was killed)"
        scene.act("bash", {"command": "npm run start"}, error=text)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def where_am_i(scene: Scene, rng: random.Random) -> None:
    """pwd, ls, git status, pwd, ls, git status."""
    look_round(scene, 3)
    period = rng.choice((2, 3))
    calls = [("pwd", "/workspace/app"), ("ls", "\n".join(rng.sample(FILES, 3))), ("git status -sb", "## main")][:period]
    scene.loop_begins()
    for index in range(5):
        for command, said in calls:
            scene.act("bash", {"command": command}, said)
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("identical")
def log_stands_still(scene: Scene, rng: random.Random) -> None:
    """The end of a log that does not grow, with sleep in between."""
    look_round(scene, 3)
    log = f"2026-11-25 10:01:02 INFO starting {rng.choice(LINES)}\n2026-11-25 10:01:04 INFO waiting for {rng.choice(LINES)}"
    scene.loop_begins()
    for index in range(9):
        scene.act("bash", {"command": "sleep 10 && tail -n 2 app.log"}, log)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def same_lines_read(scene: Scene, rng: random.Random) -> None:
    """A short file read with other ranges, which always gives the whole file."""
    look_round(scene, 3)
    name, text = rng.choice(FILES), code(rng, 12)
    scene.loop_begins()
    for index, most in enumerate((100, 200, 300, 500, 1000, 2000, 150, 50)):
        scene.act("read_file", {"path": name, "offset": 0, "limit": most}, text)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def no_such_module(scene: Scene, rng: random.Random) -> None:
    """Any program that is started ends in the same import error."""
    look_round(scene, 2)
    module = rng.choice(PACKAGES)
    commands = [f"python {rng.choice(FILES)} --{word}" for word in rng.sample(LINES, 9)]
    scene.loop_begins()
    for index, command in enumerate(commands):
        text = (
            f'Traceback (most recent call last):\n  File "{command.split()[1]}", line {rng.randint(1, 40)}, in <mod>\n'
            f"    import {module}\nModuleNotFoundError: No module named '{module}'"
        )
        scene.act("bash", {"command": command}, error=text)
        if index == 3:
            scene.loop_shows()


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def failures_get_fewer(scene: Scene, rng: random.Random) -> None:
    """Run, edit, run: fewer and other failures each time, now and then the same twice."""
    failing = [f"test_{name}" for name in rng.sample(FUNCTIONS, rng.randint(4, 7))]
    while failing:
        for _ in range(rng.choice((1, 1, 2))):
            rows = "\n".join(f"FAILED tests/test_app.py::{name} - AssertionError" for name in failing)
            text = f"{rows}\n{len(failing)} failed, {40 - len(failing)} passed in {rng.uniform(1, 3):.2f}s"
            scene.act("bash", {"command": "pytest -q"}, text)
            scene.act(
                "str_replace", {"path": rng.choice(FILES), "old_str": code(rng, 1), "new_str": code(rng, 1)}, "ok"
            )
        failing.pop()
    scene.act("bash", {"command": "pytest -q"}, "40 passed in 2.11s")


@FAMILIES.honest
def another_failure_each_time(scene: Scene, rng: random.Random) -> None:
    """One test, whose message changes with each fix."""
    for _ in range(rng.randint(5, 8)):
        text = (
            f"FAILED tests/test_app.py::test_all - {rng.choice(('TypeError', 'KeyError', 'ValueError'))}: "
            f"{rng.choice(LINES)} {rng.choice(FUNCTIONS)}\n1 failed in {rng.uniform(0.1, 2):.2f}s"
        )
        scene.act("bash", {"command": "pytest -q tests/test_app.py"}, text)
        scene.act(
            "edit", {"file": "app/server.py", "find": code(rng, 1), "replace": code(rng, 1)}, "1 occurrence replaced"
        )


@FAMILIES.honest
def packages_one_by_one(scene: Scene, rng: random.Random) -> None:
    """One package after the other."""
    for package in rng.sample(PACKAGES, rng.randint(7, 11)):
        scene.act(
            "bash", {"command": f"pip install {package}"}, f"Successfully installed {package}-{rng.randint(1, 9)}.0"
        )


@FAMILIES.honest
def imports_one_by_one(scene: Scene, rng: random.Random) -> None:
    """Start, a module is missing, install it, start: another one is missing."""
    for package in rng.sample(PACKAGES, rng.randint(5, 8)):
        text = f"Traceback (most recent call last):\n  File \"main.py\", line 3\nModuleNotFoundError: No module named '{package}'"
        scene.act("bash", {"command": "python main.py"}, error=text)
        scene.act("bash", {"command": f"uv pip install {package}"}, f"Installed 1 package in {rng.randint(2, 90)}ms")
    scene.act("bash", {"command": "python main.py"}, "listening on :8000")


@FAMILIES.honest
def read_after_each_edit(scene: Scene, rng: random.Random) -> None:
    """The same lines viewed after each edit; they differ by the edit."""
    name, lines = rng.choice(FILES), code(rng, 8).splitlines()
    for _ in range(rng.randint(5, 9)):
        scene.act("view", {"path": name, "view_range": [1, 8]}, "\n".join(lines))
        place = rng.randrange(len(lines))
        new = code(rng, 1, first=place + 1)
        scene.act("str_replace", {"path": name, "old_str": lines[place], "new_str": new}, f"Edited {name}.")
        lines[place] = new


@FAMILIES.honest
def history_in_pages(scene: Scene, rng: random.Random) -> None:
    """git log, three commits at a time."""
    for page in range(rng.randint(6, 10)):
        rows = "\n".join(f"{fill('<hex>', rng)[:8]} {rng.choice(LINES)}: {rng.choice(FUNCTIONS)}" for _ in range(3))
        scene.act("bash", {"command": f"git log --oneline -3 --skip={page * 3}"}, rows)


@FAMILIES.honest
def file_in_ranges(scene: Scene, rng: random.Random) -> None:
    """A long file, a window at a time."""
    name = rng.choice(FILES)
    for window in range(rng.randint(6, 12)):
        first = window * 40 + 1
        scene.act("read_file", {"path": name, "offset": first, "limit": 40}, code(rng, 10, first))


@FAMILIES.honest
def module_by_module_clean(scene: Scene, rng: random.Random) -> None:
    """The type checker, module by module: nothing to complain of."""
    for name in rng.sample(FILES, 8):
        scene.act("bash", {"command": f"mypy {name}"}, "Success: no issues found in 1 source file")


@FAMILIES.honest
def bisection(scene: Scene, rng: random.Random) -> None:
    """git bisect: the same two commands, another commit each time."""
    left = 128
    while left > 1:
        scene.act("bash", {"command": "make check"}, rng.choice(("check: FAILED\nexit code 2", "check: ok")))
        left //= 2
        text = f"Bisecting: {left} revisions left to test after this (roughly {left.bit_length()} steps)"
        scene.act("bash", {"command": rng.choice(("git bisect good", "git bisect bad"))}, text)


@FAMILIES.honest
def build_watched(scene: Scene, rng: random.Random) -> None:
    """A build in the background: its log grows, or stands still for a moment."""
    done = 0
    while done < 300:
        text = f"[{done}/300] Building CXX object src/{rng.choice(LINES)}.o"
        for _ in range(rng.choice((1, 1, 2, 3))):
            scene.act("bash", {"command": "tail -n 1 build.log"}, text)
            scene.act("bash", {"command": "sleep 20"}, "")
        done += rng.randint(20, 70)
    scene.act("bash", {"command": "tail -n 1 build.log"}, "[300/300] Linking app")


@FAMILIES.honest
def codemod(scene: Scene, rng: random.Random) -> None:
    """The same replacement in file after file."""
    old, new = rng.sample(FUNCTIONS, 2)
    commits = rng.random() < 0.5
    for name in rng.sample(FILES, 8):
        arguments = {"path": name, "old_str": old, "new_str": new}
        scene.act("str_replace", arguments, "Replaced.", commit=commit(rng) if commits else None)


@FAMILIES.honest
def mirror_recovers(scene: Scene, rng: random.Random) -> None:
    """A download that fails twice and then works."""
    look_round(scene, 2)
    for package in rng.sample(PACKAGES, 3):
        for _ in range(rng.randint(0, 2)):
            text = f"ReadTimeoutError: HTTPSConnectionPool(host='pypi.org', port=443): Read timed out. (read timeout={rng.randint(10, 30)})"
            scene.act("bash", {"command": f"pip download {package}"}, error=text)
        scene.act("bash", {"command": f"pip download {package}"}, f"Saved ./{package}-2.{rng.randint(0, 9)}.whl")


@FAMILIES.honest
def folders_and_modes(scene: Scene, rng: random.Random) -> None:
    """mkdir, touch, chmod: none of them says anything."""
    for word in rng.sample(LINES, rng.randint(7, 12)):
        scene.act("bash", {"command": f"{rng.choice(('mkdir -p', 'touch', 'chmod +x', 'rm -f'))} {word}"}, "")


@FAMILIES.honest
def green_between_steps(scene: Scene, rng: random.Random) -> None:
    """A refactoring in small steps; the tests pass after each."""
    for _ in range(rng.randint(6, 9)):
        scene.act(
            "edit", {"file": rng.choice(FILES), "find": code(rng, 1), "replace": code(rng, 1)}, "1 occurrence replaced"
        )
        scene.act("bash", {"command": "pytest -q"}, f"{'.' * 24}\n24 passed in {rng.uniform(0.2, 2):.2f}s")


@FAMILIES.honest
def rule_at_other_lines(scene: Scene, rng: random.Random) -> None:
    """The linter stops at the first finding, which is further down after each fix."""
    name, line = rng.choice(FILES), 3
    for _ in range(rng.randint(5, 9)):
        line += rng.randint(1, 60)
        scene.act(
            "bash",
            {"command": f"ruff check {name}"},
            f"{name}:{line}:9: F841 Local variable is never used\nFound 1 error.",
        )
        scene.act("edit", {"file": name, "find": code(rng, 1), "replace": ""}, "1 occurrence replaced")
    scene.act("bash", {"command": f"ruff check {name}"}, "All checks passed!")


@FAMILIES.honest
def experiments(scene: Scene, rng: random.Random) -> None:
    """One script with other parameters; scores that may be equal."""
    for index in range(rng.randint(7, 10)):
        command = f"python train.py --lr {rng.choice(('0.1', '0.01', '0.003'))} --depth {index + 2}"
        scene.act("bash", {"command": command}, f"accuracy: 0.{rng.randint(71, 93)}")


@FAMILIES.honest
def some_may_not_be_read(scene: Scene, rng: random.Random) -> None:
    """Logs of many hosts, some of which refuse."""
    for host in rng.sample(LINES, rng.randint(9, 13)):
        if rng.random() < 0.35:
            scene.act(
                "ssh",
                {"host": host, "command": "uptime"},
                error=f"ssh: connect to host {host}: Permission denied (publickey).",
            )
        else:
            scene.act(
                "ssh",
                {"host": host, "command": "uptime"},
                f"up {rng.randint(1, 300)} days, load average: 0.{rng.randint(10, 99)}",
            )


@FAMILIES.honest
def text_found_at_last(scene: Scene, rng: random.Random) -> None:
    """An edit that misses, a look, an edit that hits; and so on through the file."""
    name = rng.choice(FILES)
    for _ in range(rng.randint(3, 5)):
        old = code(rng, 1)
        scene.act(
            "str_replace",
            {"path": name, "old_str": old.strip(), "new_str": "x"},
            error=f"old_str was not found in {name}.",
        )
        scene.act("view", {"path": name, "view_range": [rng.randint(1, 90), 99]}, code(rng, 5, rng.randint(1, 90)))
        scene.act("str_replace", {"path": name, "old_str": old, "new_str": code(rng, 1)}, f"Edited {name}.")


@FAMILIES.honest
def status_between(scene: Scene, rng: random.Random) -> None:
    """Edit a file, look at the status, edit another: the status names more files each time."""
    changed: list[str] = []
    for name in rng.sample(FILES, 6):
        scene.act("edit", {"file": name, "find": code(rng, 1), "replace": code(rng, 1)}, "1 occurrence replaced")
        changed.append(name)
        scene.act("bash", {"command": "git status --short"}, "\n".join(f" M {one}" for one in sorted(changed)))
