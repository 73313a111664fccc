"""Delivers webhooks beside the watch loop, in threads of its own: a server that hangs holds up nothing else."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chargehand.orchestrator.webhooks import outbox
from chargehand.orchestrator.webhooks.outbox import Due
from chargehand.orchestrator.webhooks.sending import Sent, post
from chargehand.orchestrator.webhooks.signing import signed_headers

log = logging.getLogger(__name__)

# Attempts of one supervisor at once. One that hangs takes a place for `sending.TOTAL_SECONDS`.
THREADS = 4
PAUSE_SECONDS = 0.5
ROUNDS_PER_CLEANING = 2_000


class Messenger:
    """One supervisor's share of the deliveries; any number work side by side."""

    def __init__(self, engine: Engine, *, private: bool) -> None:
        """`private`: whether webhooks may lead to loopback and private networks."""
        self._engine = engine
        self._private = private
        self._places = threading.Semaphore(THREADS)

    def deliver_forever(self, stop: threading.Event) -> None:
        """Deliver what is due until `stop` is set; an outage of Postgres is waited out."""
        rounds = 0
        with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="webhook") as threads:
            while not stop.wait(PAUSE_SECONDS):
                try:
                    while not stop.is_set() and self._start_one(threads):
                        pass
                    rounds += 1
                    if rounds % ROUNDS_PER_CLEANING == 0:
                        with Session(self._engine) as session, session.begin():
                            outbox.forget_delivered(session)
                except DBAPIError as error:
                    log.warning("webhooks wait for Postgres", extra={"error": str(error.orig).strip()})
                except Exception:
                    # Nobody else in this process delivers: it goes on whatever happens.
                    log.exception("webhooks not delivered")

    def _start_one(self, threads: ThreadPoolExecutor) -> bool:
        """Take one and try it in a thread; False when nothing is due, or all places are taken."""
        # Taken only with a place for it: its lease runs from here on.
        if not self._places.acquire(blocking=False):
            return False
        taken: list[Due] = []
        try:
            with Session(self._engine) as session, session.begin():
                taken = outbox.take(session, most=1)
        finally:
            if not taken:
                self._places.release()
        if not taken:
            return False
        threads.submit(self._try, taken[0])
        return True

    def _try(self, due: Due) -> None:
        try:
            self.attempt(due)
        except Exception:
            # It comes again when its lease is over.
            log.exception("webhook attempt not recorded", extra={"delivery": str(due.delivery_id)})
        finally:
            self._places.release()

    def attempt(self, due: Due) -> Sent:
        """Send it, and record what came of it."""
        headers = signed_headers(
            due.secret, message_id=due.message_id, timestamp=int(due.taken_at.timestamp()), body=due.body
        )
        sent = post(due.url, due.body, headers, private=self._private)
        with Session(self._engine) as session, session.begin():
            outbox.settle(session, due, sent)
        level = logging.INFO if sent.delivered else logging.WARNING
        log.log(
            level,
            "webhook delivered" if sent.delivered else "webhook not delivered",
            extra={"delivery": str(due.delivery_id), "attempt": due.attempt, "outcome": sent.outcome},
        )
        return sent
