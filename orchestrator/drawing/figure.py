"""What is drawn: the steps of a plan or of a run with their edges, and the bodies that some of them stand for."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from chargehand.orchestrator.plan import RESULT_OF, Join, Plan, Step, topological

# More children of one step than a screen shows become a number, but for those at which people look.
MOST_CHILDREN = 24
LIVELY = frozenset({"running", "waiting", "failed"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """From a step to one that waits for it."""

    source: str
    label: str = ""
    """Of a branch: the way on which the step stands."""
    is_taken: bool = True
    """False: the branch chose another way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A step, or what stands for many."""

    key: str
    name: str
    """The key, below that of its parent."""
    kind: str
    what: str
    """What it does, in a few words."""
    title: str = ""
    edges: tuple[Edge, ...] = ()
    """From the steps beside it."""
    join: Join = "all"
    parent: str | None = None
    status: str = ""
    """Empty: it is a step of a plan, or of a body that has not begun."""
    again: str = ""
    """repeat: until when."""

    @property
    def after(self) -> tuple[str, ...]:
        """The steps beside it that it waits for."""
        return tuple(edge.source for edge in self.edges)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Nodes in the order of the plan; those of a body behind their parent."""

    nodes: tuple[Node, ...]
    is_run: bool = False

    def children(self) -> dict[str | None, list[Node]]:
        """The nodes of each body, by its owner; None: those of the plan itself."""
        grouped: dict[str | None, list[Node]] = {}
        for node in self.nodes:
            grouped.setdefault(node.parent, []).append(node)
        return grouped


def figure_of_plan(plan: Plan) -> Figure:
    """The plan with its bodies."""
    return Figure(nodes=tuple(_templates(plan.steps, parent=None)))


def figure_of_run(steps: Sequence[Step], statuses: Mapping[str, str], ways: Mapping[str, str]) -> Figure:
    """The run as it stands; of bodies that have not begun, the templates.

    `statuses` by key; `ways`: the labels that branches took.
    """
    parents = {step.parent for step in steps}
    nodes: list[Node] = []
    for step in steps:
        # A child whose parent is not shown stands for itself.
        parent = step.parent if step.parent in statuses else None
        nodes.append(replace(_node(step, parent=parent, ways=ways), status=statuses[step.key]))
        if step.body and step.key not in parents:
            nodes += _templates(step.body, parent=step.key)
    return Figure(nodes=tuple(_folded(_beside(nodes))), is_run=True)


def _templates(steps: Sequence[Step], *, parent: str | None) -> Iterator[Node]:
    prefix = "" if parent is None else f"{parent}/"
    for step in topological(steps):
        placed = step.model_copy(
            update={
                "key": f"{prefix}{step.key}",
                "after": tuple(f"{prefix}{key}" for key in step.after),
                "when": {f"{prefix}{key}": label for key, label in step.when.items()},
            }
        )
        yield _node(placed, parent=parent)
        yield from _templates(step.body, parent=placed.key)


def _node(step: Step, *, parent: str | None, ways: Mapping[str, str] | None = None) -> Node:
    ways = ways or {}
    return Node(
        key=step.key,
        name=step.key if parent is None else step.key.removeprefix(f"{parent}/"),
        kind=step.kind,
        what=_what(step),
        title=step.title if step.title != step.instruction or step.kind != "gate" else "",
        edges=tuple(
            Edge(
                source=key,
                label=step.when.get(key, ""),
                is_taken=key not in step.when or key not in ways or ways[key] == step.when[key],
            )
            for key in step.after
        ),
        join=step.join,
        parent=parent,
        again=f"until {step.repeat.until} passes, at most {step.repeat.max_rounds}x" if step.repeat is not None else "",
    )


def _what(step: Step) -> str:
    if step.branch is not None:
        return f"branch by {step.branch.script or step.branch.role}"
    if step.map is not None:
        of = step.map.items.get(RESULT_OF) if isinstance(step.map.items, dict) else None
        items = f"over {of}" if of is not None else f"over {len(step.map.items)} items"  # type: ignore[arg-type]
        limits = [f"{step.map.max_parallel} at once"] if step.map.max_parallel else []
        limits += [f"{step.map.tolerated_failures} may fail"] if step.map.tolerated_failures else []
        return ", ".join([f"map {items}", *limits])
    if step.repeat is not None:
        return f"repeat until {step.repeat.until} passes, at most {step.repeat.max_rounds}x"
    if step.merge is not None:
        return f"merge, conflicts to {step.merge.role}" if step.merge.role else "merge"
    if step.celery_task is not None:
        return f"task {step.celery_task.task} on {step.celery_task.queue}"
    if step.kind == "gate":
        return f"asks: {step.instruction}"
    return f"{step.kind} {step.role or step.script or ''}".rstrip()


def _beside(nodes: Sequence[Node]) -> list[Node]:
    """Only edges between steps of the same body: what leads into a body, its owner's edges show.

    That an item of a map waits for another is not its meaning, but keeps them from being too many at once.
    """
    known = {node.key: node for node in nodes}
    return [
        replace(node, edges=tuple(edge for edge in node.edges if _is_beside(known.get(edge.source), node, known)))
        for node in nodes
    ]


def _is_beside(source: Node | None, node: Node, known: Mapping[str, Node]) -> bool:
    if source is None or source.parent != node.parent:
        return False
    is_of_map = node.parent is not None and known[node.parent].kind == "map"
    return not is_of_map or source.name.partition("/")[0] == node.name.partition("/")[0]


def _folded(nodes: Sequence[Node]) -> Iterator[Node]:
    """Of a step with very many children: those at which people look, and how many others there are."""
    instead: dict[str, Node] = {}
    gone: set[str | None] = set()
    for parent, children in Figure(nodes=tuple(nodes)).children().items():
        if parent is not None and len(children) > MOST_CHILDREN:
            lively = [node.key for node in children if node.status in LIVELY][: MOST_CHILDREN - 1]
            others = [node for node in children if node.key not in lively]
            instead[others[0].key] = _sum_of(others)
            gone |= {node.key for node in others}
    for node in nodes:
        if node.key in instead and node.parent not in gone:
            yield instead[node.key]
        elif node.key in gone or node.parent in gone:
            gone.add(node.key)
        else:
            yield replace(node, edges=tuple(edge for edge in node.edges if edge.source not in gone))


def _sum_of(nodes: Sequence[Node]) -> Node:
    counted = Counter(node.status for node in nodes)
    parent = nodes[0].parent
    return Node(
        key=f"{parent}/…",
        name=f"{len(nodes):,} more",
        kind="more",
        what=", ".join(f"{count:,} {status}" for status, count in counted.items()),
        parent=parent,
    )
