"""Who hands work to whom among the agents of a run, and whether it goes in circles; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from chargehand.orchestrator.facts import ToolFinished
from chargehand.orchestrator.items import name_other_days, name_other_numbers, names_another
from chargehand.orchestrator.likeness import without_echo
from chargehand.orchestrator.nearness import ASKING
from chargehand.orchestrator.observed import Observed
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.tones import is_courtesy
from chargehand.orchestrator.volatile import words

# With this many agents in a ring nobody sees a ring any more.
MOST_AGENTS = 5
TOOLS = frozenset(
    {"handoff", "delegate", "transfer", "transfertoagent", "sendto", "assignto"}
    | {"delegatework", "delegateworktocoworker", "askquestiontocoworker", "delegatetask"}
)
PREFIXES = ("transfer_to_", "handoff_to_", "hand_off_to_", "delegate_to_")
TARGETS = ("to", "to_agent", "agent", "agent_name", "role", "target", "recipient", "assignee", "coworker")
_ADDRESS = re.compile(r"(?<![\w.])@([\w-]+)|(?<![\w-])([\w-]+)@[\w-]+\.")
_GIVEN_TO = re.compile(r"(?:^|_)to_(\w+)$")
# Who has handed work off is not told what came of it.
_FOR_GOOD = re.compile(r"transfer|hand_?off", re.IGNORECASE)
WHY = frozenset({"reason", "why", "because", "note", "comment", "rationale"})
# A thing is passed on, to whoever has it next.
_PASSES = re.compile(
    r"(?:^|_)(?:escalate|return|reassign|assign|bounce|forward|transfer|route|reroute|reject|hand|give|send|pass)(?:_|$)"
)
# Of these, each hears what the other has just said.
TWO = 2
# A message with fewer words in common with the last one the same way says something else.
SAME_MESSAGE_SHARE = 0.6
# With so many it is the same, whatever was done before it.
THE_SAME_SHARE = 0.85
# Of the longer words of a message in other words, so many were said before.
SAID_AGAIN_SHARE = 0.5
TELLING_LETTERS = 4
FEW_WORDS = 3
# What a machine calls a file: shorter than a name that is opaque anywhere.
_MADE = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{6,}")
# An answer, and no acknowledgement, has so many words of its own.
ANSWER_WORDS = 5
# With so few in common it is about another matter.
OTHER_MATTER_SHARE = 0.3
# So many words that no message of the round before had make it about something else, if there is a commit to show.
NEW_NAMES = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class HandOff:
    """Work that goes from one agent to another."""

    index: int
    """Of the call."""
    giver: str
    taker: str
    by_name: bool
    """The tool is there to hand work over; otherwise it was called with another agent's name: a message, perhaps."""

    @property
    def way(self) -> tuple[str, str]:
        """From whom to whom."""
        return self.giver, self.taker


def handed_over(child: Step, *, tool_use_id: str, for_good: bool) -> ToolFinished:
    """The call by which an agent's step was given a colleague, as the detectors read calls.

    `for_good`: the work was handed off, and not only asked about.
    """
    return ToolFinished(
        tool_use_id=tool_use_id,
        tool="hand_off" if for_good else "delegate",
        arguments={"to": child.role or "", "instruction": child.instruction},
        outcome="ok",
        content="",
    )


def find_ring(observed: Sequence[Observed], rounds: int) -> list[HandOff]:
    """The hand-offs that took the same work round the same agents so many times, the newest call last; or none."""
    parties = {party for call in observed for party in (call.role, call.step) if party}
    if len(parties) > 1 and (echoes := _find_echoes(observed, rounds)):
        return echoes
    if len(parties) > 1 and (passed := _passed_on(observed, rounds)):
        return passed
    if _hand_off(len(observed) - 1, observed[-1], parties) is None:
        return []
    found = [_hand_off(index, call, parties) for index, call in enumerate(observed)]
    spoken_to = {hand_off.taker for hand_off in found if hand_off is not None}
    if any(call.step in spoken_to and call.step != call.role for call in observed):
        # Agents of one role are told apart by their own names, if these are what they call each other.
        found = [
            hand_off
            and replace(
                hand_off, giver=step if (step := observed[hand_off.index].step) in spoken_to else hand_off.giver
            )
            for hand_off in found
        ]
    hand_offs = [hand_off for hand_off in found if hand_off is not None and hand_off.giver != hand_off.taker]
    for agents in range(2, MOST_AGENTS + 1):
        ring = hand_offs[-agents * rounds :]
        if _is_ring(ring, agents, rounds) and _are_courtesies(observed, ring):
            return ring
        if _is_ring(ring, agents, rounds) and not _gets_on(observed, hand_offs, agents, rounds):
            return ring
        ring = hand_offs[-agents * rounds - 1 :]
        if _thing_goes_round(observed, ring, agents, rounds) or _is_only_passed(observed, ring, agents, rounds):
            return ring
    return []


