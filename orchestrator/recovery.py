"""What becomes of a step whose worker was lost: tried again, tried alone, or put before a person; pure."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Where a step goes whose lease expired."""

    crashes: int
    """Take-overs without progress, this one included."""
    solo: bool
    """Only a pool of one thread may claim it from now on."""
    asks_person: bool


def judge(*, crashes: int, solo: bool, max_crashes: int, solo_pool_lives: bool) -> Verdict:
    """The verdict on a step that has been lost `crashes` times before without progress.

    One poison step takes a whole process down and with it its neighbours: after `max_crashes` a step runs alone, and
    only what crashes as often alone is to blame. Without a solo pool nobody could claim a step that is marked for it,
    not even to carry out what the person decides: there the crash after the last allowed one is put before a person.
    """
    crashes += 1
    guilty = crashes >= max_crashes * 2 if solo else crashes > max_crashes and not solo_pool_lives
    return Verdict(crashes=crashes, solo=solo or (crashes >= max_crashes and solo_pool_lives), asks_person=guilty)
