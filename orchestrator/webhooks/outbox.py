"""The writers and readers of webhooks and their deliveries; the caller commits."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.orm import Session

from chargehand.memory.tables import RUN_STREAM, JournalRow
from chargehand.orchestrator.errors import IllegalFact, NotFound, UserError
from chargehand.orchestrator.facts import AnyFact, parse_fact
from chargehand.orchestrator.tables import RunRow, StepRow
from chargehand.orchestrator.webhooks.payload import EVENTS, payload
from chargehand.orchestrator.webhooks.sending import Sent, check_url
from chargehand.orchestrator.webhooks.signing import check_secret, new_secret
from chargehand.orchestrator.webhooks.tables import DeliveryRow, WebhookRow

# After each attempt that fails: a restart, a deploy, an outage, a night. Then somebody has to look.
BACKOFF_SECONDS = (5, 30, 120, 600, 3_600, 10_800, 43_200)
MOST_ATTEMPTS = len(BACKOFF_SECONDS) + 1
# Somebody who tries and dies leaves it to the others after this: longer than an attempt may take.
LEASE_SECONDS = 60
# The endpoints of a tenant; each fact is written once for each of them.
MOST_WEBHOOKS = 20
# Delivered ones are kept for so long to be looked at.
KEPT_DAYS = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """Where a tenant wants to be told of what."""

    webhook_id: UUID
    url: str
    events: tuple[str, ...]
    created_at: datetime | None = None
    secret: str | None = None
    """Only of one that was just made: it is not shown again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """What a webhook was to hear, and how that went."""

    delivery_id: UUID
    webhook_id: UUID
    event: str
    run_id: UUID
    status: str
    """`pending`, `delivered`, or `failed` for good."""
    attempts: int
    outcome: str
    created_at: datetime
    tried_at: datetime | None
    due_at: datetime | None
    """When it is tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """A delivery that is this process's to try now."""

    delivery_id: UUID
    attempt: int
    url: str
    secret: str
    body: bytes
    taken_at: datetime
    """By Postgres's clock."""

    @property
    def message_id(self) -> str:
        """The same in every attempt."""
        return f"msg_{self.delivery_id.hex}"


def add(
    session: Session, tenant: UUID, url: str, events: Collection[str] = EVENTS, secret: str | None = None
) -> Webhook:
    """Make a webhook for what happens from now on; raises `UserError`."""
    check_url(url)
    unknown = [event for event in events if event not in EVENTS]
    if unknown or not events:
        named = repr(unknown[0]) if unknown else "nothing"
        raise UserError(f"A webhook cannot be told of {named}; events are: {', '.join(EVENTS)}.")
    count = session.execute(select(func.count()).select_from(WebhookRow).where(WebhookRow.tenant == tenant))
    if count.scalar_one() >= MOST_WEBHOOKS:
        raise UserError(f"There are {MOST_WEBHOOKS} webhooks already; remove one first.")
    secret = check_secret(secret) if secret is not None else new_secret()
    made = Webhook(webhook_id=uuid4(), url=url, events=tuple(dict.fromkeys(events)), secret=secret)
    session.execute(
        insert(WebhookRow).values(
            id=made.webhook_id, tenant=tenant, url=url, events=list(made.events), secret=made.secret
        )
    )
    return made


def remove(session: Session, tenant: UUID, name: str) -> Webhook:
    """Forget a webhook by its id or a beginning of it, and what it was to hear; raises `NotFound`."""
    found = [one for one in webhooks(session, tenant) if name and str(one.webhook_id).startswith(name.lower())]
    if len(found) != 1:
        raise NotFound(f"{name!r} names {len(found) or 'no'} webhooks; `chargehand webhooks list` shows the ids.")
    session.execute(delete(WebhookRow).where(WebhookRow.id == found[0].webhook_id, WebhookRow.tenant == tenant))
    return found[0]


def webhooks(session: Session, tenant: UUID) -> list[Webhook]:
    """All of the tenant, oldest first."""
    rows = session.scalars(select(WebhookRow).where(WebhookRow.tenant == tenant).order_by(WebhookRow.created_at))
    return [
        Webhook(webhook_id=row.id, url=row.url, events=tuple(row.events), created_at=row.created_at) for row in rows
    ]


