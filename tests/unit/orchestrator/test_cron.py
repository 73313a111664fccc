"""When schedules are due, also on the days when clocks are shifted."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chargehand.orchestrator.cron import LATE_SECONDS, MOST_MADE_UP, Cron, due, parse, upcoming
from chargehand.orchestrator.errors import UserError

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def of(expression: str, timezone: str = "UTC") -> Cron:
    return parse(expression, timezone)


def times(cron: Cron, moment: str, count: int) -> list[str]:
    return [tick.strftime("%d %H:%M") for tick in upcoming(cron, at(moment), count)]


def test_wall_clock_time_counts_in_summer_and_in_winter():
    nine = of("0 9 * * *", BERLIN)
    assert nine.after(at("2026-01-10 12:00")) == at("2026-01-11 08:00")
    assert nine.after(at("2026-07-10 12:00")) == at("2026-07-11 07:00")


def test_a_job_in_the_hour_that_is_left_out_runs_at_its_end_once():
    assert times(of("30 2 * * *", BERLIN), "2026-03-28 12:00", 3) == ["29 01:00", "30 00:30", "31 00:30"]
    assert times(of("0,30 2 * * *", BERLIN), "2026-03-28 12:00", 2) == ["29 01:00", "30 00:00"]


def test_a_job_in_the_hour_that_comes_twice_runs_the_first_time_only():
    assert times(of("30 2 * * *", BERLIN), "2026-10-24 12:00", 2) == ["25 00:30", "26 01:30"]
    # Also for whoever asks between the two.
    assert times(of("30 2 * * *", BERLIN), "2026-10-25 00:45", 1) == ["26 01:30"]


def test_a_job_of_every_half_hour_runs_in_each_hour_that_passes():
    half = of("*/30 * * * *", BERLIN)
    assert times(half, "2026-10-24 23:45", 5) == ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"]
    assert times(half, "2026-03-29 00:15", 4) == ["29 00:30", "29 01:00", "29 01:30", "29 02:00"]


@settings(max_examples=60, deadline=None)
@example(zone="Australia/Lord_Howe", day="2026-04-05", minute="*/20", start=-10)
@given(
    zone=st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kolkata"]),
    day=st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"]),
    minute=st.sampled_from(["0", "15", "7,37", "*/20"]),
    start=st.integers(-30, 30),
)
def test_jobs_of_every_hour_match_each_minute_that_passes(zone: str, day: str, minute: str, start: int):
    """Against a walk through every minute of the day."""
    begin = at(day) + timedelta(hours=start)
    wanted = {"0": {0}, "15": {15}, "7,37": {7, 37}, "*/20": {0, 20, 40}}[minute]
    walk = (begin + timedelta(minutes=number) for number in range(1, 48 * 60))
    matching = [moment for moment in walk if moment.astimezone(ZoneInfo(zone)).minute in wanted]
    assert upcoming(of(f"{minute} * * * *", zone), begin, len(matching)) == matching


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "America/St_Johns"]),
    hour=st.integers(0, 4),
    minute=st.sampled_from([0, 15, 30, 59]),
    month=st.integers(1, 12),
)
def test_a_daily_job_runs_exactly_once_each_day(zone: str, hour: int, minute: int, month: int):
    ticks = upcoming(of(f"{minute} {hour} * * *", zone), datetime(2026, month, 1, tzinfo=ZoneInfo(zone)), 40)
    days = [tick.astimezone(ZoneInfo(zone)).date() for tick in ticks]
    assert days == [days[0] + timedelta(days=number) for number in range(40)]


def test_a_sixth_field_is_seconds():
    assert upcoming(of("* * * * * */20"), at("2026-01-01 00:00:05"), 3) == [
        at("2026-01-01 00:00:20"),
        at("2026-01-01 00:00:40"),
        at("2026-01-01 00:01:00"),
    ]


@pytest.mark.parametrize(
    ("expression", "timezone", "told"),
    [
        ("every day", "UTC", "has 2 fields"),
        ("@daily", "UTC", "has 1 fields"),
        ("61 * * * *", "UTC", "cannot be used"),
        ("0 0 31 2 *", "UTC", "cannot be used"),
        ("0 0 * * *", "Europe/Atlantis", "Time zone 'Europe/Atlantis' is not known"),
        ("0 0 * * *", "../etc/passwd", "is not known"),
        ("0 0 * * *", "", "is not known"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(expression: str, timezone: str, told: str):
    with pytest.raises(UserError, match=told):
        parse(expression, timezone)


# --- missed ticks -----------------------------------------------------------------------------------------------------

HOURLY = of("0 * * * *")


def test_a_tick_on_time_has_its_run_under_every_policy():
    for missed in ("skip", "once", "all"):
        found = due(HOURLY, next_at=at("2026-01-01 05:00"), now=at("2026-01-01 05:00:01"), missed=missed)
        assert (found.tick, found.next_at) == (at("2026-01-01 05:00"), at("2026-01-01 06:00"))


def test_one_run_stands_for_all_that_were_missed():
    found = due(HOURLY, next_at=at("2026-01-01 05:00"), now=at("2026-01-01 09:20"), missed="once")
    assert (found.tick, found.next_at) == (at("2026-01-01 09:00"), at("2026-01-01 10:00"))


def test_missed_ticks_are_skipped_but_not_one_that_is_hardly_late():
    now = at("2026-01-01 09:00") + timedelta(seconds=LATE_SECONDS)
    found = due(HOURLY, next_at=at("2026-01-01 05:00"), now=now, missed="skip")
    assert found.tick == at("2026-01-01 09:00")
    found = due(HOURLY, next_at=at("2026-01-01 05:00"), now=now + timedelta(seconds=1), missed="skip")
    assert (found.tick, found.next_at) == (None, at("2026-01-01 10:00"))


def test_all_missed_ticks_have_their_runs_one_after_the_other():
    next_at, fired = at("2026-01-01 05:00"), []
    while next_at <= (now := at("2026-01-01 09:20")):
        found = due(HOURLY, next_at=next_at, now=now, missed="all")
        fired.append(found.tick)
        next_at = found.next_at
    assert fired == [at(f"2026-01-01 0{hour}:00") for hour in range(5, 10)]
    assert next_at == at("2026-01-01 10:00")


def test_of_very_many_missed_ticks_only_the_newest_are_made_up_for():
    every_second = of("* * * * * *")
    next_at, fired, now = at("2025-01-01 00:00"), [], at("2026-01-01 00:00")
    while next_at <= now:
        found = due(every_second, next_at=next_at, now=now, missed="all")
        fired.append(found.tick)
        next_at = found.next_at
    assert fired == [now - timedelta(seconds=left) for left in reversed(range(MOST_MADE_UP))]
