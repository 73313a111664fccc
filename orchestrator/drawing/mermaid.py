"""A figure as a Mermaid flowchart: shapes by kind, labels on edges, and in a run a class for each state."""

import re

from chargehand.orchestrator.drawing.figure import Edge, Figure, Node

MOST_CHARACTERS = 60
# Opening and closing of a node's shape, by kind.
SHAPES = {
    "agent": ("([", "])"),
    "script": ("[", "]"),
    "gate": ("{{", "}}"),
    "celery_task": ("[/", "/]"),
    "branch": ("{", "}"),
    "map": ("[[", "]]"),
    "repeat": ("[[", "]]"),
    "merge": ("[/", "\\]"),
    "more": ("[[", "]]"),
}
# Fill, line and text; dark enough to be read on both, and never the only sign: the state stands in the node.
STATES = {
    "open": "fill:#f1f3f5,stroke:#868e96,color:#212529",
    "running": "fill:#d0ebff,stroke:#1971c2,color:#0b3d66",
    "waiting": "fill:#fff3bf,stroke:#e67700,color:#663c00",
    "succeeded": "fill:#d3f9d8,stroke:#2b8a3e,color:#14451f",
    "failed": "fill:#ffe3e3,stroke:#c92a2a,color:#7a1414",
    "cancelled": "fill:#f3d9fa,stroke:#862e9c,color:#4a1758",
    "skipped": "fill:#ffffff,stroke:#adb5bd,color:#495057,stroke-dasharray:4 3",
    "superseded": "fill:#ffffff,stroke:#adb5bd,color:#495057,stroke-dasharray:1 3",
}
# Whatever might be markup, Markdown, or the end of a text. Mermaid writes characters as #number;
_SPECIAL = re.compile(r"""[^\w .,:/…“”←()+=?!–·-]""")


def draw_mermaid(figure: Figure) -> str:
    """The figure as text for a Mermaid code block; nothing in it is taken for markup."""
    ids = {node.key: f"n{number}" for number, node in enumerate(figure.nodes)}
    children = figure.children()
    lines = ["flowchart TD", *_body(children, None, ids, "  ")]
    for node in figure.nodes:
        lines += [f"  {_edge(edge, node, ids)}" for edge in node.edges]
        if node.again and (body := children.get(node.key)):
            ends = {inner.key for inner in body} - {key for inner in body for key in inner.after}
            starts = [inner for inner in body if not inner.edges]
            last = next((inner for inner in reversed(body) if inner.key in ends), None)
            # In a run the rounds stand there one after the other.
            if last is not None and starts and not last.status:
                lines.append(f'  {ids[last.key]} -. "{_escaped(node.again)}" .-> {ids[starts[0].key]}')
    if figure.is_run:
        lines += [f"  classDef {state} {style}" for state, style in STATES.items()]
        for state in STATES:
            members = [ids[node.key] for node in figure.nodes if node.status and state_of(node) == state]
            lines += [f"  class {','.join(members)} {state}"] if members else []
    return "\n".join(lines) + "\n"


def state_of(node: Node) -> str:
    """The status as far as it is drawn: what has not begun is open."""
    return node.status if node.status in STATES else "open"


def _body(children: dict[str | None, list[Node]], parent: str | None, ids: dict[str, str], indent: str) -> list[str]:
    lines: list[str] = []
    for node in children.get(parent, []):
        if node.key in children:
            # The second line of a title would lie behind the body.
            lines.append(f'{indent}subgraph {ids[node.key]} ["{_text(node, between=" · ")}"]')
            lines += _body(children, node.key, ids, f"{indent}  ")
            lines.append(f"{indent}end")
        else:
            opening, closing = SHAPES.get(node.kind, SHAPES["script"])
            lines.append(f'{indent}{ids[node.key]}{opening}"{_text(node)}"{closing}')
    return lines


def _edge(edge: Edge, node: Node, ids: dict[str, str]) -> str:
    said = edge.label or ("first" if node.join == "any" else "")
    label = f'|"{_escaped(said)}"|' if said else ""
    arrow = "-->" if edge.is_taken else "-.->"
    return f"{ids[edge.source]} {arrow}{label} {ids[node.key]}"


def _text(node: Node, *, between: str = "<br/>") -> str:
    parts = [node.name, node.what, node.title, node.status]
    return between.join(_escaped(part) for part in parts if part)


def _escaped(text: str) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
    return _SPECIAL.sub(lambda match: f"#{ord(match.group())};", text)
