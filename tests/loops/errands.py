"""A working day that goes well: bisecting, paging, polling, retries that help, lists worked off, tests that turn green."""

import json
import random

from loops.family import Families
from loops.made_up import name, names, token
from loops.noise import commit, fill
from loops.scene import Scene
from loops.stalled import failing, module

FAMILIES = Families()


def bash(scene: Scene, command: str, ok: str | None = None, *, error: str | None = None) -> None:
    """A command in a shell."""
    scene.act("bash", {"command": command}, ok, error=error, error_type="CommandFailed")


@FAMILIES.honest
def misses_once_in_each_file(scene: Scene, rng: random.Random) -> None:
    for _ in range(4):
        path, old = module(rng), f"import {name(rng).lower()}"
        scene.act(
            "edit_file",
            {"path": path, "old_str": old + " ", "new_str": "import json"},
            error=f"No replacement was performed, old_str `{old} ` did not appear verbatim in {path}.",
        )
        scene.act("read_file", {"path": path}, f"1\t{old}\n2\timport {name(rng).lower()}")
        scene.act(
            "edit_file", {"path": path, "old_str": old, "new_str": "import json"}, f"The file {path} has been edited."
        )


@FAMILIES.honest
def fewer_fail_each_time(scene: Scene, rng: random.Random) -> None:
    path = module(rng)
    for failed in (12, 9, 10, 7, 5, 3, 4, 0):
        scene.act(
            "edit_file",
            {"path": path, "old_str": name(rng).lower(), "new_str": name(rng).lower()},
            f"The file {path} has been edited.",
        )
        bash(
            scene,
            "pytest -q",
            fill(f"{'F' * failed}{'.' * (40 - failed)}\n{failed} failed, {40 - failed} passed in <seconds>", rng),
        )


@FAMILIES.honest
def one_conflict_after_another(scene: Scene, rng: random.Random) -> None:
    for index in range(1, 6):
        path = module(rng)
        bash(
            scene,
            "git rebase --continue" if index > 1 else "git rebase main",
            error=f"Auto-merging {path}\nCONFLICT (content): Merge conflict in {path}\nerror: could not apply {token(rng, 7)}... {name(rng).lower()}\nhint: Resolve all conflicts manually\nRebasing ({index}/7)",
        )
        scene.act("edit_file", {"path": path, "old_str": "<<<<<<< HEAD", "new_str": ""}, "ok")
        bash(scene, f"git add {path}", "")


@FAMILIES.honest
def tree_resolves_in_the_end(scene: Scene, rng: random.Random) -> None:
    for package in names(rng, 4):
        bash(
            scene,
            f"npm install {package.lower()}@latest",
            error=fill(
                f'npm error code ERESOLVE\nnpm error peer react@"^17" from {package.lower()}@5.0.0\nnpm error A complete log of this run can be found in: /root/.npm/_logs/<iso>-debug-0.log',
                rng,
            ),
        )
        bash(
            scene,
            f"npm view {package.lower()} versions --json",
            json.dumps([f"{rng.randint(1, 4)}.{rng.randint(0, 9)}.0" for _ in range(5)]),
        )
        bash(
            scene,
            f"npm install {package.lower()}@{rng.randint(1, 4)}",
            f"added {rng.randint(1, 9)} packages in {rng.randint(1, 9)}s",
        )


@FAMILIES.honest
def solver_goes_back(scene: Scene, rng: random.Random) -> None:
    for package in names(rng, 5):
        low = package.lower()
        tried = "\n".join(
            f"  Downloading {low}-2.{minor}.0-py3-none-any.whl ({rng.randint(20, 90)} kB)"
            for minor in range(9, rng.randint(3, 7), -1)
        )
        bash(
            scene,
            f"pip install '{low}<3'",
            f"Collecting {low}<3\n{tried}\nINFO: pip is looking at multiple versions of {low} to determine which version is compatible.\nSuccessfully installed {low}-2.3.0",
        )


@FAMILIES.honest
def build_gets_further(scene: Scene, rng: random.Random) -> None:
    for step in range(2, 8):
        missing = name(rng).lower()
        scene.act(
            "edit_file",
            {"path": "Dockerfile", "old_str": "RUN", "new_str": f"RUN apt-get install -y {missing} &&"},
            "The file Dockerfile has been edited.",
        )
        bash(
            scene,
            "docker build .",
            error=f'#{step + 3} [{step}/9] RUN make stage{step}\n#{step + 3} {rng.uniform(1, 9):.3f} make: {missing}: No such file or directory\nERROR: failed to solve: process "/bin/sh -c make stage{step}" did not complete successfully: exit code: 2',
        )


