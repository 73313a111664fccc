"""LangGraph's step: from the end of a node until the next node starts, with `PostgresSaver` and `durability="sync"`.

That is what LangGraph adds to a call of the model, as the two commits of a turn are what we add: the node's writes and
a checkpoint of the state are committed before the next node starts. Three states, because the cost depends on them; of
plain strings, because message objects cost more.
"""

import operator
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypedDict

from langgraph.channels import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph


def joined(answers: list[str], writes: Sequence[list[str]]) -> list[str]:
    """The reducer of a `DeltaChannel`: any number of writes at once."""
    return [*answers, *(answer for write in writes for answer in write)]


class Newest(TypedDict):
    """A short history: the newest answer alone, the least that a LangGraph can carry."""

    answers: list[str]


class Appended(TypedDict):
    """The whole conversation, as LangGraph's `MessagesState` keeps it."""

    answers: Annotated[list[str], operator.add]


class Deltas(TypedDict):
    """The whole conversation in the channel, in beta, that stores what was added and a snapshot now and then."""

    answers: Annotated[list[str], DeltaChannel(joined)]


def newest(database_url: str, **steps: Any) -> list[float]:
    """Steps with a short history."""
    return run(database_url, Newest, **steps)


def appended(database_url: str, **steps: Any) -> list[float]:
    """Steps that append to the state."""
    return run(database_url, Appended, **steps)


def deltas(database_url: str, **steps: Any) -> list[float]:
    """Steps that append to a `DeltaChannel`."""
    return run(database_url, Deltas, **steps)


def run(
    database_url: str, state: type, *, count: int, answer: Callable[[], str], between: Callable[[], None]
) -> list[float]:
    """Seconds of each step of one graph of `count` nodes that calls `between` where a model would be called."""
    entered: list[float] = []
    left: list[float] = []

    def agent(_: dict[str, Any]) -> dict[str, Any]:
        entered.append(time.perf_counter())
        between()
        update = {"answers": [answer()]}
        left.append(time.perf_counter())
        return update

    graph = StateGraph(state)
    graph.add_node("agent", agent)
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", lambda _: "agent" if len(left) < count else END)
    with PostgresSaver.from_conn_string(database_url) as saver:
        saver.setup()
        graph.compile(checkpointer=saver).invoke(
            {"answers": []},
            {"configurable": {"thread_id": "bench"}, "recursion_limit": count + 1},
            durability="sync",
        )
    return [after - before for before, after in zip(left, entered[1:], strict=False)]