def _is_only_passed(observed: Sequence[Observed], ring: Sequence[HandOff], agents: int, rounds: int) -> bool:
    """Whether work is given away for good once more than all rounds have, and nobody has done anything in between."""
    if len(ring) <= agents * rounds or not _is_ring(ring[1:], agents, rounds):
        return False
    at = [hand_off.index for hand_off in ring]
    parties = {observed[index].step for index in at}
    return all(_gives_away(observed[index]) for index in at) and not any(
        observed[index].step in parties and index not in at for index in range(at[0], at[-1])
    )


def _gives_away(call: Observed) -> bool:
    """Whether work is handed off for good, and nothing is said but to whom and why."""
    named = {name.strip("_").casefold() for name in call.arguments}
    return _FOR_GOOD.match(call.tool) is not None and named <= WHY.union(TARGETS)


def _passed_on(observed: Sequence[Observed], rounds: int) -> list[HandOff]:
    """Hand-offs of one thing by tools that pass it on and name nobody, each to the agent that passes it on next."""
    newest = observed[-1]
    if newest.failed or not _PASSES.search(newest.tool):
        return []
    things = {str(value) for value in newest.values if _is_a_thing(value)}
    indexes = [
        index
        for index, call in enumerate(observed)
        if not call.failed and _PASSES.search(call.tool) and things.intersection(map(str, call.values))
    ]
    givers = [observed[index].role or observed[index].step for index in indexes]
    for agents in range(2, MOST_AGENTS + 1):
        if len(indexes) <= agents * rounds:
            return []
        takers = [*givers[1:], givers[-agents]]
        passed = [
            HandOff(index=index, giver=giver, taker=taker, by_name=False)
            for index, giver, taker in zip(indexes, givers, takers, strict=True)
        ]
        if _thing_goes_round(observed, ring := passed[-agents * rounds - 1 :], agents, rounds):
            return ring
    return []


def _is_a_thing(value: object) -> bool:
    """Whether a value is a number of a thing, as of a ticket."""
    return " " not in str(value) and any(letter.isdecimal() for letter in str(value))


def _are_courtesies(observed: Sequence[Observed], ring: Sequence[HandOff]) -> bool:
    """Whether nothing but kind words went round, and those who said them did nothing else."""
    at = [hand_off.index for hand_off in ring]
    parties = {observed[index].step for index in at}
    if any(observed[index].step in parties and index not in at for index in range(at[0], at[-1])):
        return False
    return all(_is_courtesy(observed[hand_off.index], hand_off) for hand_off in ring)


def _is_courtesy(call: Observed, hand_off: HandOff) -> bool:
    said = [str(value) for value in call.values if str(value) not in (hand_off.taker, hand_off.giver)]
    return bool(said) and all(is_courtesy(text) for text in said)


def _thing_goes_round(observed: Sequence[Observed], ring: Sequence[HandOff], agents: int, rounds: int) -> bool:
    """Whether one thing that every message names by its number goes round, and nobody does anything about it.

    What is said beside it may be in other words each time: that is what those say who want to be rid of it.
    """
    if len(ring) <= agents * rounds or not _is_ring(ring[1:], agents, rounds):
        return False
    named = [_firm(observed[hand_off.index], hand_off) for hand_off in ring]
    if any(named[place] != named[place - agents] for place in range(agents, len(ring))):
        return False
    if not frozenset.intersection(*(frozenset(firm.values()) for firm in named)):
        return False
    parties = {observed[hand_off.index].step for hand_off in ring}
    at = {hand_off.index for hand_off in ring}
    seen = {(call.asked, call.gave) for call in observed[: ring[agents - 1].index]}
    between = [
        observed[index]
        for index in range(ring[agents - 1].index, ring[-1].index)
        if index not in at and observed[index].step in parties
    ]
    return all(call.failed or (call.asked, call.gave) in seen for call in between)


