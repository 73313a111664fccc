"""A story in which all is well although two processes were killed, and the means to make it wrong."""

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from chaos.case import RUN_STREAM
from chaos.evidence import Anchor, Budget, Evidence, Row, Run, Step, Strike
from chaos.journal_rules import hash_of
from chaos.ledger import Call, Effect, Knock

from chargehand.orchestrator import plan
from chargehand.orchestrator.facts import (
    CallAbandoned,
    Fact,
    ModelRequested,
    ModelResponded,
    RunFinished,
    RunSubmitted,
    StepAnchor,
    StepClaimed,
    StepFinished,
    StepRecovered,
    StepsAnchored,
    ToolFinished,
    ToolStarted,
    Usage,
)

BEGAN = datetime(2026, 11, 25, 12, tzinfo=UTC)
TENANT = UUID(int=7)
RUN = UUID(int=8)
AUDIT_KEY = b"a key outside the database"
LEASE_SECONDS = 15.0
USAGE = Usage(input_tokens=11, output_tokens=7)
PLAN = plan.Plan.of(
    [
        plan.Step(key="load", kind="script", script="count", pool="audit"),
        plan.Step(key="post", kind="agent", role="runner", pool="audit", after=("load",)),
        plan.Step(key="end", kind="script", script="count", pool="audit", after=("post",)),
    ]
)


def call_id(number: int) -> UUID:
    return uuid5(RUN, f"call {number}")


def step_id(key: str) -> UUID:
    return plan.step_id(RUN, key)


def clock(seconds: float) -> float:
    """A moment of the story on the ledger's clock."""
    return BEGAN.timestamp() + seconds


@dataclass(kw_only=True)
class Written:
    """A row of the story: its stream (None: the run's), its epoch, its moment and its fact."""

    stream: str | None
    at: float
    epoch: int
    fact: Fact


def claimed(pid: int, *, crashes: int = 0, takeover: bool = False) -> StepClaimed:
    return StepClaimed(holder=f"audit@host:{pid}", crashes=crashes, takeover=takeover)


def requested(number: int, reserved: int = 100) -> ModelRequested:
    return ModelRequested(
        call_id=call_id(number),
        turn=number,
        model="m",
        tier="small",
        routed_because="",
        prompt_hash=f"prompt {number}",
        max_tokens=10,
        reserved_microusd=reserved,
    )


def responded(number: int, cost: int = 40) -> ModelResponded:
    return ModelResponded(
        call_id=call_id(number), model="m", content=(), stop_reason="tool_use", usage=USAGE, cost_microusd=cost
    )


def started(key: str = "k") -> ToolStarted:
    return ToolStarted(tool_use_id="use", tool="post", effect="idempotent", key=key, timeout_seconds=2)


def tool_finished() -> ToolFinished:
    return ToolFinished(tool_use_id="use", tool="post", arguments={}, outcome="ok", content="done")


def finished(outcome: str = "succeeded") -> StepFinished:
    return StepFinished.model_validate({"outcome": outcome})


@dataclass(kw_only=True)
class Story:
    """The story, row by row; `evidence` makes hashes and tables of it, so that a change is wrong in one way only."""

    rows: list[Written]
    knocks: list[Knock]
    effects: list[Effect]
    calls: list[Call]
    strikes: list[Strike]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    """step key, `run` or `budget` → what the tables say otherwise than the journal."""
    rest: dict[str, Any] = field(default_factory=dict)
    """Fields of the evidence."""
    is_anchored: bool = True

    def find(self, stream: str | None, kind: str, nth: int = 0) -> Written:
        return [row for row in self.rows if row.stream == stream and row.fact.kind == kind][nth]

    def remove(self, stream: str | None, kind: str, nth: int = 0) -> None:
        self.rows.remove(self.find(stream, kind, nth))

    def change(self, stream: str | None, kind: str, nth: int = 0, *, at: float | None = None, **fields: Any) -> None:
        """Write other fields into a fact, another epoch, or another moment."""
        row = self.find(stream, kind, nth)
        row.at = row.at if at is None else at
        row.epoch = fields.pop("epoch", row.epoch)
        row.fact = row.fact.model_copy(update=fields)

    def write(self, stream: str | None, at: float, epoch: int, fact: Fact) -> None:
        """One row more, at its moment."""
        self.rows.append(Written(stream=stream, at=at, epoch=epoch, fact=fact))

    def evidence(self) -> Evidence:
        streams: dict[str | None, list[Row]] = {key: self._stream(key) for key in ("load", "post", "end")}
        streams[None] = self._stream(None, [rows[-1] for rows in streams.values() if rows])
        steps = [self._step(step, streams[step.key]) for step in PLAN.steps]
        head = streams[None][-1]
        run = {"id": RUN, "tenant": TENANT, "status": "succeeded", "head_seq": head.seq, "plan_version": 1}
        budget = {"run": RUN, "cap_microusd": 1_000, "drawn_microusd": sum(step.allotment_microusd for step in steps)}
        return replace(
            Evidence(
                accepted=frozenset({RUN}),
                runs=[Run(**{**run, "finished_at": head.at, **self.tables.get("run", {})})],
                steps=steps,
                edges=frozenset((step_id(key), step_id(step.key)) for step in PLAN.steps for key in step.after),
                budgets=[Budget(**{**budget, **self.tables.get("budget", {})})],
                journal=[row for rows in streams.values() for row in rows],
                anchors=[self._anchor(head)] if self.is_anchored else [],
                knocks=self.knocks,
                effects=self.effects,
                calls=self.calls,
                strikes=self.strikes,
                audit_key=AUDIT_KEY,
                lease_seconds=LEASE_SECONDS,
            ),
            **self.rest,
        )

    def _stream(self, key: str | None, ends: list[Row] | None = None) -> list[Row]:
        rows: list[Row] = []
        for written in sorted((row for row in self.rows if row.stream == key), key=lambda row: row.at):
            fact = written.fact
            if isinstance(fact, StepsAnchored) and ends is not None and not fact.anchors:
                fact = StepsAnchored(
                    anchors=tuple(StepAnchor(step=end.step, seq=end.seq, hash=end.hash.hex()) for end in ends)
                )
            body, salt = fact.model_dump_json(), b"salt"
            row = Row(
                tenant=TENANT,
                run=RUN,
                step=RUN_STREAM if key is None else step_id(key),
                seq=len(rows) + 1,
                kind=fact.kind,
                schema_version=1,
                epoch=written.epoch,
                at=BEGAN + timedelta(seconds=written.at),
                body=body,
                salt=salt,
                body_hash=hashlib.sha256(salt + body.encode()).digest(),
                hash=b"",
            )
            rows.append(replace(row, hash=hash_of(rows[-1].hash if rows else b"", row)))
        return rows

    def _step(self, step: plan.Step, rows: list[Row]) -> Step:
        spent = sum(row.fact.get("cost_microusd", 0) + row.fact.get("charged_microusd", 0) for row in rows)
        values = {
            "id": step_id(step.key),
            "run": RUN,
            "key": step.key,
            "spec": step.model_dump(mode="json"),
            "status": "succeeded",
            "epoch": max((row.epoch for row in rows), default=0),
            "crashes": 0,
            "head_seq": len(rows),
            "lease_until": None,
            "holder": None,
            "allotment_microusd": spent,
            "reserved_microusd": 0,
            "spent_microusd": spent,
        }
        return Step(**{**values, **self.tables.get(step.key, {})})

    @staticmethod
    def _anchor(head: Row) -> Anchor:
        digest = hashlib.sha256(head.hash + f"{TENANT}|1|{RUN}|{head.seq}".encode()).digest()
        return Anchor(
            tenant=TENANT,
            seq=1,
            run=RUN,
            run_seq=head.seq,
            run_hash=head.hash,
            hash=digest,
            seal=hmac.digest(AUDIT_KEY, digest, "sha256"),
        )


