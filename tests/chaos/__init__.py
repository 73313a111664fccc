"""A machine that is broken on purpose, a ledger outside it, and a checker that compares the two.

`make chaos SEED=1 STEPS=200 FAULTS=20` plays a story, `SIZE=long` one of hours; the system tests use the same parts:

- what is struck: `machine` (a whole laptop; a `forge` makes its workers cheap to kill), `wires` over `proxy` and
  `commits`, `disk`, `clock`, `model`
- what it does: `plans` of `scripts` and `errands`, submitted by a `submitter`, answered by `people`
- what strikes: a `nemesis` in a `scene`, with `process_`, `wire_` and `message_strikes`; `points` beside each commit of
  a `trapped` fleet and of `their_app`
- who saw it: the `ledger`, a `diary` of processes, `evidence` from Postgres
- who judges: the `checker`, by `journal_rules` and `world_rules` over a `case`; `mutations` prove it; a `trial` of a
  long story is held part by part, and a `patrol` looks at what has ended while it goes on
- `story` puts them together, `recovery` measures
"""
