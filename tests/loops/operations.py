"""Databases, web APIs and clusters: queries, pages, polls, locks and roll-outs, in the words of real servers."""

import json
import random

from loops.family import Families
from loops.made_up import go_round, name, names, token
from loops.noise import fill, listed
from loops.scene import Scene

FAMILIES = Families()

TABLES = listed(
    "orders invoices customers shipments refunds sessions coupons tickets products suppliers payments audits"
)


def _http(status: str, body: object, rng: random.Random) -> str:
    head = f"HTTP/1.1 {status}\ndate: <iso>\nx-request-id: <uuid>\ncontent-type: application/json\n\n"
    return fill(head, rng) + json.dumps(body)


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def column_is_not_there(scene: Scene, rng: random.Random) -> None:
    """One statement again and again; the server's log line has another process and another time."""
    table = rng.choice(TABLES)
    scene.act("psql", {"sql": f"\\d {table}"}, f'Table "public.{table}"\n id | bigint\n total_cents | bigint')
    sql = f"SELECT id, total FROM {table} WHERE total > {rng.randint(5, 90)}"

    def body(_: int) -> None:
        error = (
            fill("<iso> [<pid>] ERROR:  ", rng)
            + f'column "total" does not exist at character 12\nSTATEMENT:  {sql}\nHINT:  Perhaps you meant to reference the column "{table}.total_cents".'
        )
        scene.act("psql", {"sql": sql}, error=error, error_type="ProgrammingError")

    go_round(scene, 7, 2, body)


@FAMILIES.loop("identical")
def server_breaks_on_it(scene: Scene, rng: random.Random) -> None:
    """The same request, always answered by an internal error with its own reference."""
    what = {"method": "POST", "url": "https://api.example.net/v2/exports", "json": {"range": "last_30d", "kind": "csv"}}

    def body(_: int) -> None:
        said = {
            "error": {
                "code": "internal_error",
                "message": "Unexpected condition while rendering export",
                "request_id": f"req_{token(rng, 14)}",
                "timestamp": fill("<iso>", rng),
            }
        }
        scene.act("http_request", what, _http("500 Internal Server Error", said, rng))

    go_round(scene, 8, 3, body)


@FAMILIES.loop("identical")
def state_is_locked(scene: Scene, rng: random.Random) -> None:
    """Applied against a lock that nobody will release."""
    who = f"{name(rng).lower()}@ci-runner"
    lock = fill("<uuid>", rng)
    created = fill("<iso>", rng)
    command = {"command": "terraform apply -auto-approve -no-color", "cwd": f"/srv/infra/{name(rng).lower()}"}

    def body(_: int) -> None:
        scene.act(
            "run_command",
            command,
            error=f"Acquiring state lock. This may take a few moments...\n╷\n│ Error: Error acquiring the state lock\n│\n│ ConditionalCheckFailedException, RequestID: {token(rng, 20).upper()}\n│ Lock Info:\n│   ID:        {lock}\n│   Who:       {who}\n│   Created:   {created}\n╵",
            error_type="CommandFailed",
        )

    go_round(scene, 9, 3, body)


@FAMILIES.loop("identical")
def cursor_points_at_itself(scene: Scene, rng: random.Random) -> None:
    """The next page is this page."""
    cursor = token(rng, 18)
    before = token(rng, 18)
    rows = [{"id": rng.randint(1000, 9999), "name": name(rng)} for _ in range(3)]
    scene.act(
        "list_contacts",
        {"limit": 3},
        json.dumps({"data": [{"id": 1, "name": name(rng)}], "next_cursor": before, "has_more": True}),
    )
    scene.act(
        "list_contacts",
        {"limit": 3, "cursor": before},
        json.dumps({"data": [{"id": 2, "name": name(rng)}], "next_cursor": cursor, "has_more": True}),
    )

    def body(_: int) -> None:
        said = {
            "data": rows,
            "next_cursor": cursor,
            "has_more": True,
            "served_at": fill("<iso>", rng),
            "took_ms": rng.randint(4, 70),
        }
        scene.act("list_contacts", {"limit": 3, "cursor": cursor}, json.dumps(said))

    go_round(scene, 7, 2, body)


@FAMILIES.loop("near_identical")
def cursor_is_ignored(scene: Scene, rng: random.Random) -> None:
    """A new cursor each time, and the same items each time."""
    rows = [{"sku": token(rng, 6), "title": name(rng)} for _ in range(4)]
    cursor = token(rng, 22)

    def body(index: int) -> None:
        nonlocal cursor
        asked = {"page_size": 4} | ({"page_token": cursor} if index else {})
        cursor = token(rng, 22)
        scene.act("catalog.search", asked, json.dumps({"items": rows, "nextPageToken": cursor}))

    go_round(scene, 9, 3, body)


