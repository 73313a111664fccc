"""The script: what needs no judgement."""

from pydantic import BaseModel

from chargehand import script


class Weight(BaseModel):
    """What the scale says."""

    grams: int


@script(name="post_office.weigh")
def weigh(grams: int, box_grams: int = 0) -> Weight:
    """The parcel with its box."""
    return Weight(grams=grams + box_grams)
