"""Agents that run clusters, pipelines and networks."""

import json
import random

from loops.family import Families
from loops.made_up import form, go_round, name, names, phrase, prelude, token
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()


def _service(rng: random.Random) -> str:
    return f"{name(rng, 2).lower()}-{rng.choice(('api', 'web', 'db', 'worker', 'edge'))}"


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def manifest_refused(scene: Scene, rng: random.Random) -> None:
    """One manifest is applied over and over; a webhook says no, at another time each time."""
    prelude(scene)
    what = {"manifest": f"kind: Deployment\nmetadata:\n  name: {_service(rng)}\nspec:\n  replicas: 3\n"}
    said = (
        'Error from server: admission webhook "policy.guard" denied the request at <iso>: label "owner" must be set '
        "(uid <uuid>)"
    )
    go_round(scene, 8, 2, lambda _: scene.act("apply_manifest", what, error=fill(said, rng), error_type="ApiError"))


@FAMILIES.loop("identical")
def release_stays_locked(scene: Scene, rng: random.Random) -> None:
    """Another operation is in progress, and stays so."""
    prelude(scene)
    what = {"release": _service(rng), "revision": rng.randint(2, 30)}
    said = "UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress"
    go_round(scene, 9, 3, lambda _: scene.act("helm_rollback", what, error=said, error_type="CommandFailed"))


@FAMILIES.loop("near_identical")
def volume_guessed(scene: Scene, rng: random.Random) -> None:
    """A disk is described under one made-up name after the other."""
    prelude(scene)
    base = name(rng, 2).lower()
    forms = [f"{base}-data", f"{base}_data", f"{base}-vol", f"{base}data", f"{base}-data-1", f"{base}-disk",
             f"{base}-data-0", f"data-{base}", f"{base}-pvc"]  # fmt: skip
    rng.shuffle(forms)

    def body(index: int) -> None:
        said = f"<Response><Errors><Error><Code>InvalidVolume.NotFound</Code><Message>The volume '{forms[index]}' does "
        said += f"not exist.</Message></Error></Errors><RequestID>{fill('<uuid>', rng)}</RequestID></Response>"
        scene.act("describe_volume", {"volume": forms[index]}, error=said, error_type="ClientError")

    go_round(scene, 9, 3, body)


@FAMILIES.loop("alternating")
def up_and_down(scene: Scene, rng: random.Random) -> None:
    """Scaled to five, scaled to two, scaled to five."""
    prelude(scene)
    service = _service(rng)

    def body(_: int) -> None:
        scene.act("scale", {"deployment": service, "replicas": 5}, f"deployment.apps/{service} scaled")
        scene.act("scale", {"deployment": service, "replicas": 2}, f"deployment.apps/{service} scaled")

    go_round(scene, 5, 1, body)


@FAMILIES.loop("alternating")
def drained_and_back(scene: Scene, rng: random.Random) -> None:
    """Cordon, drain (refused), uncordon; again."""
    prelude(scene)
    node, pod = name(rng).lower(), _service(rng)

    def body(_: int) -> None:
        scene.act("cordon", {"node": node}, f"node/{node} cordoned")
        said = f"error when evicting pods/{pod}: Cannot evict pod as it would violate the pod's disruption budget."
        scene.act("drain", {"node": node}, error=said, error_type="CommandFailed")
        scene.act("uncordon", {"node": node}, f"node/{node} uncordoned")

    go_round(scene, 5, 1, body)


@FAMILIES.loop("stuck_state")
def control_plane_gone(scene: Scene, rng: random.Random) -> None:
    """Whatever is asked, nobody listens there."""
    prelude(scene)
    address = f"10.{rng.randint(0, 99)}.0.1:6443"
    asks = ["get pods", "get nodes -o wide", "cluster-info", "get events", "version", "get ns", "top nodes", "api-resources",
            "describe node", "get deploy -A", "auth can-i list pods"]  # fmt: skip
    rng.shuffle(asks)
    said = f"The connection to the server {address} was refused - did you specify the right host or port?"

    def body(index: int) -> None:
        scene.act("kubectl", {"args": asks[index]}, error=said, error_type="CommandFailed")

    go_round(scene, 11, 4, body)