@FAMILIES.loop("near_identical")
def statement_turned_about(scene: Scene, rng: random.Random) -> None:
    """One question in many spellings of SQL, with no row each time."""
    table, who = rng.choice(TABLES), name(rng)
    forms = [
        f"SELECT * FROM {table} WHERE owner = '{who}'",
        f"select * from {table} where owner='{who}';",
        f"SELECT id, owner FROM {table} WHERE owner = '{who}'",
        f"SELECT * FROM {table} t WHERE t.owner = '{who}'",
        f"SELECT * FROM {table} WHERE lower(owner) = lower('{who}')",
        f"SELECT * FROM {table} WHERE owner ILIKE '{who}'",
        f"SELECT * FROM public.{table} WHERE owner = '{who}' LIMIT 10",
        f"SELECT count(*) = 0, * FROM {table} WHERE owner = '{who}'",
        f"SELECT * FROM {table} WHERE owner = '{who}' ORDER BY id",
    ]
    go_round(
        scene,
        9,
        3,
        lambda index: scene.act(
            "query_database", {"statement": forms[index]}, fill(f"(0 rows)\nTime: {rng.uniform(0.4, 9):.3f} ms", rng)
        ),
    )


@FAMILIES.loop("stuck_state")
def fields_guessed(scene: Scene, rng: random.Random) -> None:
    """Each guess of a field is refused in the same sentence."""
    guesses = listed(
        "email emailAddress mail contactEmail primaryEmail email_address userEmail loginEmail addressEmail"
    )
    go_round(
        scene,
        9,
        4,
        lambda i: scene.act(
            "graphql",
            {"query": f"{{ viewer {{ id {guesses[i]} }} }}"},
            json.dumps(
                {
                    "errors": [
                        {
                            "message": f'Cannot query field "{guesses[i]}" on type "Viewer".',
                            "locations": [{"line": 1, "column": 15}],
                        }
                    ],
                    "extensions": {"traceId": fill("<hex>", rng)},
                }
            ),
        ),
    )


@FAMILIES.loop("stuck_state")
def job_never_moves(scene: Scene, rng: random.Random) -> None:
    """Polls of a job that hangs: only its elapsed time and the worker's heartbeat change."""
    job, percent = token(rng, 8), rng.randint(20, 80)
    scene.act("start_job", {"kind": "reindex"}, json.dumps({"job": job, "state": "queued"}))
    elapsed = 10

    def body(_: int) -> None:
        nonlocal elapsed
        elapsed += rng.randint(5, 9)
        scene.act(
            "job_status",
            {"job": job},
            json.dumps(
                {
                    "job": job,
                    "state": "running",
                    "percent": percent,
                    "elapsed_s": elapsed,
                    "heartbeat": fill("<iso>", rng),
                    "eta": None,
                }
            ),
        )

    go_round(scene, 13, 6, body)


@FAMILIES.loop("alternating")
def pod_comes_back_broken(scene: Scene, rng: random.Random) -> None:
    """The pod is deleted, and its successor with another name crashes as well."""
    app = name(rng).lower()
    ns = {"namespace": "prod"}

    def pod() -> str:
        return f"{app}-{fill('<hex>', rng)[:9]}-{token(rng, 5)}"

    mine = pod()

    def body(_: int) -> None:
        nonlocal mine
        scene.act("kubectl", {"args": f"delete pod -l app={app}", **ns}, f'pod "{mine}" deleted')
        mine = pod()
        scene.act(
            "kubectl",
            {"args": f"get pods -l app={app}", **ns},
            f"NAME   READY   STATUS   RESTARTS   AGE\n{mine}   0/1   CrashLoopBackOff   {rng.randint(2, 4)} ({rng.randint(10, 50)}s ago)   {rng.randint(60, 99)}s",
        )

    go_round(scene, 7, 2, body)


@FAMILIES.loop("alternating")
def flag_set_to_and_fro(scene: Scene, rng: random.Random) -> None:
    """A setting is changed, an alarm fires, it is changed back, another alarm fires."""
    key = f"{name(rng).lower()}.pool_size"

    def body(_: int) -> None:
        scene.act("set_config", {"key": key, "value": 64}, f"{key} = 64")
        scene.act("check_alarms", {}, fill("[<time>] memory_high FIRING (1 alarm)", rng))
        scene.act("set_config", {"key": key, "value": 8}, f"{key} = 8")
        scene.act("check_alarms", {}, fill("[<time>] latency_high FIRING (1 alarm)", rng))

    go_round(scene, 5, 1, body)


