"""Shapes of loops and of work crossed with trades: whatever a shape is, it is told in each trade's own words."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loops.family import Family
from loops.made_up import go_round, name, token
from loops.noise import fill
from loops.scene import Scene

Call = tuple[str, dict[str, Any]]
Shape = Callable[["Trade", Scene, random.Random], None]


@dataclass(frozen=True, kw_only=True)
class Trade:
    """How one trade asks, acts, acknowledges and fails; `<marks>` are what changes by itself."""

    name: str
    look: Call
    """How things stand; `{thing}` in its values is the thing."""
    state: str
    """Its answer: `{value}` is what matters."""
    values: tuple[str, ...]
    """Different states, in the order in which work would pass through them."""
    deed: Call
    """What can be done; `{thing}` and `{how}` in its values."""
    hows: tuple[str, ...]
    """Ways of doing it."""
    done: str
    """The acknowledgement."""
    failed: str
    """A failure that will not go away."""
    busy: str
    """A failure that will."""
    listing: Call
    """Many things, page by page: `{page}`."""
    row: str
    """One line of it: `{thing}`."""
    asks: tuple[str, ...]
    """One question in several wordings, for `{thing}`."""
    ask: str
    """The tool that is asked, with the argument `text`."""
    answer: str
    """What it answers to all of them."""


TRADES = (
    Trade(
        name="printer",
        look=("printer.state", {"id": "{thing}"}),
        state="state={value};bed=<seconds>;uptime_ms=<number>;fw=4.1",
        values=("heating", "homing", "layer 1 of 220", "layer 90 of 220", "layer 219 of 220", "cooling", "idle"),
        deed=("printer.gcode", {"id": "{thing}", "line": "{how}"}),
        hows=("G28", "M104 S200", "M140 S60", "G1 X10 Y10", "M24", "M25", "M18", "G92 E0"),
        done="ok T:<seconds> B:<seconds>",
        failed="!! Thermal runaway on hotend 0 (adc <number>)",
        busy="echo:busy: processing",
        listing=("printer.jobs", {"page": "{page}"}),
        row="{thing}.gcode 12h",
        asks=("nozzle for {thing}", "which nozzle for {thing}", "nozzle size for {thing}", "nozzle for part {thing}", "the nozzle for {thing}", "nozzle of {thing}", "nozzle for {thing}?", "best nozzle for {thing}"),
        ask="manual.search",
        answer="See chapter 4, 'Choosing a nozzle', and the table on page 31 of the handbook.",
    ),
    Trade(
        name="laboratory",
        look=("lims_sample", {"barcode": "{thing}"}),
        state="<sample><barcode>{thing}</barcode><stage>{value}</stage><asOf><iso></asOf><etag><hex></etag></sample>",
        values=("received", "aliquoted", "extracted", "amplified", "sequenced", "called", "reported"),
        deed=("lims_submit", {"barcode": "{thing}", "protocol": "{how}"}),
        hows=("P-10", "P-11", "P-20", "P-21", "P-30", "P-31", "P-40", "P-41"),
        done="<ack><ticket><uuid></ticket><message>submitted</message></ack>",
        failed="<fault><code>QC-7</code><reason>concentration below range</reason><correlation><uuid></correlation></fault>",
        busy="<fault><code>SYS-1</code><reason>instrument is busy, try again later</reason></fault>",
        listing=("lims_list", {"offset": "{page}"}),
        row="<s>{thing}</s>",
        asks=("protocol for {thing}", "protocol for sample {thing}", "the protocol for {thing}", "protocols for {thing}", "protocol of {thing}", "which protocol for {thing}", "protocol for {thing} please", "right protocol for {thing}"),
        ask="lims_help",
        answer="<hits><hit>SOP 12: general handling</hit><hit>SOP 13: cold chain</hit></hits>",
    ),
    Trade(
        name="video",
        look=("transcode_info", {"asset": "{thing}"}),
        state='{{"asset":"{thing}","phase":"{value}","node":"enc-<hex>","load":0.<number>,"seen":<epoch>}}',
        values=("probing", "splitting", "pass 1: 10%", "pass 1: 80%", "pass 2: 35%", "muxing", "published"),
        deed=("transcode", {"asset": "{thing}", "preset": "{how}"}),
        hows=("fast", "slow", "veryslow", "film", "grain", "animation", "tune-psnr", "tune-ssim"),
        done='{{"accepted":true,"jobId":"<uuid>"}}',
        failed="[h264 @ <address>] Invalid NAL unit size (<number> > 1422).\nError splitting the input into NAL units.",
        busy='{{"status":503,"detail":"no encoder available"}}',
        listing=("assets", {"after": "{page}"}),
        row="{thing}.mov  1080p",
        asks=("codec of {thing}", "codec for {thing}", "what codec is {thing}", "video codec of {thing}", "codec of file {thing}", "codec of {thing}?", "the codec of {thing}", "codecs of {thing}"),
        ask="knowledge",
        answer="Nothing in the knowledge base about this asset.",
    ),
    Trade(
        name="calendar",
        look=("freebusy", {"person": "{thing}"}),
        state="{thing}: {value}\n(calendar read <iso>, sync token <hex>)",
        values=("Mon 9-17 busy", "Mon 9-15 busy", "Mon 9-13 busy", "Mon 9-12 busy", "Mon 9-11 busy", "Mon 9-10 busy", "free"),
        deed=("propose_time", {"person": "{thing}", "slot": "{how}"}),
        hows=("Mon 10:00", "Mon 11:00", "Mon 14:00", "Mon 15:30", "Tue 9:00", "Tue 13:00", "Wed 8:30", "Thu 16:00"),
        done="Proposal sent, thread <hex>.",
        failed="Declined automatically: the attendee has a rule against external invitations. Ref <uuid>",
        busy="The calendar backend timed out, please retry.",
        listing=("people", {"page": "{page}"}),
        row="{thing} <{thing}@example.com>",
        asks=("time zone of {thing}", "timezone of {thing}", "what is the time zone of {thing}", "time zone for {thing}", "which time zone is {thing} in", "the time zone of {thing}", "time zone of {thing}?", "{thing} time zone"),
        ask="directory",
        answer="The directory keeps no such attribute.",
    ),
    Trade(
        name="names",
        look=("dig", {"name": "{thing}.example.net", "type": "TXT"}),
        state=';; status: NOERROR, id: <pid>\n{thing}.example.net. 300 IN TXT "{value}"\n;; Query time: <ms>\n;; WHEN: <time>',
        values=("v=0", "v=1", "v=2", "v=3", "v=4", "v=5", "v=6"),
        deed=("nsupdate", {"zone": "example.net", "record": "{thing}", "data": "{how}"}),
        hows=("v=6 ttl=60", "v=6 ttl=300", "v=6 ttl=30", "v=6 ttl=5", "v=6 ttl=90", "v=6 ttl=10", "v=6 ttl=15", "v=6 ttl=20"),
        done=";; UPDATE sent, serial 20261126<pid>",
        failed="; TSIG error with server: tsig verify failure (BADKEY) at <time>",
        busy=";; communications error: timed out",
        listing=("zone_records", {"start": "{page}"}),
        row="{thing} IN A 10.0.0.1",
        asks=("owner of {thing}", "who owns {thing}", "owner of zone {thing}", "owner for {thing}", "the owner of {thing}", "owners of {thing}", "owner of {thing}?", "current owner of {thing}"),
        ask="cmdb",
        answer="CMDB: 0 configuration items",
    ),
    Trade(
        name="warehouse",
        look=("shelf", {"bin": "{thing}"}),
        state="bin {thing}\n  count    {value}\n  scanned  <iso>\n  scanner  SC-<pid>",
        values=("90", "75", "60", "45", "30", "15", "0"),
        deed=("pick", {"bin": "{thing}", "arm": "{how}"}),
        hows=("left", "right", "both", "vacuum", "slow", "tilted", "assisted", "magnet"),
        done="arm moved (cycle <number>)",
        failed="grip not confirmed, sensor reading <number>",
        busy="arm in use by another order, wait",
        listing=("bins", {"aisle": "{page}"}),
        row="{thing}: 12 pcs",
        asks=("weight of {thing}", "how heavy is {thing}", "weight for {thing}", "weight of item {thing}", "the weight of {thing}", "weights of {thing}", "weight of {thing}?", "gross weight of {thing}"),
        ask="item_master",
        answer="weight: not maintained",
    ),
    Trade(
        name="chat",
        look=("channel_topic", {"channel": "{thing}"}),
        state="#{thing} topic: {value} (fetched in <ms>, cursor <hex>)",
        values=("draft", "in review", "one approval", "two approvals", "release candidate", "announced", "archived"),
        deed=("post", {"channel": "{thing}", "text": "{how}"}),
        hows=("hello all", "any news here", "please look", "reminder", "who can help", "urgent now", "last call", "thanks"),
        done="posted, ts=<epoch>.000200",
        failed="channel_restricted: only owners may do this (trace <uuid>)",
        busy="ratelimited: slow down",
        listing=("channels", {"cursor": "{page}"}),
        row="#{thing} 14 members",
        asks=("admin of {thing}", "who is admin of {thing}", "admins of {thing}", "admin for {thing}", "the admin of {thing}", "admin of channel {thing}", "admin of {thing}?", "{thing} admin"),
        ask="bot",
        answer="I did not understand that. Type 'help' for what I can do.",
    ),
    Trade(
        name="heating",
        look=("read_sensor", {"room": "{thing}"}),
        state="room: {thing}\nmode: {value}\nlast_frame: <time>\nrssi: -<pid>",
        values=("frost", "night", "eco", "warming", "comfort", "boost", "off"),
        deed=("write_setpoint", {"room": "{thing}", "value": "{how}"}),
        hows=("18.0", "19.0", "20.0", "20.5", "21.0", "21.5", "22.0", "23.0"),
        done="frame <hex> acknowledged",
        failed="NACK 0x1F: valve reports blocked (seq <number>)",
        busy="bus is busy",
        listing=("rooms", {"floor": "{page}"}),
        row="{thing} 21 C",
        asks=("valve type in {thing}", "valve in {thing}", "type of valve in {thing}", "valve types in {thing}", "which valve in {thing}", "the valve in {thing}", "valve type in {thing}?", "valve type for {thing}"),
        ask="docs",
        answer="Documents: Installation guide; Warranty; Declaration of conformity.",
    ),
    Trade(
        name="tickets",
        look=("issue", {"key": "{thing}"}),
        state="{thing} | status: {value} | watchers: 3 | viewed <iso> | session <hex>",
        values=("To do", "Selected", "In progress", "Code review", "QA", "Staging", "Done"),
        deed=("transition", {"key": "{thing}", "to": "{how}"}),
        hows=("Done", "Closed", "Resolved", "Verified", "Released", "Complete", "Finished", "Shipped"),
        done="OK (operation <uuid>)",
        failed="Workflow validator said: field 'Root cause' must be set. errorId=<hex>",
        busy="Service temporarily unavailable",
        listing=("board", {"startAt": "{page}"}),
        row="{thing} Minor",
        asks=("{thing} root cause", "root cause of {thing}", "what is the root cause of {thing}", "root cause for {thing}", "the root cause of {thing}", "root causes of {thing}", "root cause of {thing}?", "likely root cause of {thing}"),
        ask="ask_wiki",
        answer="3 pages: Onboarding / Glossary / Root cause analysis (template)",
    ),
    Trade(
        name="satellites",
        look=("pass_plan", {"sat": "{thing}"}),
        state="SAT {thing} STATUS {value} TCA <time> AZ <number> EL <pid>",
        values=("UNSCHEDULED", "REQUESTED", "TENTATIVE", "CONFIRMED", "TRACKING", "DOWNLINKED", "ARCHIVED"),
        deed=("request_pass", {"sat": "{thing}", "station": "{how}"}),
        hows=("Kiruna", "Svalbard", "Redu", "Perth", "Inuvik", "Awarua", "Kourou", "Matera"),
        done="REQ <number> LOGGED",
        failed="REJECT CONFLICT WITH PRIORITY USER (MSG <number>)",
        busy="STATION BUSY RETRY",
        listing=("catalogue", {"block": "{page}"}),
        row="{thing} LEO",
        asks=("antenna for {thing}", "which antenna for {thing}", "antenna of {thing}", "antennas for {thing}", "the antenna for {thing}", "antenna for sat {thing}", "antenna for {thing}?", "best antenna for {thing}"),
        ask="ops_manual",
        answer="REFER TO ICD SECTION 5 (GROUND SEGMENT)",
    ),
    Trade(
        name="sheets",
        look=("cell", {"ref": "{thing}"}),
        state="{thing} = {value}   [recalculated <time>, <number> cells]",
        values=("#REF!", "#VALUE!", "#N/A", "0.00", "12.50", "99.10", "100.00"),
        deed=("set_formula", {"ref": "{thing}", "formula": "{how}"}),
        hows=("=A1+B1", "=SUM(A1:B1)", "=A1-B1", "=IF(A1;B1;0)", "=INDEX(A:A;1)", "=VLOOKUP(1;A:B;2)", "=N(A1)", "=ROUND(A1;2)"),
        done="1 cell written, revision <number>",
        failed="Circular dependency detected (check <hex>)",
        busy="Another user is editing this range, try again in a moment",
        listing=("rows", {"from": "{page}"}),
        row="{thing}; 4; yes",
        asks=("meaning of {thing}", "what does {thing} mean", "meaning of column {thing}", "meaning for {thing}", "the meaning of {thing}", "meanings of {thing}", "meaning of {thing}?", "exact meaning of {thing}"),
        ask="describe_sheet",
        answer="This sheet has no notes.",
    ),
    Trade(
        name="forge",
        look=("checks", {"pr": "{thing}"}),
        state="- state: {value}\n  run_id: <number>\n  html_url: https://forge.example/runs/<number>\n  took: <seconds>",
        values=("queued", "lint running", "lint passed, tests running", "tests passed, e2e running", "e2e passed", "mergeable", "merged"),
        deed=("comment", {"pr": "{thing}", "body": "{how}"}),
        hows=("/retest", "/test all", "/rerun", "/retry", "/ok-to-test", "/approve", "/lgtm", "/merge"),
        done="comment <number> created",
        failed="422 Validation Failed: required status check 'cla' is expected (x-request <hex>)",
        busy="502 Bad Gateway",
        listing=("prs", {"page": "{page}"}),
        row="!{thing} chore",
        asks=("reviewer for {thing}", "who reviews {thing}", "reviewers for {thing}", "reviewer of {thing}", "the reviewer for {thing}", "reviewer for pr {thing}", "reviewer for {thing}?", "good reviewer for {thing}"),
        ask="codeowners",
        answer="no owner matches",
    ),
)  # fmt: skip

LOOP_SHAPES: dict[str, list[Shape]] = {}
WORK_SHAPES: list[Shape] = []


def _loop(kind: str) -> Callable[[Shape], Shape]:
    def remember(shape: Shape) -> Shape:
        LOOP_SHAPES.setdefault(kind, []).append(shape)
        return shape

    return remember


def _work(shape: Shape) -> Shape:
    WORK_SHAPES.append(shape)
    return shape


def halves() -> tuple[tuple[dict[str, list[Family]], list[Family]], tuple[dict[str, list[Family]], list[Family]]]:
    """Every second trade, by lot, and the others."""
    trades = sorted(TRADES, key=lambda trade: trade.name)
    random.Random("2026-11-26 mixtures").shuffle(trades)
    return _families(trades[::2]), _families(trades[1::2])


def _families(trades: list[Trade]) -> tuple[dict[str, list[Family]], list[Family]]:
    loops = {kind: [_family(s, t) for s in those for t in trades] for kind, those in LOOP_SHAPES.items()}
    return loops, [_family(shape, trade) for shape in WORK_SHAPES for trade in trades]


def _family(shape: Shape, trade: Trade) -> Family:
    def family(rng: random.Random) -> Scene:
        scene = Scene(rng)
        shape(trade, scene, rng)
        return scene

    family.__name__ = f"{trade.name}_{shape.__name__}"
    return family


def _thing(rng: random.Random) -> str:
    return f"{name(rng, 2).lower()}{rng.choice(('', '', '-'))}{rng.randint(1, 99)}"


def _asked(call: Call, **known: object) -> Call:
    return call[0], {key: value.format(**known) for key, value in call[1].items()}


def _look(trade: Trade, scene: Scene, rng: random.Random, thing: str, value: str) -> None:
    scene.act(*_asked(trade.look, thing=thing), fill(trade.state.format(thing=thing, value=value), rng))


def _do(trade: Trade, scene: Scene, rng: random.Random, thing: str, how: str) -> None:
    scene.act(*_asked(trade.deed, thing=thing, how=how), fill(trade.done.format(thing=thing), rng))


def _fail(trade: Trade, scene: Scene, rng: random.Random, thing: str, how: str, what: str) -> None:
    said = fill(what.format(thing=thing), rng)
    tool, arguments = _asked(trade.deed, thing=thing, how=how)
    # Half of the world's tools do not mark their failures.
    if len(trade.name) % 2:
        scene.act(tool, arguments, said)
    else:
        scene.act(tool, arguments, error=said, error_type="ToolFailed")


# --- loops ------------------------------------------------------------------------------------------------------------


@_loop("identical")
def looks_again(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """The same look at what stays, but for noise."""
    thing = _thing(rng)
    go_round(scene, 10, 3, lambda _: _look(trade, scene, rng, thing, trade.values[2]))


@_loop("identical")
def fails_again(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """The same deed and the same failure, but for noise."""
    thing, how = _thing(rng), rng.choice(trade.hows)
    go_round(scene, 8, 2, lambda _: _fail(trade, scene, rng, thing, how, trade.failed))


@_loop("identical")
def does_again(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """The same deed, acknowledged each time, and nobody looks."""
    thing, how = _thing(rng), rng.choice(trade.hows)
    go_round(scene, 9, 3, lambda _: _do(trade, scene, rng, thing, how))


@_loop("stuck_state")
def tries_everything(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """Another way each time, and the same state after each."""
    thing, hows = _thing(rng), rng.sample(trade.hows, 8)

    def body(index: int) -> None:
        _do(trade, scene, rng, thing, hows[index])
        _look(trade, scene, rng, thing, trade.values[1])

    go_round(scene, 8, 3, body)


@_loop("stuck_state")
def fails_in_every_way(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """Another way each time, and the same failure."""
    thing, hows = _thing(rng), rng.sample(trade.hows, 8)
    go_round(scene, 8, 4, lambda index: _fail(trade, scene, rng, thing, hows[index], trade.failed))


@_loop("alternating")
def to_and_fro(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """Done, looked at, done the other way, looked at."""
    thing, (one, other) = _thing(rng), rng.sample(trade.hows, 2)

    def body(_: int) -> None:
        _do(trade, scene, rng, thing, one)
        _look(trade, scene, rng, thing, trade.values[0])
        _do(trade, scene, rng, thing, other)
        _look(trade, scene, rng, thing, trade.values[3])

    go_round(scene, 4, 1, body)


@_loop("alternating")
def three_in_a_ring(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """A look, a deed that fails, a look at another thing."""
    thing, other, how = _thing(rng), _thing(rng), rng.choice(trade.hows)

    def body(_: int) -> None:
        _look(trade, scene, rng, thing, trade.values[1])
        _fail(trade, scene, rng, thing, how, trade.failed)
        _look(trade, scene, rng, other, trade.values[4])

    go_round(scene, 5, 1, body)


@_loop("near_identical")
def asks_in_other_words(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """One question in other words, and one answer."""
    thing = name(rng).lower()
    _look(trade, scene, rng, thing, trade.values[0])
    asks = rng.sample(trade.asks, 8)
    go_round(scene, 8, 3, lambda i: scene.act(trade.ask, {"text": asks[i].format(thing=thing)}, trade.answer))


# --- work -------------------------------------------------------------------------------------------------------------


@_work
def state_moves(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """Looked at until it is done; it may stay as it is for two looks."""
    thing = _thing(rng)
    for value in trade.values:
        for _ in range(rng.choice((1, 1, 2))):
            _look(trade, scene, rng, thing, value)


@_work
def thing_by_thing(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """One deed for many things, acknowledged alike."""
    how = rng.choice(trade.hows)
    for _ in range(10):
        _do(trade, scene, rng, _thing(rng), how)


@_work
def looked_at_one_by_one(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """Many things, most of them in the same state."""
    for _ in range(10):
        _look(trade, scene, rng, _thing(rng), rng.choice((trade.values[6], trade.values[6], trade.values[3])))


@_work
def done_and_looked_at(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """A deed, a look, and it has moved; the deed may be the same each time."""
    thing = _thing(rng)
    same = rng.random() < 0.5
    for index, value in enumerate(trade.values):
        _do(trade, scene, rng, thing, trade.hows[0 if same else index])
        _look(trade, scene, rng, thing, value)


@_work
def some_fail(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """One deed for many things; a few of them fail, and are left."""
    how = rng.choice(trade.hows)
    for index in range(12):
        thing = _thing(rng)
        if index % 4 in (1, 2):
            _fail(trade, scene, rng, thing, how, trade.failed)
        else:
            _do(trade, scene, rng, thing, how)


@_work
def waits_for_the_busy(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """Busy once or twice for each thing, waited for, and then it is done."""
    for _ in range(4):
        thing, how = _thing(rng), rng.choice(trade.hows)
        for attempt in range(rng.randint(1, 2)):
            _fail(trade, scene, rng, thing, how, trade.busy)
            scene.act("wait", {"seconds": 5 * (attempt + 1)}, "")
        _do(trade, scene, rng, thing, how)


@_work
def page_after_page(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """Pages of a list, by number or by a token."""
    by_token = rng.random() < 0.5
    for page in range(8):
        tool, arguments = _asked(trade.listing, page=token(rng, 12) if by_token else page * 3)
        scene.act(tool, arguments, "\n".join(trade.row.format(thing=_thing(rng)) for _ in range(3)))


@_work
def finds_out_why(trade: Trade, scene: Scene, rng: random.Random) -> None:
    """The deed fails three times; something new is learnt in between; then it is done."""
    thing, how = _thing(rng), rng.choice(trade.hows)
    for index in range(3):
        _fail(trade, scene, rng, thing, how, trade.failed)
        scene.act(
            trade.ask,
            {"text": trade.asks[index].format(thing=name(rng).lower())},
            f"{name(rng)}: {name(rng)} {name(rng)}, {name(rng)}",
        )
        _look(trade, scene, rng, _thing(rng), trade.values[index])
    _do(trade, scene, rng, thing, how)