@FAMILIES.honest
def comes_again_when_told(scene: Scene, rng: random.Random) -> None:
    url = f"https://api.{name(rng).lower()}.com/v2/export"
    for wait in (2, 4, 8):
        scene.act(
            "http_get",
            {"url": url},
            fill(f"HTTP/1.1 429 Too Many Requests\ndate: <iso>\nretry-after: {wait}\n\n", rng)
            + '{"error":"rate limit exceeded"}',
        )
        bash(scene, f"sleep {wait}", "")
    scene.act("http_get", {"url": url}, "HTTP/1.1 200 OK\n\n" + json.dumps({"rows": rng.randint(100, 900)}))


@FAMILIES.honest
def second_try_helps(scene: Scene, rng: random.Random) -> None:
    for path in names(rng, 6):
        for _ in range(rng.randint(1, 2)):
            scene.act(
                "fetch",
                {"url": f"https://files.example.org/{path}.csv"},
                error="503 Service Unavailable: upstream connect error or disconnect/reset before headers",
                error_type="HTTPError",
            )
        scene.act(
            "fetch",
            {"url": f"https://files.example.org/{path}.csv"},
            f"id,total\n{rng.randint(1, 99)},{rng.randint(100, 999)}",
        )


@FAMILIES.honest
def migrations_one_by_one(scene: Scene, rng: random.Random) -> None:
    before = fill("<hex>", rng)
    for _ in range(8):
        after = fill("<hex>", rng)
        bash(
            scene,
            "alembic upgrade +1",
            f"INFO  [alembic.runtime.migration] Context impl PostgresqlImpl.\nINFO  [alembic.runtime.migration] Running upgrade {before} -> {after}, add {name(rng).lower()}",
        )
        before = after


@FAMILIES.honest
def searches_that_bring_more(scene: Scene, rng: random.Random) -> None:
    thing = name(rng)
    known = {"title": f"{thing} - Wikipedia", "url": f"https://en.wikipedia.org/wiki/{thing}"}
    for aspect in (
        "history",
        "founders",
        "revenue 2025",
        "lawsuits",
        "patents",
        "subsidiaries",
        "layoffs",
        "market share",
    ):
        fresh = [
            {"title": f"{thing} {word}", "url": f"https://{word.lower()}.com/{token(rng, 6)}"} for word in names(rng, 3)
        ]
        scene.act("web_search", {"query": f"{thing} {aspect}"}, json.dumps({"results": [known, *fresh]}))


@FAMILIES.honest
def stale_then_found(scene: Scene, rng: random.Random) -> None:
    for label in names(rng, 5):
        scene.act(
            "browser_click",
            {"ref": f"e{rng.randint(10, 99)}"},
            error="Error: Ref not found in the current page snapshot. Try capturing new snapshot.",
        )
        ref = f"e{rng.randint(100, 999)}"
        scene.act("browser_snapshot", {}, f'- heading "{label}"\n- button "{name(rng)}" [ref={ref}]')
        scene.act("browser_click", {"ref": ref}, f"Clicked. Page title: {label}")


@FAMILIES.honest
def long_file_in_pages(scene: Scene, rng: random.Random) -> None:
    path = module(rng)
    for page in range(9):
        text = "\n".join(f"{page * 10 + line}\tself.{name(rng).lower()} = None" for line in range(10))
        scene.act("read_file", {"path": path, "offset": page * 10, "limit": 10}, text)


@FAMILIES.honest
def checks_turn_green(scene: Scene, rng: random.Random) -> None:
    for done in (0, 1, 1, 3, 4, 4, 6, 8, 9):
        bash(
            scene,
            "gh pr checks 412",
            f"{done} successful, 0 failing, {9 - done} pending checks\n" + fill("(queried at <time>)", rng),
        )
        bash(scene, "sleep 30", "")


@FAMILIES.honest
def job_starts_and_ends(scene: Scene, rng: random.Random) -> None:
    job, minutes = rng.randint(10**6, 10**7), 0
    for state in ("queued", "queued", "queued", "in_progress", "in_progress", "in_progress", "success"):
        minutes += rng.randint(1, 2)
        scene.act("ci_status", {"job": job}, json.dumps({"id": job, "status": state, "elapsed_minutes": minutes}))
    bash(scene, f"ci logs {job}", "all 211 tests passed")