@FAMILIES.loop("stuck_state")
def deployed_and_still_old(scene: Scene, rng: random.Random) -> None:
    """Whatever is done to the deployment, the page shows the old version."""
    deeds = [
        ("kubectl rollout restart deploy/web", "deployment.apps/web restarted"),
        ("curl -X PURGE https://cdn.example.org/", '{"status":"purged"}'),
        ("docker compose pull web", "web Pulled"),
        ("kubectl scale deploy/web --replicas=4", "deployment.apps/web scaled"),
        ("systemctl reload nginx", ""),
        ("kubectl annotate deploy/web touched=1 --overwrite", "deployment.apps/web annotated"),
        ("kubectl delete rs -l app=web", 'replicaset.apps "web-1" deleted'),
        ("helm upgrade web ./chart", 'Release "web" has been upgraded.'),
    ]
    rng.shuffle(deeds)
    old = f"2.{rng.randint(1, 9)}.{rng.randint(0, 9)}"

    def body(index: int) -> None:
        command, said = deeds[index]
        scene.act("shell", {"command": command}, said)
        scene.act(
            "shell",
            {"command": "curl -s https://www.example.org/version"},
            json.dumps({"version": old, "host": f"web-{token(rng, 5)}", "now": fill("<iso>", rng)}),
        )

    go_round(scene, 8, 3, body)


