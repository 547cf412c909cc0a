"""Figures of this machine: `python3 scripts/dev.py bench [flow | relay]`.

A suite is a list of benches (`registry`); a bench is one module in `benches/` with `run(stage, rounds, scale)` that
returns figures and prints nothing. `stage` has the servers, `workers/` the processes that send and write, `peers/` the
other relays, `report/` what people look at. Nothing here knows a table of the product beside `rows` and `watch`.
"""