@FAMILIES.honest
def log_that_grows(scene: Scene, rng: random.Random) -> None:
    for _ in range(9):
        bash(
            scene,
            "tail -n 3 /var/log/import.log",
            "\n".join(fill(f"<iso> INFO imported batch {name(rng).lower()} (<number> rows)", rng) for _ in range(3)),
        )
        bash(scene, "sleep 20", "")


@FAMILIES.honest
def one_file_many_edits(scene: Scene, rng: random.Random) -> None:
    path = module(rng)
    for _ in range(14):
        scene.act(
            "edit_file",
            {
                "path": path,
                "old_str": f"def {name(rng).lower()}(self):",
                "new_str": f"def {name(rng).lower()}(self) -> None:",
            },
            f"The file {path} has been edited.",
        )


@FAMILIES.honest
def halving_the_history(scene: Scene, rng: random.Random) -> None:
    left = 128
    while left > 1:
        left //= 2
        bad = rng.random() < 0.5
        bash(scene, "make check", fill("FAIL: test_checksum (<seconds>)" if bad else "OK (<seconds>)", rng))
        bash(
            scene,
            f"git bisect {'bad' if bad else 'good'}",
            f"Bisecting: {left} revisions left to test after this\n[{commit(rng)}] {name(rng).lower()}",
        )


@FAMILIES.honest
def each_gets_the_same_answer(scene: Scene, rng: random.Random) -> None:
    for who in names(rng, 12):
        scene.act("add_to_group", {"user": f"{who.lower()}@example.com", "group": "beta"}, '{"status":"ok"}')


@FAMILIES.honest
def pod_becomes_ready(scene: Scene, rng: random.Random) -> None:
    pod, age = f"web-{token(rng, 9)}-{token(rng, 5)}", 3
    for ready, state in (
        ("0/1", "Pending"),
        ("0/1", "ContainerCreating"),
        ("0/1", "ContainerCreating"),
        ("0/1", "ContainerCreating"),
        ("0/1", "Running"),
        ("1/1", "Running"),
    ):
        bash(
            scene, "kubectl get pods", f"NAME   READY   STATUS   RESTARTS   AGE\n{pod}   {ready}   {state}   0   {age}s"
        )
        age += rng.randint(5, 15)
        bash(scene, "sleep 10", "")


@FAMILIES.honest
def looks_for_secrets(scene: Scene, rng: random.Random) -> None:
    for pattern in (
        "AKIA[0-9A-Z]{16}",
        "password\\s*=",
        "BEGIN RSA PRIVATE KEY",
        "xox[bp]-",
        "ghp_",
        "eval\\(",
        "pickle.loads",
        "shell=True",
        "verify=False",
        "md5\\(",
    ):
        found = rng.random() < 0.25
        scene.act(
            "grep",
            {"pattern": pattern, "path": "."},
            f"{module(rng)}:{rng.randint(1, 300)}: {name(rng).lower()}" if found else "No matches found",
        )


@FAMILIES.honest
def fewer_warnings(scene: Scene, rng: random.Random) -> None:
    left = 21
    while left > 2:
        path = module(rng)
        bash(
            scene,
            "ruff check .",
            error=f"{path}:{rng.randint(1, 300)}:5: F841 Local variable `{name(rng).lower()}` is assigned to but never used\nFound {left} errors.",
        )
        scene.act(
            "edit_file",
            {"path": path, "old_str": name(rng).lower(), "new_str": "_"},
            f"The file {path} has been edited.",
        )
        left -= rng.randint(1, 6)


@FAMILIES.honest
def files_fetched(scene: Scene, rng: random.Random) -> None:
    for month in range(1, 11):
        bash(
            scene,
            f"wget -q --show-progress https://data.example.gov/trips_2025-{month:02}.parquet",
            f"trips_2025-{month:02}.parquet 100%[=======>] {rng.uniform(40, 60):.2f}M  {rng.uniform(2, 20):.1f}MB/s    in {rng.uniform(2, 20):.1f}s",
        )