def deliveries(session: Session, tenant: UUID, *, failed: bool = False, limit: int = 20) -> list[Delivery]:
    """The newest of the tenant first; `failed`: only those that were given up."""
    query = select(DeliveryRow).where(DeliveryRow.tenant == tenant)
    if failed:
        query = query.where(DeliveryRow.status == "failed")
    rows = session.scalars(query.order_by(DeliveryRow.created_at.desc(), DeliveryRow.id).limit(limit))
    return [
        Delivery(
            delivery_id=row.id,
            webhook_id=row.webhook,
            event=row.event,
            run_id=row.run,
            status=row.status,
            attempts=row.attempts,
            outcome=row.outcome,
            created_at=row.created_at,
            tried_at=row.tried_at,
            due_at=row.due_at if row.status == "pending" else None,
        )
        for row in rows
    ]


def redeliver(session: Session, tenant: UUID) -> int:
    """Try those again, from the beginning, that were given up; gives how many."""
    again = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.tenant == tenant, DeliveryRow.status == "failed")
        .values(status="pending", attempts=0, due_at=func.clock_timestamp())
        .returning(DeliveryRow.id)
    )
    return len(again.all())


# --- what a supervisor does -------------------------------------------------------------------------------------------


def take(session: Session, *, most: int) -> list[Due]:
    """Deliveries that are due, of all tenants, for this process to try once; others leave them alone meanwhile."""
    rows = session.execute(
        select(DeliveryRow, WebhookRow.url, WebhookRow.secret, func.clock_timestamp())
        .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook)
        .where(DeliveryRow.status == "pending", DeliveryRow.due_at <= func.clock_timestamp())
        .order_by(DeliveryRow.due_at)
        .limit(most)
        .with_for_update(skip_locked=True, of=DeliveryRow)
    ).all()
    due = []
    for row, url, secret, at in rows:
        row.attempts += 1
        row.tried_at = func.clock_timestamp()
        row.due_at = _from_now(LEASE_SECONDS)
        body = _body(session, row)
        due.append(Due(delivery_id=row.id, attempt=row.attempts, url=url, secret=secret, body=body, taken_at=at))
    return due


def settle(session: Session, due: Due, sent: Sent) -> None:
    """What came of the attempt; nothing is written when another one has been made meanwhile, or it is gone."""
    values: dict[str, object] = {"outcome": sent.outcome}
    if sent.delivered:
        values["status"] = "delivered"
    elif due.attempt >= MOST_ATTEMPTS:
        values["status"] = "failed"
    else:
        # Not all at the same moment when what was down comes back.
        values["due_at"] = _from_now(
            BACKOFF_SECONDS[due.attempt - 1] * (0.8 + 0.4 * due.delivery_id.int % 1_000 / 1_000)
        )
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id == due.delivery_id, DeliveryRow.attempts == due.attempt, DeliveryRow.status == "pending")
        .values(**values)
    )


def forget_delivered(session: Session) -> None:
    """Remove what was delivered long ago."""
    age = func.make_interval(0, 0, 0, KEPT_DAYS)
    session.execute(
        delete(DeliveryRow).where(
            DeliveryRow.status == "delivered", DeliveryRow.created_at < func.clock_timestamp() - age
        )
    )


def _body(session: Session, row: DeliveryRow) -> bytes:
    written = session.get(JournalRow, (row.run, row.step, row.seq))
    goal = session.execute(select(RunRow.goal).where(RunRow.id == row.run)).scalar_one_or_none()
    key = None
    if row.step != RUN_STREAM:
        key = session.execute(select(StepRow.key).where(StepRow.id == row.step)).scalar_one_or_none()
    return payload(
        event=row.event,
        at=written.at if written is not None else row.created_at,
        run_id=row.run,
        goal=goal or "",
        step_key=key,
        fact=_fact(written),
    )


def _fact(written: JournalRow | None) -> AnyFact | None:
    """None when it was erased, or is of a version that this process does not know: one that is must not wait for it."""
    if written is None or written.body is None:
        return None
    try:
        return parse_fact(written.body, schema_version=written.schema_version)
    except IllegalFact:
        return None


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