def _firm(call: Observed, hand_off: HandOff) -> dict[str, str]:
    """What a message names in one word or by a number, but for whom it is handed to."""
    return {
        name: str(value)
        for name, value in call.named_values.items()
        if isinstance(value, str | int) and " " not in str(value) and str(value) not in (hand_off.taker, hand_off.giver)
    }


def _find_echoes(observed: Sequence[Observed], rounds: int) -> list[HandOff]:
    """Deeds by one tool that several agents do in turn, each the one that it did before, whomever they name."""
    newest = observed[-1]
    if newest.tone != "success" or not newest.values:
        return []
    indexes = [index for index, call in enumerate(observed) if call.tool == newest.tool]
    for agents in range(2, MOST_AGENTS + 1):
        ring = indexes[-agents * rounds :]
        if len(ring) < agents * rounds:
            return []
        calls = [observed[index] for index in ring]
        if (
            len({call.step for call in calls[:agents]}) < agents
            or len({_told(call) for call in calls[:agents]}) < agents
        ):
            continue
        if all(
            calls[place].step == calls[place - agents].step
            and _told(calls[place]) == _told(calls[place - agents])
            and calls[place].tone == "success"
            for place in range(agents, len(calls))
        ):
            takers = [observed[index].role or observed[index].step for index in (*ring[1:], ring[0])]
            return [
                HandOff(index=index, giver=observed[index].role or observed[index].step, taker=taker, by_name=False)
                for index, taker in zip(ring, takers, strict=True)
            ]
    return []


def _told(call: Observed) -> frozenset[str]:
    """The words of a message without what its file is called by a machine."""
    return frozenset(word for word in call.message_words if not _MADE.fullmatch(word))


def _hand_off(index: int, call: Observed, parties: set[str]) -> HandOff | None:
    if call.failed:
        return None
    arguments, name, giver = call.arguments, call.tool.casefold(), call.role or call.step
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    taker: object = None
    by_name = True
    if "".join(words(name)) in TOOLS:
        taker = next((arguments[key] for key in TARGETS if isinstance(arguments.get(key), str)), None)
    elif prefix is not None:
        taker = call.tool[len(prefix) :]
    else:
        by_name = False
    if taker is None:
        spelled = {party.casefold(): party for party in parties}
        spoken_to = (spelled.get(value.casefold()) for value in call.values if isinstance(value, str))
        taker = next((party for party in spoken_to if party is not None and party != giver), None)
    if taker is None:
        named = [*_addressed(call), *_behind_to(name)]
        taker = next((party for party in parties if party != giver and party.casefold() in named), None)
    if not isinstance(taker, str):
        return None
    taker = _known_as(taker.strip(), parties)
    return None if taker == giver else HandOff(index=index, giver=giver, taker=taker, by_name=by_name)


def _known_as(name: str, parties: set[str]) -> str:
    """The agent that is meant by a name, in whatever case, or as a "senior" one; the name itself if there is none."""
    spoken = name.casefold()
    whole = [party for party in sorted(parties) if party.casefold() == spoken]
    part = [party for party in sorted(parties) if party.casefold() in spoken.split()]
    return whole[0] if whole else part[0] if len(part) == 1 else name


def _addressed(call: Observed) -> list[str]:
    """The names in addresses, and behind the sign by which somebody is spoken to."""
    texts = [value for value in call.values if isinstance(value, str) and "@" in value]
    return [(found[1] or found[2]).casefold() for text in texts for found in _ADDRESS.finditer(text)]


def _behind_to(tool: str) -> list[str]:
    found = _GIVEN_TO.search(tool)
    return [found[1]] if found else []


def _is_ring(ring: Sequence[HandOff], agents: int, rounds: int) -> bool:
    if len(ring) < agents * rounds:
        return False
    # Two who have handed to and fro four times are no ring of four.
    if len({hand_off.giver for hand_off in ring}) < agents:
        return False
    closed = all(ring[place].taker == ring[(place + 1) % agents].giver for place in range(agents))
    return closed and all(ring[place].way == ring[place - agents].way for place in range(agents, len(ring)))


