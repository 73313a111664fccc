"""Tables of the audit log: the journal of every stream, and the chain of ended runs."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Integer, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Mapped, mapped_column

from chargehand.memory.database import APP_ROLE, SCHEMA, SUPERVISOR_ROLE, Base

# The step of a row in a run's own stream.
RUN_STREAM = UUID(int=0)


class JournalRow(Base):
    """One fact of one stream; appended, never changed. Time, salt and hashes are the database's (a trigger's)."""

    __tablename__ = "journal"

    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    """uuidv7: a later partitioning by range of runs keeps the primary key, one by time would not."""
    step: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    """`RUN_STREAM` for the run's own stream."""
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """1, 2, 3, … without a gap: the trigger refuses a row whose predecessor is not there."""
    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True))
    kind: Mapped[str] = mapped_column(Text)
    schema_version: Mapped[int] = mapped_column(SmallInteger)
    epoch: Mapped[int] = mapped_column(Integer)
    """The claim under which it was written; 0 in a run's stream."""
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    body: Mapped[str | None] = mapped_column(Text)
    """JSON as it was hashed; NULL once erased."""
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Goes with the body: an erased body cannot be guessed from its hash."""
    body_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    """sha256 over the hash before, the body's hash and every other column."""


class RunAnchor(Base):
    """Head of an ended run in its tenant's chain."""

    __tablename__ = "run_anchors"

    tenant: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run: Mapped[UUID] = mapped_column(PG_UUID(as_uuid=True), unique=True)
    run_seq: Mapped[int] = mapped_column(BigInteger)
    run_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    """sha256 over the hash before and the run's head."""
    seal: Mapped[bytes] = mapped_column(LargeBinary)
    """HMAC of `hash` with a key that the database does not know."""


# The trigger, not the writer, links the chain: whoever may insert cannot insert a row that does not follow.
JOURNAL_DDL: tuple[str, ...] = (
    # It runs in both commits of every turn. A `SET search_path` would cost as much as all the rest of it, so every name
    # of it is qualified instead; operators are found in pg_catalog first, and nobody but the owner may make others.
    f"""
CREATE FUNCTION {SCHEMA}.journal_link() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE previous bytea := ''::bytea;
BEGIN
    IF NEW.seq > 1 THEN
        SELECT j.hash INTO previous FROM {SCHEMA}.journal j
        WHERE j.run = NEW.run AND j.step = NEW.step AND j.seq = NEW.seq - 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'journal row % of run % step % has no predecessor', NEW.seq, NEW.run, NEW.step
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END IF;
    NEW.at := pg_catalog.clock_timestamp();
    NEW.salt := pg_catalog.uuid_send(pg_catalog.gen_random_uuid());
    NEW.body_hash := pg_catalog.sha256(NEW.salt || pg_catalog.convert_to(NEW.body, 'UTF8'));
    NEW.hash := pg_catalog.sha256(previous || NEW.body_hash || pg_catalog.convert_to(pg_catalog.concat_ws('|',
        NEW.tenant, NEW.run, NEW.step, NEW.seq, NEW.kind, NEW.schema_version, NEW.epoch,
        (extract(epoch FROM NEW.at) * 1000000)::pg_catalog.int8), 'UTF8'));
    RETURN NEW;
END $$
""",
    f"""
CREATE FUNCTION {SCHEMA}.journal_keep() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, {SCHEMA} AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.body IS NULL AND NEW.salt IS NULL THEN
        -- Erasure: everything but the body and its salt must stay as it is.
        NEW.body := OLD.body; NEW.salt := OLD.salt;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            NEW.body := NULL; NEW.salt := NULL;
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the journal is append-only (%)', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$
""",
    f"CREATE TRIGGER link BEFORE INSERT ON {SCHEMA}.journal FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.journal_link()",
    f"CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON {SCHEMA}.journal "
    f"FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.journal_keep()",
    f"CREATE TRIGGER keep_all BEFORE TRUNCATE ON {SCHEMA}.journal EXECUTE FUNCTION {SCHEMA}.journal_keep()",
    f"GRANT SELECT, INSERT ON {SCHEMA}.journal TO {APP_ROLE}, {SUPERVISOR_ROLE}",
    f"GRANT UPDATE (body, salt) ON {SCHEMA}.journal TO {SUPERVISOR_ROLE}",
    f"GRANT SELECT ON {SCHEMA}.run_anchors TO {APP_ROLE}",
    f"GRANT SELECT, INSERT ON {SCHEMA}.run_anchors TO {SUPERVISOR_ROLE}",
)
JOURNAL_DDL_DOWN: tuple[str, ...] = (
    f"DROP TRIGGER IF EXISTS link ON {SCHEMA}.journal",
    f"DROP TRIGGER IF EXISTS keep ON {SCHEMA}.journal",
    f"DROP TRIGGER IF EXISTS keep_all ON {SCHEMA}.journal",
    f"DROP FUNCTION IF EXISTS {SCHEMA}.journal_link()",
    f"DROP FUNCTION IF EXISTS {SCHEMA}.journal_keep()",
)