@FAMILIES.honest
def compiler_finds_the_next(scene: Scene, rng: random.Random) -> None:
    for _ in range(6):
        line = rng.randint(20, 400)
        bash(
            scene,
            "cargo build",
            error=f"   Compiling core v0.1.0\nerror[E0308]: mismatched types\n  --> src/lib.rs:{line}:17\n   |\n{line} |     let {name(rng).lower()}: u32 = {name(rng).lower()};\n   |              expected `u32`, found `i64`\nerror: could not compile `core` (lib) due to 1 previous error",
        )
        scene.act(
            "edit_file",
            {"path": "src/lib.rs", "old_str": name(rng).lower(), "new_str": f"{name(rng).lower()} as u32"},
            "The file src/lib.rs has been edited.",
        )


@FAMILIES.honest
def sweeping_parameters(scene: Scene, rng: random.Random) -> None:
    for rate in (0.1, 0.05, 0.03, 0.01, 0.005, 0.003, 0.001, 0.0005):
        bash(
            scene,
            f"python train.py --lr {rate} --epochs 3",
            f"epoch 3/3 - loss: {rng.uniform(0.2, 0.9):.4f} - val_acc: {rng.uniform(0.7, 0.95):.4f}",
        )


@FAMILIES.honest
def one_file_for_each_tongue(scene: Scene, rng: random.Random) -> None:
    for tongue in ("de", "fr", "es", "it", "pt", "nl", "pl", "sv", "fi", "da"):
        scene.act(
            "write_file",
            {"path": f"locales/{tongue}.json", "content": json.dumps({name(rng): name(rng) for _ in range(3)})},
            "File written successfully.",
        )


@FAMILIES.honest
def review_in_rounds(scene: Scene, rng: random.Random) -> None:
    for index in range(4):
        path = module(rng)
        scene.act(
            "edit_file",
            {"path": path, "old_str": name(rng), "new_str": name(rng)},
            "ok",
            step=f"c{index}",
            commit=commit(rng),
        )
        scene.act("hand_off", {"to": "reviewer", "instruction": f"{path} is mended."}, "ok", step=f"c{index}")
        scene.act("read_file", {"path": path}, f"def {name(rng).lower()}(): ...", step=f"r{index}", role="reviewer")
        scene.act(
            "hand_off",
            {"to": "coder", "instruction": f"{name(rng)} in {module(rng)} leaks {name(rng).lower()}."},
            "ok",
            step=f"r{index}",
            role="reviewer",
        )


@FAMILIES.honest
def backfill_in_portions(scene: Scene, rng: random.Random) -> None:
    left = 8_412
    while left > 0:
        left = max(0, left - 1_000)
        scene.act(
            "sql",
            {
                "query": "UPDATE events SET tenant = 1 WHERE id IN (SELECT id FROM events WHERE tenant IS NULL LIMIT 1000)"
            },
            f"UPDATE {1000 if left else 412}\n({left} rows remain, {rng.randint(40, 90)} ms)",
        )


@FAMILIES.honest
def is_it_flaky(scene: Scene, rng: random.Random) -> None:
    test = f"tests/test_{name(rng).lower()}.py::test_race"
    for passed in (True, False, True):
        bash(
            scene,
            f"pytest {test}",
            fill("1 passed in <seconds>", rng) if passed else failing(rng, test, "assert 3 == 4", 0),
        )
    scene.act("read_file", {"path": test.split(":")[0]}, f"def test_race():\n    {name(rng).lower()}.start()")
    scene.act("edit_file", {"path": test.split(":")[0], "old_str": "start()", "new_str": "start(); join()"}, "ok")
    for _ in range(3):
        bash(scene, f"pytest {test}", fill("1 passed in <seconds>", rng))


@FAMILIES.honest
def pages_by_cursor(scene: Scene, rng: random.Random) -> None:
    cursor = None
    for _ in range(6):
        asked, cursor = {"limit": 2, "cursor": cursor}, token(rng, 20)
        scene.act(
            "list_customers",
            asked,
            json.dumps(
                {"data": [{"id": token(rng, 8), "name": name(rng)} for _ in range(2)], "has_more": True, "next": cursor}
            ),
        )


@FAMILIES.honest
def some_buckets_are_closed(scene: Scene, rng: random.Random) -> None:
    closed = {2, 3, 6, 9}
    for index, bucket in enumerate(names(rng, 11)):
        command = f"aws s3api get-bucket-policy --bucket {bucket.lower()}"
        if index in closed:
            bash(
                scene,
                command,
                error="An error occurred (AccessDenied) when calling the GetBucketPolicy operation: Access Denied",
            )
        else:
            bash(scene, command, json.dumps({"Policy": f"arn:aws:s3:::{bucket.lower()}/*"}))