def _gets_on(observed: Sequence[Observed], hand_offs: Sequence[HandOff], agents: int, rounds: int) -> bool:
    """Whether the last round carried other words than the one before, and something came of it."""
    last, before = hand_offs[-agents:], hand_offs[-2 * agents : -agents]
    if all(_is_answered_as_before(observed, hand_offs[:-agents], new) for new in last):
        return False
    if _is_other_work(observed, before, last) or _is_other_matter(observed, hand_offs, agents):
        return True
    if _closes_in(observed, hand_offs, agents):
        return True
    shares = [
        max(_in_common_of(observed, old, new) for old in hand_offs[:-agents] if old.way == new.way) for new in last
    ]
    is_again = [
        _is_said_again(observed, hand_offs[:-agents], new, share) for share, new in zip(shares, last, strict=True)
    ]
    # Who says the same again, and more than "done", is only asked back.
    if any(share >= THE_SAME_SHARE and _says_much(observed, new) for share, new in zip(shares, last, strict=True)):
        is_again = [
            again or (_asks_back(observed[new.index]) and not _is_news(observed, hand_offs[:-agents], new))
            for again, new in zip(is_again, last, strict=True)
        ]
    # An answer that is always the same, as "done" is, may be given to ever new work.
    if all(is_again) and (max(shares) >= THE_SAME_SHARE or not _brings_news(observed, before, last)):
        return False
    if not all(hand_off.by_name for hand_off in last) or (max(shares) >= THE_SAME_SHARE and not all(is_again)):
        return True
    seen = {(call.asked, call.gave) for call in observed[: before[-1].index]}
    starts = [before[-1].index, *(hand_off.index for hand_off in last)]
    news = [
        any(not call.failed and (call.asked, call.gave) not in seen for call in observed[start + 1 : hand_off.index])
        for start, hand_off in zip(starts, last, strict=False)
    ]
    if all(news) or (any(news) and max(shares) < OTHER_MATTER_SHARE):
        return True
    # Other words alone are worth one round more.
    return not _is_ring(hand_offs[-agents * (rounds + 1) :], agents, rounds + 1)


def _is_news(observed: Sequence[Observed], before: Sequence[HandOff], new: HandOff) -> bool:
    """Whether each message of this way has a name or a day of its own, and else is what all of them are."""
    messages = [*(observed[old.index] for old in before if old.way == new.way), observed[new.index]]
    return names_another(messages) or name_other_days(messages) or name_other_numbers(messages)


def _is_said_again(observed: Sequence[Observed], before: Sequence[HandOff], new: HandOff, share: float) -> bool:
    """Whether most of what a message says had been said the same way, and no name stands in the place of another.

    `share`: of its words, so many are those of one such message.
    """
    call = observed[new.index]
    if _is_news(observed, before, new):
        return False
    about = call.message_words.difference(words(call.tool), words(new.giver), words(new.taker))
    telling = [word for word in about if len(word) >= TELLING_LETTERS and word.isalpha()]
    telling = [word for word in telling if word not in ASKING] or telling
    # Who takes up the other's few words says nothing new either.
    heard = before if len(telling) <= FEW_WORDS else [old for old in before if old.way == new.way]
    known: frozenset[str] = frozenset().union(*(observed[old.index].message_words for old in heard))
    if not telling:
        return share >= SAME_MESSAGE_SHARE or about <= known
    return share >= SAME_MESSAGE_SHARE or len(known.intersection(telling)) >= SAID_AGAIN_SHARE * len(telling)


def _is_answered_as_before(observed: Sequence[Observed], before: Sequence[HandOff], new: HandOff) -> bool:
    """Whether a message came back with the same answer, in so many words, as the last one the same way."""
    call = observed[new.index]
    last = next((observed[old.index] for old in reversed(before) if old.way == new.way), None)
    return (
        last is not None
        and call.tone != "success"
        and call.gave == last.gave
        and len(without_echo(call.gave_words, call.asked_words)) >= ANSWER_WORDS
    )


def _says_much(observed: Sequence[Observed], new: HandOff) -> bool:
    about = observed[new.index].message_words.difference(words(observed[new.index].tool), words(new.taker))
    return sum(len(word) >= TELLING_LETTERS for word in about) >= FEW_WORDS


def _asks_back(call: Observed) -> bool:
    return any(str(value).endswith("?") for value in call.values)


