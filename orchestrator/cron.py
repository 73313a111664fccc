"""When a schedule is due: cron expressions in a time zone, and what becomes of ticks that nobody was there for; pure.

Fields are those of cron: minute, hour, day of month, month, day of week; a sixth, at the end, is seconds. Wall-clock
time counts: a job at 02:30 runs at the end of the hour that is left out in spring, and once on the day that has two
02:30s, at the first. A job of every hour or minute (its hour begins with `*`) runs in each hour that passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterError

from chargehand.orchestrator.errors import UserError

Missed = Literal["skip", "once", "all"]
"""Ticks that nobody was there for: none of them is made up for, one run stands for all, or each has its run."""

# A tick that is later than this was missed; supervisors look twice a second, and one of them may be starting.
LATE_SECONDS = 30.0
# So many runs at most are made up for: after a long night nobody wants a thousand.
MOST_MADE_UP = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Cron:
    """A checked expression in a time zone."""

    expression: str
    timezone: str

    def after(self, moment: datetime) -> datetime:
        """The first tick after `moment`, in UTC."""
        return next(self.ticks(moment))

    def ticks(self, moment: datetime) -> Iterator[datetime]:
        """All ticks after `moment`, in UTC, in order."""
        last = moment.astimezone(UTC)
        for tick in self._by_the_wall_clock(last) if self._is_of_the_wall_clock else self._as_time_passes(last):
            if tick > last:
                last = tick
                yield tick

    def before(self, moment: datetime, most: int) -> list[datetime]:
        """The last ticks up to `moment`, itself included, in order."""
        zone = ZoneInfo(self.timezone)
        walk = croniter(self.expression, _wall(moment + timedelta(microseconds=1), zone))
        ticks: list[datetime] = []
        further = most
        while len(ticks) < most:
            # Where the clocks are shifted, ticks of the bare walk back may not exist: then it goes further.
            earliest = _first_time([walk.get_prev(datetime) for _ in range(further)][-1], zone)
            ticks = list(takewhile(lambda tick: tick <= moment, self.ticks(earliest - timedelta(microseconds=1))))
            further *= 2
        return ticks[-most:]

    def _by_the_wall_clock(self, moment: datetime) -> Iterator[datetime]:
        zone = ZoneInfo(self.timezone)
        for local in croniter(self.expression, _wall(moment, zone), ret_type=datetime):
            yield _first_time(local, zone)

    def _as_time_passes(self, moment: datetime) -> Iterator[datetime]:
        """A walk at a fixed distance from UTC, begun anew where the zone shifts its clocks."""
        zone = ZoneInfo(self.timezone)
        offset = _offset(moment, zone)
        while True:
            for local in croniter(self.expression, (moment + offset).replace(tzinfo=None), ret_type=datetime):
                tick = (local - offset).replace(tzinfo=UTC)
                if _offset(tick, zone) != offset:
                    shift = _shift(moment, tick, zone)
                    # The shift itself may be a tick of the new walk.
                    moment, offset = shift - timedelta(microseconds=1), _offset(shift, zone)
                    break
                moment = tick
                yield tick

    @property
    def _is_of_the_wall_clock(self) -> bool:
        return not self.expression.split()[1].startswith("*")


def parse(expression: str, timezone: str) -> Cron:
    """The expression, checked; raises `UserError`."""
    fields = expression.split()
    if not 5 <= len(fields) <= 6 or any("@" in field for field in fields):
        raise UserError(
            f"Cron expression {expression[:80]!r} has {len(fields)} fields; give minute hour day month weekday, for "
            'example "0 3 * * 1-5" (a sixth field is seconds).'
        )
    try:
        zone = ZoneInfo(timezone)
    except (OSError, ValueError) as error:
        # ZoneInfoNotFoundError is a KeyError of its own making.
        raise UserError(f"Time zone {timezone[:80]!r} is not known; name one like Europe/Berlin.") from error
    except KeyError as error:
        raise UserError(f"Time zone {timezone[:80]!r} is not known; name one like Europe/Berlin.") from error
    try:
        croniter(" ".join(fields), datetime.now(zone)).get_next(datetime)
    except (CroniterError, ValueError, KeyError) as error:
        raise UserError(f"Cron expression {expression[:80]!r} cannot be used: {error}.") from error
    return Cron(expression=" ".join(fields), timezone=timezone)


def check_missed(missed: str) -> Missed:
    """The policy, checked; raises `UserError`."""
    if missed not in get_args(Missed):
        raise UserError(f"Missed ticks: {missed!r} is no policy; use one of: {', '.join(get_args(Missed))}.")
    return missed  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What a schedule whose time has come does now."""

    tick: datetime | None
    """Make the run of this tick; None: all that were due were missed, and are skipped."""
    next_at: datetime
    """Look again then; not after now when more runs are to be made up for."""


def due(cron: Cron, *, next_at: datetime, now: datetime, missed: Missed) -> Due:
    """Which of the ticks from `next_at` up to now has its run, and what comes next."""
    if missed == "all":
        open_ticks = [tick for tick in cron.before(now, MOST_MADE_UP) if tick >= next_at] or [next_at]
        following = open_ticks[1] if len(open_ticks) > 1 else cron.after(max(now, open_ticks[0]))
        return Due(tick=open_ticks[0], next_at=following)
    newest = max([next_at, *cron.before(now, 1)])
    is_late = (now - newest).total_seconds() > LATE_SECONDS
    return Due(tick=None if missed == "skip" and is_late else newest, next_at=cron.after(now))


def upcoming(cron: Cron, moment: datetime, count: int) -> list[datetime]:
    """The next ticks, for people to look at."""
    return list(islice(cron.ticks(moment), count))


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the clock on the wall shows, without its zone: croniter itself is wrong at shifts of half an hour."""
    return moment.astimezone(zone).replace(tzinfo=None)


def _first_time(local: datetime, zone: ZoneInfo) -> datetime:
    """When the clock on the wall first shows `local`, or, where it is left out, the moment of the shift; in UTC."""
    early, late = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    # In a gap Python takes the distance before the shift for fold 0, which is the later moment then (PEP 495).
    return _shift(late, early, zone) if late < early else early


def _shift(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first second after `before` at which the distance to UTC is another; it is another at `after`."""
    offset = _offset(before, zone)
    low, high = int(before.timestamp()), int(after.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC), zone) == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)
