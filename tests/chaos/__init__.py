"""A machine that is broken on purpose, a ledger outside it, and a checker that compares the two.

`make chaos SEED=1 STEPS=200 FAULTS=20` plays a story; the system tests use the same parts:

- what is struck: `machine` (a whole laptop), `wires` over `proxy` and `commits`, `disk`, `clock`, `model`
- what it does: `plans` of `scripts` and `errands`, submitted by a `submitter`, answered by `people`
- what strikes: a `nemesis` in a `scene`, with `process_`, `wire_` and `message_strikes`; `points` beside each commit
- who saw it: the `ledger`, a `diary` of processes, `evidence` from Postgres
- who judges: the `checker`, by `journal_rules` and `world_rules` over a `case`; `mutations` prove it
- `story` puts them together, `recovery` measures
"""
