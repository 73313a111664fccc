"""A changed copy of a frozen dataclass, for folds that make one for every row of a journal.

`dataclasses.replace` calls the constructor, which sets each field of a frozen class by itself: 5 µs for fifteen fields,
and most of what a fact cost the reducer. This copies the fields at once, in .7 µs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The same to a type checker, which then knows the names and types of the fields.
    from dataclasses import replace as changed
else:

    def changed(value, /, **changes):
        """What `dataclasses.replace` gives of a class that has no slots, no `__post_init__` and no `init=False`."""
        copy = object.__new__(type(value))
        fields = copy.__dict__
        fields.update(value.__dict__)
        fields.update(changes)
        return copy


__all__ = ["changed"]