@FAMILIES.honest
def versions_of_packages(scene: Scene, rng: random.Random) -> None:
    for package in names(rng, 12):
        bash(scene, f"npm view {package.lower()} version", rng.choice(("1.0.0", "2.1.0", "1.0.1")))


@FAMILIES.honest
def names_that_resolve_or_not(scene: Scene, rng: random.Random) -> None:
    for host in names(rng, 10):
        answer = f"{host.lower()}.example.net. 300 IN A 198.51.100.{rng.randint(1, 250)}"
        bash(
            scene,
            f"dig +noall +answer +comments {host.lower()}.example.net",
            fill(";; ->>HEADER<<- opcode: QUERY, status: ", rng)
            + rng.choice((f"NOERROR, id: {rng.randint(1, 65000)}\n{answer}", f"NXDOMAIN, id: {rng.randint(1, 65000)}")),
        )


@FAMILIES.honest
def form_is_filled(scene: Scene, rng: random.Random) -> None:
    for field in ("First name", "Last name", "Street", "City", "Postcode", "Country", "Phone", "Company", "Comment"):
        scene.act("browser_type", {"element": field, "text": name(rng)}, "ok")
    scene.act("browser_click", {"element": "Submit"}, f"Thank you, reference {token(rng, 8)}")


@FAMILIES.honest
def feels_its_way(scene: Scene, rng: random.Random) -> None:
    for column in names(rng, 8):
        low = column.lower()
        scene.act(
            "python", {"code": f"df['{low}'].mean()"}, error=f"KeyError: '{low}'"
        ) if rng.random() < 0.4 else scene.act(
            "python",
            {"code": f"df['{low}'].describe()"},
            f"count {rng.randint(100, 999)}\nmean {rng.uniform(1, 99):.3f}",
        )


@FAMILIES.honest
def slow_but_moving(scene: Scene, rng: random.Random) -> None:
    job = token(rng, 10)
    for percent in (3, 11, 11, 11, 24, 40, 40, 62, 62, 62, 88, 100):
        scene.act(
            "get_job",
            {"id": job},
            json.dumps({"id": job, "progress": percent, "state": "done" if percent == 100 else "running"}),
        )


@FAMILIES.honest
def region_by_region(scene: Scene, rng: random.Random) -> None:
    for region in ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-south-1", "sa-east-1", "ca-central-1"):
        bash(
            scene,
            f"./deploy.sh {region}",
            f"Apply complete! Resources: 0 added, 1 changed, 0 destroyed. ({rng.randint(20, 60)}s)",
        )
        bash(scene, f"./verify.sh {region}", "healthy")


@FAMILIES.honest
def findings_are_noted(scene: Scene, rng: random.Random) -> None:
    for _ in range(8):
        path = module(rng)
        scene.act("read_file", {"path": path}, f"def {name(rng).lower()}(request):\n    return {name(rng).lower()}")
        scene.act("save_finding", {"file": path, "text": f"{name(rng)} is not {name(rng).lower()}"}, "saved")


@FAMILIES.honest
def small_commits(scene: Scene, rng: random.Random) -> None:
    for _ in range(7):
        path = module(rng)
        bash(scene, f"git add {path}", "")
        bash(
            scene,
            f"git commit -m 'type {name(rng).lower()}'",
            f"[main {token(rng, 7)}] type it\n 1 file changed, 1 insertion(+), 1 deletion(-)",
        )


@FAMILIES.honest
def package_lock_is_held(scene: Scene, rng: random.Random) -> None:
    pid = rng.randint(900, 30_000)
    for _ in range(3):
        bash(
            scene,
            "apt-get install -y jq",
            error=f"E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process {pid} (unattended-upgr)",
        )
        bash(scene, "sleep 15", "")
    bash(scene, "apt-get install -y jq", "Setting up jq (1.7.1) ...")


@FAMILIES.honest
def post_is_sorted(scene: Scene, rng: random.Random) -> None:
    for _ in range(8):
        post = token(rng, 12)
        scene.act(
            "get_message",
            {"id": post},
            json.dumps({"from": f"{name(rng)}@mail.test", "subject": " ".join(names(rng, 3))}),
        )
        scene.act("label_message", {"id": post, "label": rng.choice(("invoice", "spam", "personal"))}, '{"ok":true}')
