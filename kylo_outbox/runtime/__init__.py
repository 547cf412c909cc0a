"""Running things: `run_once()` workers in loops, scheduled jobs, stop signals, waiting. The only door to APScheduler.

No business here: a worker says by its result how long it may be left alone.
"""