@FAMILIES.loop("stuck_state")
def event_that_comes_back(scene: Scene, rng: random.Random) -> None:
    """Restart, patch, delete; the events show the same each time but for their age."""
    prelude(scene)
    pod, image = _service(rng), f"registry.test/{name(rng).lower()}:{rng.randint(1, 9)}"
    deeds = ["restart", "patch", "delete_pod", "set_env", "set_limits"]

    def body(index: int) -> None:
        value = phrase(rng, 1)
        scene.act(rng.choice(deeds), {"target": pod, "value": value}, f"{pod} {rng.choice(('patched', 'restarted'))}")
        said = f"Warning  Failed  {rng.randint(1, 59)}s ago  kubelet  Failed to pull image {image}: manifest unknown"
        scene.act("events", {"target": pod}, said)

    go_round(scene, 7, 3, body)


@FAMILIES.loop("identical")
def planned_and_planned(scene: Scene, rng: random.Random) -> None:
    """The plan is made again and again, and nothing is applied."""
    prelude(scene)
    resources = [f'  + resource "bucket" "{item}"' for item in names(rng, 3)]
    said = "\n".join(("Refreshing state... [took <seconds>]", *resources, "Plan: 3 to add, 0 to change, 0 to destroy."))
    go_round(scene, 7, 2, lambda _: scene.act("plan_infrastructure", {"dir": "live/eu"}, fill(said, rng)))


@FAMILIES.loop("stuck_state")
def alarm_stays(scene: Scene, rng: random.Random) -> None:
    """The alarm is acknowledged, muted, annotated, and is there as before."""
    prelude(scene)
    alarm = {"alarm": token(rng, 5), "state": "FIRING", "on": _service(rng), "value": rng.randint(80, 99)}
    writes = form(rng)

    def body(_: int) -> None:
        scene.act(rng.choice(("ack", "mute", "annotate")), {"id": alarm["alarm"], "note": phrase(rng, 3)}, "accepted")
        scene.act("list_alarms", {"scope": "prod"}, writes(alarm))

    go_round(scene, 7, 3, body)


@FAMILIES.loop("near_identical")
def logs_with_other_flags(scene: Scene, rng: random.Random) -> None:
    """The same empty log, asked for with other windows."""
    prelude(scene)
    service = _service(rng)
    flags = ["--since=1h", "--since=2h", "--tail=100", "--tail=500", "--since=24h", "--previous", "--all-containers",
             "--tail=-1", "--since=48h"]  # fmt: skip
    rng.shuffle(flags)
    said = rng.choice(("", f"No logs for {service} in this window.", '{"lines": []}'))
    go_round(scene, 9, 4, lambda index: scene.act("logs", {"service": service, "flags": flags[index]}, said))


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def rollout_watched(scene: Scene, rng: random.Random) -> None:
    """Replica after replica is replaced."""
    prelude(scene)
    service, total = _service(rng), rng.randint(5, 9)
    for done in range(total):
        said = f'Waiting for deployment "{service}" rollout to finish: {done} out of {total} new replicas have been updated'
        for _ in range(rng.choice((1, 1, 2))):
            scene.act("rollout_status", {"deployment": service}, said)
    scene.act("rollout_status", {"deployment": service}, f'deployment "{service}" successfully rolled out')


@FAMILIES.honest
def nodes_one_by_one(scene: Scene, rng: random.Random) -> None:
    """Cordon, drain and patch node after node, in the same words."""
    for _ in range(rng.randint(4, 6)):
        node = f"node-{token(rng, 4)}"
        scene.act("cordon", {"node": node}, f"node/{node} cordoned")
        scene.act("drain", {"node": node}, f"node/{node} drained")
        scene.act("uncordon", {"node": node}, f"node/{node} uncordoned")


@FAMILIES.honest
def log_followed(scene: Scene, rng: random.Random) -> None:
    """The same call gives the lines that have come since."""
    prelude(scene)
    for _ in range(rng.randint(6, 10)):
        lines = [f"{fill('<iso>', rng)} INFO {phrase(rng, 5)}" for _ in range(rng.randint(1, 4))]
        scene.act("tail", {"unit": "ingest", "follow": True}, "\n".join(lines))


@FAMILIES.honest
def stacks_applied(scene: Scene, rng: random.Random) -> None:
    """Stack after stack; most of them add one resource."""
    prelude(scene)
    for stack in names(rng, rng.randint(7, 10)):
        said = f"Apply complete! Resources: {rng.choice((1, 1, 1, 2, 0))} added, 0 changed, 0 destroyed."
        scene.act("apply_stack", {"stack": stack.lower()}, said)


