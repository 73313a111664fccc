"""Pictures of a plan or of a run: a figure is made of its steps, then drawn as text, as Mermaid or as SVG. Pure."""