@FAMILIES.loop("identical")
def chart_times_out(scene: Scene, rng: random.Random) -> None:
    """An upgrade that waits five minutes, and fails, and is begun again."""
    release = name(rng).lower()

    def body(_: int) -> None:
        scene.act(
            "helm",
            {"args": ["upgrade", "--install", release, f"charts/{release}", "--wait"]},
            error=f"Error: UPGRADE FAILED: context deadline exceeded\nhelm.go:{rng.randint(80, 90)}: [debug] context deadline exceeded\nelapsed 5m{rng.uniform(0, 3):.1f}s",
            error_type="ExitStatus",
        )

    go_round(scene, 9, 3, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def pages_by_cursor(scene: Scene, rng: random.Random) -> None:
    """Every page has another cursor and other ids; the rows are otherwise alike."""
    cursor = ""
    for _ in range(rng.randint(8, 14)):
        asked = {"limit": 2} | ({"starting_after": cursor} if cursor else {})
        rows = [{"id": f"ch_{token(rng, 16)}", "status": "succeeded", "currency": "eur"} for _ in range(2)]
        cursor = rows[-1]["id"]
        scene.act("charges.list", asked, json.dumps({"data": rows, "has_more": True}))
    scene.act("charges.list", {"limit": 2, "starting_after": cursor}, json.dumps({"data": [], "has_more": False}))


@FAMILIES.honest
def pages_by_offset(scene: Scene, rng: random.Random) -> None:
    """LIMIT and OFFSET through a table in which many rows look alike."""
    table = rng.choice(TABLES)
    for page in range(rng.randint(8, 12)):
        rows = "\n".join(f" {page * 20 + n} | open | EUR" for n in range(3))
        scene.act(
            "psql",
            {"sql": f"SELECT id, status, cur FROM {table} ORDER BY id LIMIT 20 OFFSET {page * 20}"},
            f" id | status | cur\n----+--------+-----\n{rows}\n(20 rows)",
        )


@FAMILIES.honest
def job_gets_on(scene: Scene, rng: random.Random) -> None:
    """Percentages that grow, with a stall of two or three polls in the middle."""
    job, percent = token(rng, 8), 0
    stall = rng.randint(20, 60)
    stalled = 0
    while percent < 100:
        if percent >= stall and stalled < 2:
            stalled += 1
        else:
            percent = min(100, percent + rng.randint(6, 14))
        scene.act(
            "job_status",
            {"job": job},
            json.dumps({"job": job, "state": "running" if percent < 100 else "succeeded", "percent": percent}),
        )


@FAMILIES.honest
def queue_gets_shorter(scene: Scene, rng: random.Random) -> None:
    """A position in a queue and the time that is left."""
    position, build = rng.randint(7, 12), rng.randint(1000, 9000)
    while position > 0:
        scene.act(
            "ci.build", {"id": build}, f"Build #{build}: queued, position {position}, about {position * 40}s left"
        )
        if rng.random() < 0.3:
            scene.act("wait", {"seconds": 30}, "waited 30 s")
        position -= rng.choice((1, 1, 2))
    scene.act("ci.build", {"id": build}, f"Build #{build}: running on agent-{rng.randint(1, 9)}")
    scene.act("ci.build", {"id": build}, f"Build #{build}: passed in 3m12s")


@FAMILIES.honest
def told_to_come_later(scene: Scene, rng: random.Random) -> None:
    """429 with Retry-After, waited for, and then it goes; for several objects."""
    for _ in range(rng.randint(2, 4)):
        what = {"method": "PUT", "url": f"https://crm.example.com/contacts/{rng.randint(100, 999)}"}
        for attempt in range(rng.randint(1, 3)):
            seconds = 2**attempt * 5
            scene.act("http_request", what, _http("429 Too Many Requests", {"retry_after": seconds}, rng))
            scene.act("sleep", {"seconds": seconds}, "ok")
        scene.act("http_request", what, _http("200 OK", {"updated": True}, rng))


@FAMILIES.honest
def third_time_lucky(scene: Scene, rng: random.Random) -> None:
    """A network that drops things: each download needs up to three tries."""
    for part in range(rng.randint(4, 6)):
        url = f"https://mirror.example.org/pool/{name(rng).lower()}_{part}.tar.zst"
        for _ in range(rng.randint(0, 2)):
            scene.act(
                "fetch",
                {"url": url},
                error=f"curl: (56) Recv failure: Connection reset by peer after {rng.randint(100, 9999)} bytes",
                error_type="NetworkError",
            )
        scene.act("fetch", {"url": url}, f"saved {rng.randint(100, 9000)} kB, sha256 {fill('<hex>', rng)}")


@FAMILIES.honest
def rows_altered(scene: Scene, rng: random.Random) -> None:
    """The same short acknowledgement for one table after the other."""
    for table in rng.sample(TABLES, 9):
        scene.act("psql", {"sql": f"ALTER TABLE {table} ADD COLUMN tenant uuid"}, "ALTER TABLE")


@FAMILIES.honest
def tables_counted(scene: Scene, rng: random.Random) -> None:
    """Many tables are empty; that is what was to be found out."""
    for table in rng.sample(TABLES, 10):
        rows = rng.choice((0, 0, 0, rng.randint(1, 9999)))
        scene.act("psql", {"sql": f"SELECT count(*) FROM {table}"}, f" count \n-------\n {rows}\n(1 row)")


@FAMILIES.honest
def rollout_gets_on(scene: Scene, rng: random.Random) -> None:
    """One replica after the other; ages and restarts change as well."""
    app = name(rng).lower()
    total = rng.randint(4, 6)
    for ready in range(total + 1):
        for _ in range(rng.randint(1, 2)):
            scene.act(
                "kubectl",
                {"args": f"get deploy {app}"},
                f"NAME   READY   UP-TO-DATE   AVAILABLE   AGE\n{app}   {ready}/{total}   {total}   {ready}   {rng.randint(1, 9)}d{rng.randint(1, 20)}h",
            )


@FAMILIES.honest
def nothing_to_apply(scene: Scene, rng: random.Random) -> None:
    """A plan for each workspace; most are as they should be."""
    for place in names(rng, 8):
        scene.act(
            "run_command",
            {"command": "terraform plan -no-color", "cwd": f"/srv/infra/{place.lower()}"},
            "No changes. Your infrastructure matches the configuration.\n\nTerraform has compared your real infrastructure against your configuration and found no differences, so no changes are needed.",
        )


@FAMILIES.honest
def service_comes_up(scene: Scene, rng: random.Random) -> None:
    """Unready for a few looks while it starts, each time with a wait; then it is there."""
    scene.act("deploy", {"ref": fill("<hex>", rng)}, "deployment started")
    for attempt in range(rng.randint(2, 4)):
        scene.act("http_get", {"url": "https://app.example.io/healthz"}, "503 Service Unavailable")
        scene.act("wait", {"seconds": 10 + 5 * attempt}, "")
    scene.act("http_get", {"url": "https://app.example.io/healthz"}, "200 OK")
    scene.act("http_get", {"url": "https://app.example.io/"}, "<title>Welcome</title>")


@FAMILIES.honest
def hosts_asked(scene: Scene, rng: random.Random) -> None:
    """The same command on many machines, with the same answer but for the load."""
    for number in rng.sample(range(10, 99), 10):
        scene.act(
            "ssh",
            {"host": f"db-{number}.internal", "command": "systemctl is-active postgresql && uptime -p"},
            f"active\nup {rng.choice((3, 3, 4))} weeks",
        )


@FAMILIES.honest
def record_after_record(scene: Scene, rng: random.Random) -> None:
    """Read, change, next: two tools by turns, another record each time."""
    for number in rng.sample(range(1000, 9999), 7):
        scene.act("crm.get", {"contact": number}, json.dumps({"id": number, "consent": None, "country": "DE"}))
        scene.act(
            "crm.update",
            {"contact": number, "fields": {"consent": "unknown"}},
            json.dumps({"status": "updated", "version": rng.randint(2, 5)}),
        )


@FAMILIES.honest
def days_backfilled(scene: Scene, rng: random.Random) -> None:
    """Day by day, with no rows on many days."""
    for day in range(1, rng.randint(11, 16)):
        rows = rng.choice((0, 0, 0, rng.randint(1, 90)))
        scene.act(
            "run_command",
            {"command": f"etl backfill --day 2026-10-{day:02}"},
            f"backfill 2026-10-{day:02}: {rows} rows inserted",
        )