@FAMILIES.honest
def name_spreads(scene: Scene, rng: random.Random) -> None:
    """A new name that is not known yet, asked after with longer waits."""
    prelude(scene)
    host = f"{name(rng).lower()}.test"
    for index in range(rng.randint(2, 3)):
        scene.act("resolve", {"host": host}, f"NXDOMAIN: {host}")
        scene.act("sleep", {"seconds": 15 * 2**index}, "")
    scene.act("resolve", {"host": host}, f"{host} -> 192.0.2.{rng.randint(1, 250)}")
    for _ in range(4):
        scene.act("fetch_page", {"url": f"https://{host}/{token(rng, 4)}"}, phrase(rng, 12))


@FAMILIES.honest
def load_sampled(scene: Scene, rng: random.Random) -> None:
    """One gauge read again and again; it goes up and down."""
    prelude(scene)
    value, service = rng.randint(30, 60), _service(rng)
    for _ in range(rng.randint(7, 12)):
        value += rng.choice((-7, -4, -2, 3, 5, 8))
        scene.act("gauge", {"service": service, "metric": "cpu"}, json.dumps({"cpu_percent": value}))


@FAMILIES.honest
def secrets_rotated(scene: Scene, rng: random.Random) -> None:
    """Secret after secret, one acknowledgement for all."""
    prelude(scene)
    said = rng.choice(("rotated", "Secret rotated.", '{"status":"rotated"}', "204 No Content"))
    for secret in names(rng, rng.randint(7, 12)):
        scene.act("rotate_secret", {"name": secret.lower(), "bytes": 32}, said)


@FAMILIES.honest
def all_are_well(scene: Scene, rng: random.Random) -> None:
    """Service after service is looked at; most say the same."""
    prelude(scene)
    writes = form(rng)
    for _ in range(rng.randint(8, 14)):
        state = rng.choice(("UP", "UP", "UP", "UP", "DEGRADED"))
        scene.act("health", {"service": _service(rng)}, writes({"status": state, "checks": 4}))


@FAMILIES.honest
def certificates(scene: Scene, rng: random.Random) -> None:
    """Host after host; a certificate each, some that run out on the same day."""
    prelude(scene)
    for _ in range(rng.randint(7, 12)):
        day = rng.choice(("2027-02-01", "2027-02-01", "2027-03-14", "2026-12-24"))
        scene.act("inspect_tls", {"host": f"{name(rng).lower()}.test:443"}, f"issuer=R11\nnotAfter={day}")


@FAMILIES.honest
def runner_comes_late(scene: Scene, rng: random.Random) -> None:
    """No runner is free, twice or three times with growing waits; then the job runs through its stages."""
    prelude(scene)
    job = {"job": rng.randint(1000, 9999)}
    for index in range(rng.randint(2, 3)):
        scene.act("job_status", job, '{"status": "queued", "runner": null}')
        scene.act("pause", {"seconds": 20 * (index + 1)}, "ok")
    for stage in ("checkout", "build", "unit", "package", "publish"):
        scene.act("job_status", job, json.dumps({"status": "running", "stage": stage}))
    scene.act("job_status", job, '{"status": "success"}')


@FAMILIES.honest
def pods_mended_one_by_one(scene: Scene, rng: random.Random) -> None:
    """Each fix shows the next thing that is wrong."""
    prelude(scene)
    pod = _service(rng)
    for missing in names(rng, rng.randint(4, 6)):
        said = f"CrashLoopBackOff: environment variable {missing.upper()} is required"
        scene.act("events", {"target": pod}, said)
        scene.act("set_env", {"target": pod, "name": missing.upper(), "value": token(rng)}, "deployment updated")
    scene.act("events", {"target": pod}, "Started container main")


@FAMILIES.honest
def rules_listed(scene: Scene, rng: random.Random) -> None:
    """Firewall rules by page token; the rules look much alike."""
    prelude(scene)
    mark = ""
    for _ in range(rng.randint(5, 9)):
        after = token(rng, 16)
        rules = [f"allow tcp 10.0.{rng.randint(0, 255)}.0/24 -> {rng.choice((22, 80, 443))}" for _ in range(5)]
        scene.act("list_rules", {"network": "main", "pageToken": mark}, "\n".join((*rules, f"nextPageToken: {after}")))
        mark = after


@FAMILIES.honest
def backups_checked(scene: Scene, rng: random.Random) -> None:
    """Backup after backup is verified; some are broken in the same way."""
    prelude(scene)
    writes = form(rng)
    for index in range(rng.randint(8, 12)):
        bad = index % 5 in (2, 3)
        said = {"checksum": "mismatch" if bad else "match", "entries": rng.randint(100, 999)}
        scene.act(
            "verify_backup",
            {"archive": f"{token(rng, 8)}.tar.zst"},
            writes(said if not bad else {**said, "entries": 0}),
        )