def knock(step: str, at: float, *, key: str = "", pid: int = 11) -> Knock:
    key = key or str(step_id(step))
    return Knock(run=str(RUN), step=step, key=key, name="count", pid=pid, at=clock(at))


def effect(step: str, at: float, *, key: str = "", pid: int = 11, kind: Any = "idempotent") -> Effect:
    key = key or str(step_id(step))
    return Effect(run=str(RUN), step=step, key=key, name="count", kind=kind, pid=pid, at=clock(at), repeated=False)


def call(number: int, at: float, *, prompt: str = "", outcome: str = "ok", billed: bool = True) -> Call:
    return Call(
        run=str(RUN),
        step=str(step_id("post")),
        call=str(call_id(number)),
        model="m",
        finish_tool="submit_result",
        prompt_hash=prompt or f"prompt {number}",
        stream=False,
        received_at=clock(at),
        outcome=outcome,
        answered_at=clock(at + 0.5),
        billed=billed,
        input_tokens=USAGE.input_tokens,
        output_tokens=USAGE.output_tokens,
        cache_write_tokens=0,
        cache_read_tokens=0,
    )


def strike(pid: int, at: float) -> Strike:
    return Strike(what="kill audit", at=clock(at), until=clock(at), pid=pid)


def story() -> Story:
    """Process 11 is killed in the middle of a tool, process 12 in the middle of a call, process 13 ends the work."""
    submitted = RunSubmitted(goal="Test this", plan=PLAN, budget_microusd=1_000)
    lines: list[tuple[str | None, float, int, Fact]] = [
        (None, 0, 0, submitted),
        ("load", 1, 1, claimed(11)),
        ("load", 3, 1, finished()),
        ("post", 5, 1, claimed(11)),
        ("post", 6, 1, requested(1)),
        ("post", 7, 1, responded(1)),
        ("post", 8, 1, started()),
        ("post", 25, 1, StepRecovered(crashes=1)),
        ("post", 26, 2, claimed(12, crashes=1)),
        ("post", 27, 2, tool_finished()),
        ("post", 28, 2, requested(2)),
        ("post", 44, 2, StepRecovered(crashes=2)),
        ("post", 45, 3, claimed(13, crashes=2)),
        ("post", 46, 3, CallAbandoned(call_id=call_id(2), charged_microusd=100)),
        ("post", 47, 3, requested(3)),
        ("post", 48, 3, responded(3, cost=60)),
        ("post", 49, 3, finished()),
        ("end", 51, 1, claimed(13)),
        ("end", 53, 1, finished()),
        (None, 60, 0, StepsAnchored(anchors=())),
        (None, 61, 0, RunFinished(outcome="succeeded")),
    ]
    return Story(
        rows=[Written(stream=stream, at=at, epoch=epoch, fact=fact) for stream, at, epoch, fact in lines],
        knocks=[
            knock("load", 1.5),
            knock("post", 8.2, key="k"),
            knock("post", 26.2, key="k", pid=12),
            knock("end", 51.5, pid=13),
        ],
        effects=[
            effect("load", 2),
            effect("post", 8.5, key="k"),
            effect("post", 26.5, key="k", pid=12),
            effect("end", 52, pid=13),
        ],
        calls=[call(1, 6.2), call(2, 28.2), call(3, 47.2, prompt="prompt 2")],
        strikes=[strike(11, 9), strike(12, 29)],
    )
