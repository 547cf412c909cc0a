"""One module a bench: `run(stage, rounds, scale)` returns its figures."""