def answers_news(observed: Sequence[Observed]) -> bool:
    """Whether the newest call goes back to who has just told its giver something that the giver had not been told.

    Who is given ever new work may answer "done" as often.
    """
    if all(call.step == observed[-1].step for call in observed):
        return False
    parties = {party for call in observed for party in (call.role, call.step) if party}
    if (newest := _hand_off(len(observed) - 1, observed[-1], parties)) is None:
        return False
    told: list[Observed] = []
    for index in range(len(observed) - 2, -1, -1):
        call = observed[index]
        if call.step == observed[-1].step and not told and _hand_off(index, call, parties) is not None:
            return False
        given = _hand_off(index, call, parties) if call.step != observed[-1].step else None
        if given is not None and given.way == (newest.taker, newest.giver):
            told.append(call)
    return len(told) > 1 and (
        names_another(told[::-1]) or max(_in_common(told[0], earlier) for earlier in told[1:]) < SAME_MESSAGE_SHARE
    )


def _brings_news(observed: Sequence[Observed], before: Sequence[HandOff], last: Sequence[HandOff]) -> bool:
    """Whether before each message of the last round something was done or seen that nobody had before."""
    seen = {(call.asked, call.gave) for call in observed[: before[-1].index]}
    starts = [before[-1].index, *(hand_off.index for hand_off in last)]
    return all(
        any(not call.failed and (call.asked, call.gave) not in seen for call in observed[start + 1 : hand_off.index])
        for start, hand_off in zip(starts, last, strict=False)
    )


def _is_other_work(observed: Sequence[Observed], before: Sequence[HandOff], last: Sequence[HandOff]) -> bool:
    """Whether every message names things that no message before it named, and a deed came of the one before."""
    known: set[str] = set()
    for hand_off in before:
        known |= observed[hand_off.index].asked_words
    new: list[int] = []
    for hand_off in last:
        said = observed[hand_off.index].asked_words
        new.append(len(said - known))
        known |= said
    start, end = before[-1].index, last[-1].index
    commits = {call.fact.commit for call in observed[:start]}
    deeds = any(call.fact.commit not in commits for call in observed[start:end])
    return deeds and min(new) >= NEW_NAMES


def _is_other_matter(observed: Sequence[Observed], hand_offs: Sequence[HandOff], agents: int) -> bool:
    """Whether all messages of the last round name one thing that none before it did, and not the one before."""
    said = [observed[hand_off.index].message_words for hand_off in hand_offs]
    # A round may begin with any of the agents, and the newest message may begin another.
    for begun in range(agents):
        whole = said[: len(said) - begun]
        last, before, earlier = whole[-agents:], whole[-2 * agents : -agents], whole[:-agents]
        if len(before) < agents:
            continue
        new, old = frozenset.intersection(*last), frozenset.intersection(*before)
        # Two messages may have a word in common by chance.
        if new.difference(*earlier) and (old - new if agents > TWO else old.difference(*last)):
            return True
    return False


def _closes_in(observed: Sequence[Observed], hand_offs: Sequence[HandOff], agents: int) -> bool:
    """Whether every message has a number, and each agent's goes one way by steps that are no count."""
    counts = []
    for place in range(agents):
        told = [observed[hand_off.index].told for hand_off in hand_offs[-agents + place :: -agents]][::-1]
        steps = [later - earlier for earlier, later in pairwise(told) if earlier is not None and later is not None]
        if len(steps) < len(told) - 1 or not steps or not (min(steps) > 0 or max(steps) < 0):
            return False
        counts.append(set(steps) in ({1.0}, {float(agents)}))
    return not all(counts)


def _in_common_of(observed: Sequence[Observed], old: HandOff, new: HandOff) -> float:
    """As `_in_common`, but for the names of tool and agents, where something is said beside numbers and small words."""
    call, earlier = observed[new.index], observed[old.index]
    beside = frozenset((*words(call.tool), *words(new.giver), *words(new.taker)))
    mine, theirs = earlier.message_words - beside, call.message_words - beside
    if not any(len(word) >= TELLING_LETTERS or word.isalpha() == word.isdecimal() for word in mine | theirs):
        return _in_common(earlier, call)
    return 1.0 if mine == theirs else len(mine & theirs) / max(1, len(mine | theirs))


def _in_common(one: Observed, other: Observed) -> float:
    """The share of words that two messages have in common."""
    mine, theirs = one.message_words, other.message_words
    if mine == theirs:
        return 1.0
    return len(mine & theirs) / max(1, len(mine | theirs))
