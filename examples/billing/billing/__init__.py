"""A shop's billing: an app of its own, whose tasks are steps of a plan beside agents and people."""
